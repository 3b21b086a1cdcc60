"""`edge init`: the first configuration of a site, by questions or options."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import click

from edge.cli.session import INSTALLED_CONFIG, CommandSession
from edge.cli.tables import say
from edge.config import edit, kinds
from edge.config.first import FirstAnswers, FirstPeer, first_files
from edge.config.sections import Config
from edge.config.values import Unfit, ValueKind
from edge.daemon.configuring import write_files
from edge.errors import ConfigError, EdgeError

T = TypeVar("T")

_INSTALLED_DATA = "/var/lib/edge"


@click.command(short_help="Write a first configuration.")
@click.option("--site-id", metavar="ID", help="The facility's identifier, which is sent upstream.")
@click.option("--site-name", metavar="NAME", help="For people; omitted: the identifier.")
@click.option("--ae-title", metavar="AE", help="The gateway's AE title.  [default: EDGE]")
@click.option("--port", type=click.IntRange(1, 65535), metavar="PORT", help="Where scanners send to.  [default: 11112]")
@click.option("--data-dir", metavar="DIR", help=f"Where images are kept.  [default: {_INSTALLED_DATA} where installed]")
@click.option("--archive", metavar="AE@HOST:PORT", help='Where images go; "none": decided later.')
@click.option("--confirm", type=click.Choice(["commitment", "query", "status"]), help="How the archive proves arrival.")
@click.option("--scanner", "scanners", multiple=True, metavar="AE@HOST[:PORT]", help="Who may send; repeat it.")
@click.option("--mail", metavar="ADDRESS@SERVER", help="Who is notified, such as anna@example.org@mail.example.org.")
@click.option("--yes", is_flag=True, help="Ask nothing; what is omitted has its default.")
@click.pass_obj
def init(
    session: CommandSession,
    site_id: str | None,
    site_name: str | None,
    ae_title: str | None,
    port: int | None,
    data_dir: str | None,
    archive: str | None,
    confirm: str | None,
    scanners: tuple[str, ...],
    mail: str | None,
    yes: bool,
) -> None:
    """Write the first configuration of a site, test the archive, and print what to tell the vendors.

    Asks for what the options do not say. Changes nothing where there is a configuration already.

    \b
    Examples:  edge init
               edge init --yes --site-id 0067 --archive VNA@10.1.2.3:104
    """
    directory = session.directory
    _require_empty(directory)
    asking = _Questions(not yes and sys.stdin.isatty())
    if not yes and not asking.at_terminal and site_id is None:
        raise click.UsageError("there is no terminal to ask at: name at least --site-id, and --yes")
    site_id = asking.ask("Identifier of the site (sent upstream)", site_id, "", _reader_of(kinds.TEXT))
    name = asking.ask("Name of the site", site_name, site_id, _reader_of(kinds.TEXT))
    found = asking.ask('Archive, as AE@HOST:PORT ("none": later)', archive, "none", _archive)
    proofs = "How the archive proves arrival (commitment, query, status)"
    default_data = _INSTALLED_DATA if directory == INSTALLED_CONFIG else "../.edge"
    answers = FirstAnswers(
        site_id=site_id,
        site_name=name,
        confirm=asking.ask(proofs, confirm, "query", _proof) if found else confirm or "status",
        archive=found,
        data_dir=asking.ask("Directory for images and catalog", data_dir, default_data, _reader_of(kinds.PATH)),
        ae_title=asking.ask("AE title of this gateway", ae_title, "EDGE", _reader_of(kinds.AE_TITLE)),
        port=asking.ask("Port for scanners", str(port) if port else None, "11112", _port),
        scanners=tuple(map(_scanner, scanners)) or tuple(asking.list("A scanner, as AE@HOST (empty: no more)")),
        **asking.ask("Who is notified, as ADDRESS@SERVER (empty: nobody)", mail, "", _mail),
    )
    config = _write(directory, first_files(answers))
    _test_archive(config)
    _print_vendor_sheet(config)
    _print_next(directory)


class _Questions:
    """Asks at the terminal for what no option says; again, where the answer cannot be read."""

    def __init__(self, at_terminal: bool) -> None:
        self.at_terminal = at_terminal

    def ask(self, question: str, given: str | None, default: str, read: Callable[[str], T]) -> T:
        """What `read` makes of the answer. It raises UsageError for one that it cannot read."""
        if given is not None or not self.at_terminal:
            return read(default if given is None else given)
        may_be_empty = question.endswith(("(empty: nobody)", "(empty: no more)"))
        shown = "" if may_be_empty else default or None
        answer: T = click.prompt(
            question, default=shown, show_default=bool(default), value_proc=lambda text: read(text.strip())
        )
        return answer

    def list(self, question: str) -> Iterator[FirstPeer]:
        read = lambda text: _scanner(text) if text else None  # noqa: E731
        while self.at_terminal and (found := self.ask(question, None, "", read)) is not None:
            yield found


def _reader_of(kind: ValueKind) -> Callable[[str], str]:
    """Reads a text that the configuration would take."""

    def read(text: str) -> str:
        try:
            kind.read(text)
        except Unfit as error:
            raise click.UsageError("; ".join(fault for _, fault in error.faults)) from None
        return text

    return read


def _port(text: str) -> int:
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise click.UsageError(f'expected a port from 1 to 65535, found "{text}"')
    return int(text)


def _proof(text: str) -> str:
    if text not in ("commitment", "query", "status"):
        raise click.UsageError(f'expected commitment, query or status, found "{text}"')
    return text


def _scanner(text: str) -> FirstPeer:
    return _peer(text, "--scanner")


def _require_empty(directory: Path) -> None:
    if directory.is_dir() and any(directory.glob("[!.]*.toml")):
        raise ConfigError(
            [f"there is a configuration in {directory} already, so nothing is written; `edge check` tests it"]
        )


def _archive(text: str) -> FirstPeer | None:
    return None if text in ("", "none") else _peer(text, "--archive", needs_port=True)


def _peer(text: str, option: str, *, needs_port: bool = False) -> FirstPeer:
    """AE@HOST or AE@HOST:PORT; an IPv6 address with a port is in brackets."""
    title, _, rest = text.rpartition("@")
    host, colon, port = rest.rpartition(":")
    if rest.count(":") > 1 and not rest.startswith("["):
        host, colon, port = rest, "", ""
    elif not colon:
        host, port = rest, ""
    if not title or not host or (port and not port.isdigit()) or (needs_port and not port):
        raise click.UsageError(f'{option}: expected {"AE@HOST:PORT" if needs_port else "AE@HOST"}, found "{text}"')
    host = host.strip("[]")
    _reader_of(kinds.AE_TITLE)(title)
    _reader_of(kinds.HOST if needs_port else kinds.NETWORK)(host)
    return FirstPeer(title, host, _port(port) if port else 0)


def _mail(text: str) -> dict[str, str]:
    if not text:
        return {}
    address, _, server = text.rpartition("@")
    if "@" not in address:
        raise click.UsageError(
            f'--mail: expected ADDRESS@SERVER, such as anna@example.org@mail.example.org, found "{text}"'
        )
    return {"mail_to": address, "mail_server": server}


def _write(directory: Path, files: dict[str, str]) -> Config:
    config = edit.check_files(files, directory)
    directory.mkdir(mode=0o750, parents=True, exist_ok=True)
    write_files(directory, {}, files)
    if os.geteuid() == 0 and directory == INSTALLED_CONFIG:
        for name in files:
            shutil.chown(directory / name, "root", "edge")
    say(f"Written to {directory}: {', '.join(files)}.", "bold green")
    return config


def _test_archive(config: Config) -> None:
    from edge.cli.echo import print_proof  # noqa: PLC0415
    from edge.outbound.echo import ask, proposals_for  # noqa: PLC0415 - DICOM takes time to load

    for destination in config.destinations.values():
        try:
            found = ask(config, destination, proposals_for([]))
        except EdgeError as error:
            say(f"The archive could not be tested: {error}.", "yellow")
            continue
        if not found.reachable:
            what = found.outage if found.refuses else f"{found.outage} yet"
            say(f"The archive {found.ae_title} at {found.host}:{found.port} {what}: {found.error}.", "yellow")
            continue
        taken = {each.sop_class for each in found.contexts if each.accepted}
        say(f"The archive {found.ae_title} answers, and takes {', '.join(sorted(taken)) or 'no image'}.", "green")
        print_proof(found)


def _print_vendor_sheet(config: Config) -> None:
    """What the vendors of scanners and archive need to know."""
    addresses = " or ".join(own_addresses()) or "the address of this machine"
    listen = config.listen
    say("")
    say("For the vendors of the scanners:", "bold")
    say(f"  AE title {listen.ae_title}, address {addresses}, port {listen.port}; C-STORE, C-ECHO, storage commitment")
    for destination in config.destinations.values():
        say("For the administrator of the archive:", "bold")
        say(f"  calling AE title {listen.ae_title}, from {addresses}; it needs C-STORE and C-ECHO", "")
        if destination.confirm == "commitment":
            say(f"  storage commitment reports to {listen.ae_title} at {addresses}, port {listen.port}")
        if destination.confirm == "query":
            say("  C-FIND at IMAGE level (Study Root), by which arrival is proved")


def _print_next(directory: Path) -> None:
    """What to type next; where other commands would look elsewhere for the configuration, with its directory."""
    where = "" if directory == INSTALLED_CONFIG else f" --config {directory}"
    start = f"edge run{where}" if where else "sudo systemctl enable --now edge"
    steps = [
        (f"edge check{where}", "tests the files"),
        (start, "starts the gateway"),
        (f"edge console setup{where}", "prints a link to create the first account"),
    ]
    width = max(len(command) for command, _ in steps)
    say("")
    say("Next:", "bold")
    for command, what in steps:
        say(f"  {command:{width}}  {what}")


def own_addresses() -> list[str]:
    """The addresses of this machine's interfaces by which others reach it."""
    import psutil  # noqa: PLC0415 - only here

    found = [
        each.address
        for each_list in psutil.net_if_addrs().values()
        for each in each_list
        if each.family in (socket.AF_INET, socket.AF_INET6)
    ]
    return sorted({each for each in found if not each.startswith(("127.", "::1", "fe80:"))})
