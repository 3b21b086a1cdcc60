"""`edge recover`: a catalog made anew."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.console import Console
from rich.status import Status

from edge.cli.session import Session, config_option, json_option, login
from edge.cli.tables import Cell, print_json, print_table, say
from edge.intake import Policy
from edge.storage.rebuild import Told
from edge.storage.rebuild import recover as rebuild


@click.command(short_help="Make a damaged or lost catalog anew.")
@json_option
@config_option
@click.pass_obj
def recover(session: Session, as_json: bool) -> None:
    """Make a damaged or lost catalog anew, of what can be read of it, its journal, and the spooled files.

    The gateway must be stopped. The damaged catalog is kept in the data directory, below `damaged`. What the ledger
    says was sent is not sent again; of what no witness is left for, an archive may get a copy once more: to it, that
    is a duplicate. Exit 1 where anything is missing that was known before.

    \b
    Example:  edge recover      (installed: systemctl stop edge; sudo -u edge edge recover; systemctl start edge)
    """
    beside = Console(stderr=True)
    with session.locked(), Status("recovering", console=beside) as status:
        status.start() if beside.is_terminal else status.stop()
        told = rebuild(
            session.data_dir,
            Policy.of(session.config),
            login(),
            lambda what, n: status.update(f"recovering: {n:,} {what}"),
        )
    if as_json:
        print_json(asdict(told))
    else:
        _print(told)
    if told.ledger_missing or told.lost or told.unreadable:
        raise SystemExit(1)


def _print(told: Told) -> None:
    say("The catalog is made anew. Start the gateway.", "bold green")
    rows: list[list[Cell]] = [
        ["rows of the custody ledger", told.ledger_rows, _missing(told.ledger_missing)],
        ["studies", told.studies, ""],
        [
            "instances restored",
            told.instances,
            f"{told.lost:,} of them lost: their files are gone" if told.lost else "",
        ],
        ["files adopted", told.adopted, "by their own heads; sent again" if told.adopted else ""],
        ["files that cannot be read", told.unreadable, "left where they are" if told.unreadable else ""],
        ["deliveries restored", told.deliveries, ""],
        ["deliveries begun anew", told.queued, "an archive may get them twice" if told.queued else ""],
    ]
    print_table(["what", "how many", "note"], rows)
    say(f"What was found of the former catalog is kept in {told.kept}.")


def _missing(rows: int) -> str:
    return f"{rows:,} are missing: `edge ledger verify` names the first" if rows else ""
