"""`edge studies hold`, `unhold` and `holds`: studies that a person keeps for a legal reason."""

from __future__ import annotations

from dataclasses import asdict

import click

from edge.cli.deciding import reason_option
from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Columns, print_list, say
from edge.store import legal_holds
from edge.store.legal_holds import LegalHold
from edge.text import end_of_date, iso_or_none, local_day

_COLUMNS: Columns[LegalHold] = {
    "placed": lambda each: local_day(each.placed_at),
    "by": lambda each: each.owner,
    "until": lambda each: local_day(each.ends_at - 1) if each.ends_at else "released",
    "state": lambda each: "active" if each.ended_at is None else f"over since {local_day(each.ended_at)}",
    "reason": lambda each: each.reason,
    "study UID": lambda each: each.study_uid,
}


def _parse_until(_ctx: click.Context, _param: click.Parameter, text: str | None) -> float | None:
    try:
        return None if text is None else end_of_date(text)
    except ValueError:
        raise click.BadParameter(f'expected a day such as 2027-03-01, found "{text}"') from None


@click.command("hold", short_help="Place a study under a legal hold.")
@click.argument("study_uid")
@reason_option
@click.option(
    "--until", callback=_parse_until, metavar="DATE", help="The last day of the hold; without it: until unhold."
)
@click.pass_obj
def hold(session: CommandSession, study_uid: str, reason: str, until: float | None) -> None:
    """Place a study under a legal hold: its images here are not evicted or deleted, and later ones neither.

    It ends with `edge studies unhold`, or after the day of --until. Who placed it, when, why and its end are in the
    custody ledger. What was evicted before is not here: ask the archive to keep it.

    \b
    Example:  edge studies hold 1.2.840.113619.2.55 --reason "case 17/442" \\
                --until 2027-12-31
    """
    answer = session.change("study-hold", study_uid=study_uid, reason=reason, ends_at=until)
    say(f"Study {study_uid} is under a legal hold{f' until {local_day(until - 1)}' if until else ''}.", "bold green")
    if answer["evicted"]:
        say(f"{answer['evicted']:,} of its images were evicted before and are not here; its destinations have them.")
    if answer["damage"]:
        say(f"The hold counts for what comes again. What was here is in a yearly file: {answer['damage']}.", "yellow")
        say("Put that file back from a copy, or let `edge recover` go on without it.")


@click.command("unhold", short_help="Release a study from its legal hold.")
@click.argument("study_uid")
@reason_option
@click.pass_obj
def unhold(session: CommandSession, study_uid: str, reason: str) -> None:
    """Release a study from its legal hold; from now on the rules of retention apply.

    \b
    Example:  edge studies unhold 1.2.840.113619.2.55 --reason "case closed"
    """
    session.change("study-unhold", study_uid=study_uid, reason=reason)
    say(f"The legal hold of study {study_uid} is over.", "bold green")


@click.command("holds", short_help="List legal holds.")
@click.option("--all", "ended", is_flag=True, help="Also those that are over.")
@json_option
@click.pass_obj
def holds(session: CommandSession, ended: bool, as_json: bool) -> None:
    """List the studies under a legal hold, with owner, reason and end.

    \b
    Examples:  edge studies holds
               edge studies holds --all --json > holds.json
    """
    with session.catalog() as conn:
        found = legal_holds.list_holds(conn, ended=ended)
    print_list(found, _COLUMNS, "No study is under a legal hold.", as_json=as_json, json_of=_json)


_MOMENTS = ("placed_at", "ends_at", "ended_at")


def _json(each: LegalHold) -> dict[str, object]:
    return {name: iso_or_none(value) if name in _MOMENTS else value for name, value in asdict(each).items()}


HOLD_COMMANDS = (hold, unhold, holds)
