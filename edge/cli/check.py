"""`edge check`, `edge version`."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from edge import __version__
from edge.cli.session import CommandSession, OtherVersion
from edge.cli.tables import say
from edge.config import load_config, secret
from edge.config.files import Key, fault_line
from edge.config.sections import Config
from edge.errors import EdgeError
from edge.monitor.config_warnings import room_warnings, warnings
from edge.monitor.encryption import encryption_of
from edge.monitor.exposure_warnings import secret_warnings
from edge.monitor.strict import Finding, findings
from edge.network import tls
from edge.network.tls import Keyring, TlsError, find_unreadable_files
from edge.spool.room import disk_of
from edge.store.destinations import list_kept_proofs, list_removed_destinations
from edge.store.peers import admitted_callers, senders
from edge.store.tallies import daily_bytes
from edge.text import amount
from edge.web.client_certificates import page_context
from edge.web.ocsp import OPENSSL


@click.command(short_help="Check the configuration.")
@click.option(
    "--strict", is_flag=True, help="Also report violations of strict security rules; exit 1 if there are any."
)
@click.pass_obj
def check(session: CommandSession, strict: bool) -> None:
    """Check the configuration: mistakes with file and line, and valid settings that are probably unintended.

    Changes nothing, and does not affect a running gateway. Exit 2 when there is a mistake. --strict also reports, each
    with a code, what is unencrypted in transit or on disk, and callers that are identified by their AE title only.

    \b
    Examples:  edge check && sudo systemctl reload edge
               edge check --strict
    """
    config = load_config(session.directory)
    found = [
        *_certificates(session, config),
        *_console_files(session, config),
        *_heartbeat_key(session, config),
        *_project_keys(config),
        *_web_secrets(config),
        *secret_warnings(config, session.directory),
    ]
    found += _warnings(session, config)
    say(f"The configuration in {session.directory} is valid: {_summary(config)}.")
    for warning in found:
        say(f"warning: {warning}", "yellow")
    if session.has_unread_files():
        say("The gateway runs with other files: `systemctl reload edge` lets it read these.", "yellow")
    if strict:
        _say_findings(findings(config, encryption_of(config.site.data_dir)), config)


def _say_findings(found: list[Finding], config: Config) -> None:
    for each in found:
        say(f"{each.code}: {fault_line(config.lines, each.key, each.text)}", "red")
    if found:
        raise SystemExit(1)
    say("No violation of the strict rules.")


def _summary(config: Config) -> str:
    return ", ".join(
        (
            amount(len(config.modalities), "modality"),
            amount(len(config.destinations), "destination"),
            amount(len(config.routes), "route"),
            amount(len(config.holds), "hold"),
        )
    )


def _certificates(session: CommandSession, config: Config) -> list[str]:
    """Warnings about the files of [tls]. Raises ConfigError where they cannot be used."""
    if not config.tls.is_on:
        return []
    try:
        Keyring(config.tls)
    except TlsError as error:
        key = config.tls.key
        is_key_alone = error.key == "key" and [each.key for each in find_unreadable_files(config.tls)] == ["key"]
        if key is None or not is_key_alone:
            raise error.as_config_error(config) from None
        text = f"{error.text}; run this as root, or as edge"
        if key.parent == session.directory and not key.exists():
            text = f"{key} does not exist; if it is a systemd credential, only the service can read it"
        return [fault_line(config.lines, ("tls", "key"), text)]
    return [fault_line(config.lines, ("tls", key), text) for key, text in tls.expiry_warnings(config.tls, time.time())]


def _console_files(session: CommandSession, config: Config) -> Iterator[str]:
    """Warn of the console's own TLS files that cannot be used, have expired or expire soon, and of useless OCSP."""
    console = config.console
    named = {
        name: secret.path_of(value, session.directory) for name in _CONSOLE_FILES if (value := getattr(console, name))
    }
    for name, path in named.items():
        key = ("console", name)
        if path.exists() and not os.access(path, os.R_OK):
            continue  # the service can read it
        try:
            if name == "key":
                secret.read_secret(path)
                continue
            end = tls.expires(path)
        except (secret.SecretError, TlsError, OSError) as error:
            text = error.text if isinstance(error, TlsError) else str(error)
            yield fault_line(config.lines, key, f"{path} cannot be used: {text}")
            continue
        soon = tls.SOON_SECONDS["crl" if name == "client_crl" else "certificate"]
        if end - time.time() < soon:
            yield fault_line(
                config.lines,
                key,
                f"{path} {'has expired' if end <= time.time() else 'expires'} on {tls.date_text(end)}",
            )
    if console.certificate and console.key and os.access(named["key"], os.R_OK):
        yield from _console_pair(config, named["certificate"], named["key"])
    if console.client_ocsp and shutil.which(OPENSSL) is None:
        text = f"{OPENSSL} is not installed: nobody can sign in by certificate"
        yield fault_line(config.lines, ("console", "client_ocsp"), text)


