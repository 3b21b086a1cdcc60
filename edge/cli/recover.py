"""`edge recover`: rebuild the catalog."""

from __future__ import annotations

from dataclasses import asdict

import click
from rich.console import Console
from rich.status import Status

from edge.cli.session import CATALOG_FILE, CommandSession, json_option, login
from edge.cli.tables import Cell, fail_unless, print_json, print_table, say
from edge.intake.policy import Policy
from edge.storage.putting_back import put_back, reads_this_catalog
from edge.storage.rebuild import recover as rebuild
from edge.storage.rebuild.job import RebuildReport


@click.command(short_help="Rebuild a damaged or lost catalog.")
@click.option("--back-to", metavar="VERSION", help="Put back the catalog that the upgrade from VERSION has kept.")
@json_option
@click.pass_obj
def recover(session: CommandSession, back_to: str | None, as_json: bool) -> None:
    """Rebuild a damaged or lost catalog from its readable parts, the ledger copy, and the stored files.

    The gateway must be stopped. The damaged catalog is kept in the data directory, below `damaged`. Images that the
    ledger records as sent are not sent again; an archive may get other images a second time, as duplicates. Exit 1
    where rows or files are missing that were known before.

    With --back-to, nothing is rebuilt: before an older release is installed again, its catalog is put back. See
    "Back to the older release" in the manual.

    \b
    Example:    edge recover
    Installed:  systemctl stop edge
                sudo -u edge edge recover
                systemctl start edge
    """
    if back_to is not None:
        return _put_back(session, back_to, as_json)
    beside = Console(stderr=True)
    with session.lock_data_dir(), Status("recovering", console=beside) as status:
        status.start() if beside.is_terminal else status.stop()
        found = rebuild(
            session.data_dir,
            Policy.from_config(session.config),
            login(),
            lambda what, n: status.update(f"recovering: {n:,} {what}"),
        )
    if as_json:
        print_json(asdict(found))
    else:
        _print(found)
    fail_unless(not (found.ledger_missing or found.lost or found.unreadable))


def _put_back(session: CommandSession, release: str, as_json: bool) -> None:
    try:
        is_needed = not reads_this_catalog(release)
    except ValueError:
        raise click.BadParameter(f"{release} is not a version, such as 0.1.0", param_hint="--back-to") from None
    aside = None
    if is_needed:
        with session.lock_data_dir():
            aside = put_back(session.data_dir / CATALOG_FILE)
    if as_json:
        print_json({"kept": str(aside) if aside else None})
    elif aside is None:
        say(f"{release} reads this catalog as it is: install it.")
    else:
        say(f"The catalog from before the upgrade is back. Install {release} before the next start.", "bold green")
        say(f"Images that came since are imported and sent again. The newer catalog is kept in {aside}.")


def _print(found: RebuildReport) -> None:
    say("The catalog is rebuilt. Start the gateway.", "bold green")
    rows: list[list[Cell]] = [
        ["rows of the custody ledger", found.ledger_rows, _missing(found.ledger_missing)],
        ["studies", found.studies, ""],
        [
            "instances restored",
            found.instances,
            f"{found.lost:,} of them without a file" if found.lost else "",
        ],
        ["files imported", found.adopted, "by their own headers; sent again" if found.adopted else ""],
        ["files that cannot be read", found.unreadable, "left in place" if found.unreadable else ""],
        ["deliveries restored", found.deliveries, ""],
        ["deliveries requeued", found.queued, "an archive may get duplicates" if found.queued else ""],
    ]
    print_table(["recovered", "number", "note"], rows)
    say(f"The former catalog is kept in {found.kept}.")


def _missing(rows: int) -> str:
    return f"{rows:,} missing: `edge ledger verify` names the first" if rows else ""
