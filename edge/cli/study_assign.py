"""`edge studies assign`: a person decides whose the held images of a study are."""

from __future__ import annotations

from typing import Any

import click

from edge.cli.deciding import reason_option
from edge.cli.session import CommandSession, json_option, login
from edge.cli.tables import print_json, say
from edge.store.assignments import AS_IS, ASSIGN, DO_NOT_SEND
from edge.text import amount


@click.command("assign", short_help="Decide whose a study's held images are.")
@click.argument("study_uid")
@click.option("--patient", default="", metavar="ID", help="They are this patient's (a Patient ID that a feed knows).")
@click.option("--authority", default="", metavar="NAME", help="Who assigned that ID, where several have it.")
@click.option("--as-is", "as_is", is_flag=True, help="They are sent as they are.")
@click.option("--do-not-send", "do_not_send", is_flag=True, help="They are not sent; they stay here.")
@reason_option
@json_option
@click.pass_obj
def assign(
    session: CommandSession,
    study_uid: str,
    patient: str,
    authority: str,
    as_is: bool,
    do_not_send: bool,
    reason: str,
    as_json: bool,
) -> None:
    """Decide about the images of a study that are held because their patient differs.

    With --patient every copy that leaves from now on carries that patient's facts of today; what is kept stays as it
    came. What a destination already has is not sent again.

    \b
    Examples:  edge studies assign 1.2.3 --patient T0102 --reason "typing error"
               edge studies assign 1.2.3 --as-is --reason "the order was wrong"
               edge studies assign 1.2.3 --do-not-send --reason "a test"
    """
    if bool(patient) + as_is + do_not_send != 1:
        raise click.UsageError("choose one of --patient, --as-is and --do-not-send")
    decision = ASSIGN if patient else AS_IS if as_is else DO_NOT_SEND
    fields = {"study_uid": study_uid, "decision": decision, "patient": patient, "authority": authority}
    answer = _decide(session, {**fields, "reason": reason})
    if as_json:
        print_json({key: answer[key] for key in ("images", "done")})
        return
    what = "cancelled" if do_not_send else "released"
    say(f"{amount(answer['images'], 'held image')} of the study; {answer['done']:,} {what}.")


def _decide(session: CommandSession, fields: dict[str, Any]) -> dict[str, Any]:
    if session.daemon_runs:
        return session.ask("study-decide", **fields)
    from edge.cli.instances import open_releaser  # noqa: PLC0415
    from edge.daemon.identity_changes import decide_study  # noqa: PLC0415 - with all that can be changed

    with open_releaser(session) as releaser:
        return decide_study(releaser, {**fields, "who": login()})