_CONSOLE_FILES = ("certificate", "key", "client_ca", "client_crl")


def _console_pair(config: Config, certificate: Path, key: Path) -> Iterator[str]:
    """Does the key belong to the certificate?"""
    try:
        page_context(certificate, key)
    except TlsError as error:
        yield fault_line(config.lines, ("console", "certificate"), error.text)


def _project_keys(config: Config) -> Iterator[str]:
    """Warn of keys with which nothing can be de-identified; skip those that only the service can read."""
    for name, each in config.destinations.items():
        if each.deidentify == "none" or not os.access(Path(each.project_key).parent, os.X_OK):
            continue
        try:
            secret.read_key(Path(each.project_key))
        except secret.SecretError as error:
            key = f"destination.{name}.project_key"
            yield f"{config.lines.get(key, key)}: {key}: nothing is sent: {error}"


def _heartbeat_key(session: CommandSession, config: Config) -> Iterator[str]:
    """Warn of a key that the centre would refuse; skip one that only the service can read."""
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


def _web_secrets(config: Config) -> Iterator[str]:
    """Warn of tokens and keys for DICOMweb that cannot be used; skip those that only the service can read."""
    named: list[tuple[Key, str, Callable[[Path], bytes]]] = [
        (("client", name, "token"), client.token, secret.read_key) for name, client in config.clients.items()
    ]
    for name, each in config.destinations.items():
        named.append((("destination", name, "token"), each.token, secret.read_secret))
        named.append((("destination", name, "client_key"), each.client_key, secret.read_secret))
        if each.oauth is not None:
            named.append((("destination", name, "oauth"), each.oauth.secret, secret.read_secret))
    for key, path, read in named:
        if not path or (Path(path).exists() and not os.access(path, os.R_OK)):
            continue
        try:
            read(Path(path))
        except secret.SecretError as error:
            yield fault_line(config.lines, key, str(error))


def _warnings(session: CommandSession, config: Config) -> list[str]:
    found = disk_of(config.site.data_dir)
    disk = found.total_bytes, found.free_bytes
    refusals = room_warnings(config, found, _refusing(session))
    if not session.has_catalog:
        return [*refusals, *warnings(config, disk=disk)]
    try:
        with session.quiet_catalog() as conn:
            gone = list_removed_destinations(conn, list(config.destinations))
            proofs = list_kept_proofs(conn, list(config.destinations))
            daily = daily_bytes(conn, time.time())
            callers = admitted_callers(conn)
            return [*refusals, *warnings(config, senders(conn), disk, daily, gone, proofs, callers)]
    except OtherVersion as error:
        return [*refusals, *warnings(config, disk=disk), str(error)]


def _refusing(session: CommandSession) -> list[str]:
    """Why the running gateway refuses scanners, by code; empty where none runs."""
    try:
        return [each["cause"] for each in session.ask("status")["status"].get("refusing", [])]
    except EdgeError:
        return []


@click.command()
def version() -> None:
    """Print the version.

    \b
    Example:  edge version
    """
    click.echo(f"edge {__version__}")
