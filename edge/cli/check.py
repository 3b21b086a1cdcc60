"""`edge check`, `edge version`."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import click

from edge import __version__, secret, tls
from edge.cli.session import OtherVersion, Session, config_option
from edge.cli.tables import say
from edge.config import load
from edge.config.sections import Config
from edge.errors import ConfigError, EdgeError
from edge.monitor.config_warnings import placed, room_warnings, warnings
from edge.monitor.encryption import encryption_of
from edge.monitor.health import disk_of
from edge.monitor.strict import Finding, findings
from edge.store.destinations import gone_with_work
from edge.store.queries import daily_bytes, senders
from edge.text import counted
from edge.tls import Keyring, TlsError


@click.command(short_help="Check the configuration.")
@click.option("--strict", is_flag=True, help="Name also what a site with high demands forbids; exit 1 if there is any.")
@config_option
@click.pass_obj
def check(session: Session, strict: bool) -> None:
    """Check the configuration: every mistake with file and line, and what is legal but strange.

    Nothing is changed, and a running gateway does not notice. Exit 2 when there is a mistake. With --strict: whatever
    is in clear, known by its title alone, or on a disk that is not encrypted, a line each that begins with a code.

    \b
    Example:  edge check && sudo systemctl reload edge
              edge check --strict
    """
    config = load(session.directory)
    found = [*_certificates(session, config), *_heartbeat_key(session, config), *_warnings(session, config)]
    say(f"The configuration in {session.directory} is good: {_summary(config)}.")
    for warning in found:
        say(f"warning: {warning}", "yellow")
    if strict:
        _say_findings(findings(config, encryption_of(config.site.data_dir)), config)


def _say_findings(found: list[Finding], config: Config) -> None:
    for each in found:
        say(f"{each.code}: {placed(config, each.key, each.text)}", "red")
    if found:
        raise SystemExit(1)
    say("Nothing that --strict forbids.")


def _summary(config: Config) -> str:
    told = (
        counted(len(config.modalities), "modality"),
        counted(len(config.destinations), "destination"),
        counted(len(config.routes), "route"),
        counted(len(config.holds), "hold"),
    )
    return ", ".join(told)


def _certificates(session: Session, config: Config) -> list[str]:
    """What is strange about the files of [tls]. Raises ConfigError where they cannot be used."""
    if not config.tls.is_on:
        return []
    try:
        Keyring(config.tls)
    except TlsError as error:
        key = config.tls.key
        if error.key != "key" or key is None or os.access(key, os.R_OK):
            raise ConfigError([tls.placed(config, error.key, error.text)]) from None
        text = f"{error.text}; run this as root, or as edge"
        if key.parent == session.directory and not key.exists():
            text = f"{key} is not there; where it is a systemd credential, only the service can see it"
        return [tls.placed(config, "key", text)]
    return [tls.placed(config, key, text) for key, text in tls.remarks(config.tls, time.time())]


def _heartbeat_key(session: Session, config: Config) -> Iterator[str]:
    """A key that the centre would refuse. One that only the service can read is not judged."""
    name = config.heartbeat.key
    if name is None:
        return
    path = secret.path_of(name, session.directory)
    if not os.access(path, os.R_OK):
        return
    try:
        secret.read_key(path)
    except secret.SecretError as error:
        place = config.lines.get("heartbeat.key", "heartbeat")
        yield f"{place}: heartbeat.key: {error}"


def _warnings(session: Session, config: Config) -> list[str]:
    found = disk_of(config.site.data_dir)
    disk = found.total_bytes, found.free_bytes
    refusals = room_warnings(config, found, _refusing(session))
    if not session.has_catalog:
        return [*refusals, *warnings(config, disk=disk)]
    try:
        with session.quiet_catalog() as conn:
            gone = gone_with_work(conn, list(config.destinations))
            return [*refusals, *warnings(config, senders(conn), disk, daily_bytes(conn, time.time()), gone)]
    except OtherVersion as error:
        return [*refusals, *warnings(config, disk=disk), str(error)]


def _refusing(session: Session) -> list[str]:
    """What refuses scanners at the running gateway, by code; nothing where none runs."""
    try:
        return [each["cause"] for each in session.ask("status")["status"].get("refusing", [])]
    except EdgeError:
        return []


@click.command()
@config_option
def version() -> None:
    """Print the version.

    \b
    Example:  edge version
    """
    click.echo(f"edge {__version__}")
