"""`edge link test`: how fast and how well a destination answers."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import click

from edge.cli.deciding import require_destination
from edge.cli.echo import describe_retrieval, received_kinds
from edge.cli.session import CommandSession, json_option
from edge.cli.tables import fail_unless, print_json, progress_bar, say
from edge.outbound.echo import Echo, proposals_for
from edge.outbound.link_test import (
    CT_IMAGES,
    DIRECTIVE_SECONDS,
    MOST_OBJECTS,
    TEST_PATIENT,
    LinkTest,
    SentTestObjects,
    run_link_test,
)
from edge.text import amount, size


@click.group(short_help="Test the link to a destination.")
def link() -> None:
    """Test the link to a destination.

    \b
    Example:  edge link test archive --send 50
    """


@link.command(short_help="Measure round trip, syntaxes and throughput.")
@click.argument("destination")
@click.option(
    "--send",
    "objects",
    type=click.IntRange(0, MOST_OBJECTS),
    default=0,
    metavar="N",
    help=f"Send N test images of 512 KiB, which stay in the archive as patient {TEST_PATIENT}.",
)
@json_option
@click.pass_obj
def test(session: CommandSession, destination: str, objects: int, as_json: bool) -> None:
    """Measure the round trip, what is negotiated, and, with --send, the real throughput.

    The throughput is compared with the directive: a CT of 300 images in 60 seconds. Exit 1 when the destination is not
    reachable, refuses the test images, or is slower than that.

    \b
    Examples:  edge link test archive
               edge link test archive --send 50
    """
    require_destination(session, destination)
    with progress_bar(f"testing {destination}"):
        kinds = proposals_for(received_kinds(session))
        found = run_link_test(session.config, session.config.destinations[destination], kinds, objects)
    if as_json:
        print_json(link_json(found))
    else:
        _print(found)
    fail_unless(found.error is None and (found.throughput is None or found.throughput.meets_directive))


def link_json(found: LinkTest) -> dict[str, Any]:
    """The result for programs."""
    sent = found.throughput
    return {
        "destination": found.echo.destination,
        "reachable": found.echo.reachable,
        "error": found.error,
        "associate_seconds": found.echo.associate_seconds,
        "round_trip_seconds": found.median_round_trip,
        "retrieval": [asdict(each) for each in found.echo.retrieval],
        "contexts": [
            {"sop_class": each.sop_class, "transfer_syntax": each.transfer_syntax, "accepted": each.accepted}
            for each in found.echo.contexts
        ],
        "sent": None
        if sent is None
        else {
            "objects": sent.objects,
            "bytes": sent.bytes,
            "seconds": round(sent.seconds, 3),
            "bytes_per_second": round(sent.bytes_per_second),
            "ct_seconds": sent.ct_seconds and round(sent.ct_seconds, 1),
            "meets_directive": sent.meets_directive,
            "study_uid": sent.study_uid,
        },
    }


def _print(found: LinkTest) -> None:
    for text, style in describe_link_test(found):
        say(text, style)


def describe_link_test(found: LinkTest) -> list[tuple[str, str]]:
    """The result for people: lines with their style."""
    echo = found.echo
    if not echo.reachable:
        return [(f"{echo.address} {echo.outage}: {found.error}.", "bold red")]
    lines = [(f"{echo.address} answers.", "bold green")]
    if (trip := found.median_round_trip) is not None:
        associated = (echo.associate_seconds or 0) * 1000
        what, question = ("connection", "QIDO-RS") if echo.url else ("association", "C-ECHO")
        lines.append((f"  {what} {associated:.0f} ms, {question} {trip * 1000:.1f} ms (median)", ""))
    if echo.proof_error is not None:
        lines.append((f"  does not prove arrival yet: {echo.proof_error}", "yellow"))
    lines += [(f"  {text}", style) for text, style in describe_retrieval(echo)]
    lines += [] if echo.url else _describe_contexts(echo)
    if found.error:
        lines.append((f"  {found.error}.", "bold red"))
    return lines if found.throughput is None else [*lines, *_describe_throughput(found.throughput)]


def _describe_contexts(echo: Echo) -> list[tuple[str, str]]:
    accepted = {each.sop_class for each in echo.contexts if each.accepted}
    refused = sorted({each.sop_class for each in echo.contexts} - accepted)
    lines = [(f"  accepts {amount(len(accepted), 'SOP class')} of those that this site has", "")]
    return [*lines, *((f"  does not accept {name}", "yellow") for name in refused)]


def _describe_throughput(sent: SentTestObjects) -> list[tuple[str, str]]:
    rate, is_met = f"{size(sent.bytes_per_second)}/s", sent.meets_directive
    seconds = "an unknown time" if sent.ct_seconds is None else f"{sent.ct_seconds:.0f} s"
    target = f"{'within' if is_met else 'NOT within'} the {DIRECTIVE_SECONDS:.0f} s of the directive"
    return [
        (f"  {amount(sent.objects, 'test image')}, {size(sent.bytes)} in {sent.seconds:.1f} s: {rate}", ""),
        (f"  a CT of {CT_IMAGES} images takes {seconds}: {target}", "green" if is_met else "bold red"),
        (f"  The test images are in the study {sent.study_uid}", ""),
        (f"  of patient {TEST_PATIENT}; delete them in the archive.", ""),
    ]
