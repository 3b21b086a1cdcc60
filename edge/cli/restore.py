"""`edge restore`: bring images back from a destination that has a copy."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.status import Status

from edge.cli.session import CommandSession, json_option, login
from edge.cli.tables import Cell, fail_unless, print_json, print_table, say
from edge.errors import EdgeError
from edge.intake import Intake
from edge.intake.policy import Policy
from edge.spool import Spool
from edge.storage.restore import Restoration, Restorer
from edge.store import legal_holds, restored
from edge.store.database import Store, Transaction
from edge.text import amount, from_iso, size, span

_DAY = 86400.0


@click.command(short_help="Bring images back from a copy, such as a second site.")
@click.option("--from", "source", required=True, metavar="NAME", help="The [destination.NAME] that has the copy.")
@click.option("--days", type=click.IntRange(1), help="Studies of the last days.  [default: its keep_last, else all]")
@click.option(
    "--holds",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Legal holds, as `edge studies holds --json` wrote them.",
)
@json_option
@click.pass_obj
def restore(session: CommandSession, source: str, days: int | None, holds: Path | None, as_json: bool) -> None:
    """Bring images back into an empty gateway from a destination that has a copy, by C-FIND and C-GET.

    The gateway must be stopped. What is here already is left alone: a restore that was interrupted goes on when it is
    typed again. Nothing is sent again to a destination that proves having it; after the start each is asked, and gets
    exactly what it lacks. Exit 1 where something listed did not come.

    \b
    Example:  edge restore --from second-site
    """
    config = session.config
    if source not in config.destinations:
        names = ", ".join(config.destinations) or "none"
        raise click.BadParameter(f'there is no destination "{source}"; there are: {names}', param_hint="--from")
    keep_last = config.destinations[source].keep_last
    dates = dates_of(time.time(), days if days is not None else keep_last and keep_last / _DAY)
    beside = Console(stderr=True)
    with session.store() as database, Status("restoring", console=beside) as status:
        status.start() if beside.is_terminal else status.stop()
        spool = Spool(session.data_dir)
        try:
            intake = Intake(database, spool, Policy.from_config(config))
            report = lambda done: status.update(f"restoring: {_progress(done)}")  # noqa: E731
            restorer = Restorer(database, spool, intake, config, source, report)
            held = _restore_holds(database, holds) if holds else 0
            done = restorer.restore_all(dates)
            database.write(lambda conn: restored.note_restored(conn, time.time()))
        finally:
            spool.close()
    if as_json:
        print_json({**asdict(done), "holds": held})
    else:
        _print(done, held)
    fail_unless(not (done.faults or done.missing))


def dates_of(now: float, days: float | None) -> str:
    """A range of Study Date (PS3.4 section C.2.2.2.5) for studies of the last days; empty: all."""
    return "" if days is None else time.strftime("%Y%m%d-", time.localtime(now - days * _DAY))


def _restore_holds(database: Store, path: Path) -> int:
    """Place the active holds of a file; those that are placed already stay. Returns how many were placed."""
    try:
        listed = [each for each in json.loads(path.read_text("utf-8")) if each["ended_at"] is None]
        named = [(each["study_uid"], each["owner"], each["reason"], each["ends_at"]) for each in listed]
    except (ValueError, TypeError, KeyError):
        raise EdgeError(f"{path} is not what `edge studies holds --json` writes") from None
    now, who = time.time(), login()

    def work(conn: Transaction) -> int:
        count = 0
        for uid, owner, reason, ends in named:
            end = None if ends is None else from_iso(ends)
            if not legal_holds.is_held(conn, uid) and (end is None or end > now):
                legal_holds.place_hold(conn, uid, now, owner, f"{reason} (restored by {who})", end)
                count += 1
        return count

    return database.write(work)


def _progress(done: Restoration) -> str:
    return f"{done.studies_done:,} of {amount(done.studies, 'study')}, {amount(done.instances, 'image')}"


def _print(done: Restoration, held: int) -> None:
    rate = f", {size(done.octets / done.seconds)}/s" if done.seconds > 0 and done.octets else ""
    what = f"{amount(done.instances, 'image')} of {amount(done.studies, 'study')} restored from {done.source}"
    say(f"{what} in {span(done.seconds)} ({size(done.octets)}{rate}).", "bold green" if not done.faults else "yellow")
    rows: list[list[Cell]] = [
        ["images that were here already", done.already_here, ""],
        ["listed, and not given", done.missing, "type the command again" if done.missing else ""],
        ["studies with a fault", len(done.faults), done.faults[0] if done.faults else ""],
        ["legal holds", held, ""],
    ]
    rows += [[f"sent again to {name}", n, "it cannot be asked"] for name, n in sorted(done.sent_again.items())]
    print_table(["restored", "number", "note"], rows)
    say("Start the gateway: each destination is asked what it has, and gets what it lacks.")
