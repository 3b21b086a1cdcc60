"""`edge restore`: bring images back from a destination that has a copy."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import click
from rich.console import Console
from rich.status import Status

from edge.cli.session import CommandSession, json_option, print_note
from edge.cli.tables import Cell, fail_unless, print_json, print_table, say
from edge.daemon.restoring import restore_from
from edge.errors import EdgeError
from edge.intake import Intake
from edge.intake.policy import Policy
from edge.spool import Spool
from edge.storage.lost_gateway import LostGateway, read_ledger_copy
from edge.storage.restore import Restoration
from edge.store import legal_holds, restored
from edge.text import amount, from_iso, size, span

_DAY = 86400.0
#: From one question to the next.
_ASK_SECONDS = 0.5


@click.command(short_help="Bring images back from a copy, such as a second site.")
@click.option("--from", "source", required=True, metavar="NAME", help="The [destination.NAME] that has the copy.")
@click.option("--days", type=click.IntRange(1), help="Studies of the last days.  [default: its keep_last, else all]")
@click.option(
    "--holds",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Legal holds, as `edge studies holds --json` wrote them.",
)
@click.option(
    "--ledger",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A copy of the lost gateway's ledger: its folder data_dir/journal.",
)
@json_option
@click.pass_obj
def restore(
    session: CommandSession, source: str, days: int | None, holds: Path | None, ledger: Path | None, as_json: bool
) -> None:
    """Bring images back into a gateway from a destination that has a copy: by C-FIND and C-GET, or by DICOMweb.

    The gateway may run, and goes on receiving. Images that it has already are skipped, so an interrupted restore is
    continued by the same command. Each destination is asked what it has, and gets exactly what it lacks. With --ledger
    each image gets its former sender and time, and legal holds are placed again. Exit 1 when a listed image did not
    come.

    \b
    Examples:  edge restore --from second-site
               edge restore --from second-site --ledger /mnt/backup/journal
    """
    config = session.config
    if source not in config.destinations:
        names = ", ".join(config.destinations) or "none"
        raise click.BadParameter(f'there is no destination "{source}"; there are: {names}', param_hint="--from")
    keep_last = config.destinations[source].keep_last
    dates = dates_of(time.time(), days if days is not None else keep_last and keep_last / _DAY)
    beside = Console(stderr=True)
    with Status("restoring", console=beside) as status:
        status.start() if beside.is_terminal else status.stop()
        report = lambda done: status.update(f"restoring: {_progress(done)}")  # noqa: E731
        listed = _read_holds(holds) if holds else []
        if session.daemon_runs:
            done = _follow(session, source, dates, ledger, report)
        else:
            done = _restore_here(session, source, dates, ledger, report)
    held = _place_holds(session, listed)
    if as_json:
        print_json({**asdict(done), "holds": held})
    else:
        _print(done, held)
    fail_unless(not (done.faults or done.missing))


def _follow(
    session: CommandSession, source: str, dates: str, ledger: Path | None, report: Callable[[Restoration], object]
) -> Restoration:
    """Have the running gateway restore, and wait for it."""
    named = str(ledger.absolute()) if ledger else ""
    session.ask("restore-begin", source=source, dates=dates, ledger=named)
    while True:
        state = session.ask("restore-state")
        done = Restoration(**state["done"])
        report(done)
        if not state["running"]:
            break
        time.sleep(_ASK_SECONDS)
    if state["failure"]:
        raise EdgeError(state["failure"])
    return done


def _restore_here(
    session: CommandSession, source: str, dates: str, ledger: Path | None, report: Callable[[Restoration], object]
) -> Restoration:
    """Restore while the gateway is stopped."""
    lost = read_ledger_copy(ledger) if ledger else LostGateway()
    with session.store() as database, closing(Spool(session.data_dir)) as spool:
        intake = Intake(database, spool, Policy.from_config(session.config))
        done = restore_from(database, spool, intake, session.config, source, lost, report).restore_all(dates)
        database.write(lambda conn: restored.note_restored(conn, time.time()))
    return done


def dates_of(now: float, days: float | None) -> str:
    """A range of Study Date (PS3.4 section C.2.2.2.5) for studies of the last days; empty: all."""
    return "" if days is None else time.strftime("%Y%m%d-", time.localtime(now - days * _DAY))


def _read_holds(path: Path) -> list[dict[str, object]]:
    """The active holds of a file."""
    try:
        listed = [each for each in json.loads(path.read_text("utf-8")) if each["ended_at"] is None]
        return [
            {
                "study_uid": each["study_uid"],
                "reason": f"{each['reason']} (of {each['owner']}, restored)",
                "ends_at": None if each["ends_at"] is None else from_iso(each["ends_at"]),
            }
            for each in listed
        ]
    except (ValueError, TypeError, KeyError):
        raise EdgeError(f"{path} is not what `edge studies holds --json` writes") from None


def _place_holds(session: CommandSession, listed: list[dict[str, object]]) -> int:
    """Place them; those that are placed already, or are over, stay as they are. Returns how many are active now."""
    for each in listed:
        try:
            session.change("study-hold", **each)
        except EdgeError as error:
            print_note(str(error))
    with session.quiet_catalog() as conn:
        return legal_holds.count_active(conn)


def _progress(done: Restoration) -> str:
    return f"{done.studies_done:,} of {amount(done.studies, 'study')}, {amount(done.instances, 'image')}"


def _print(done: Restoration, held: int) -> None:
    rate = f", {size(done.octets / done.seconds)}/s" if done.seconds > 0 and done.octets else ""
    what = f"{amount(done.instances, 'image')} of {amount(done.studies, 'study')} restored from {done.source}"
    say(f"{what} in {span(done.seconds)} ({size(done.octets)}{rate}).", "bold green" if not done.faults else "yellow")
    rows: list[list[Cell]] = [
        ["with former sender and time", done.with_origin, "" if done.with_origin else "--ledger has them"],
        ["images that were here already", done.already_here, ""],
        ["listed, and not given", done.missing, "type the command again" if done.missing else ""],
        ["studies with a fault", len(done.faults), done.faults[0] if done.faults else ""],
        ["active legal holds", held, ""],
    ]
    rows += [[f"sent again to {name}", n, "it cannot be asked"] for name, n in sorted(done.sent_again.items())]
    print_table(["restored", "number", "note"], rows)
    say("Each destination is asked what it has, and gets what it lacks, once the gateway runs.")
