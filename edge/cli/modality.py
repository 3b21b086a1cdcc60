"""`edge modality`: the equipment that calls, and a new scanner in one step."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path
from typing import Any

import click

from edge.cli.configuration import change_reason_option, print_change
from edge.cli.session import CommandSession, json_option
from edge.cli.status import read_status
from edge.cli.tables import Columns, print_list, say
from edge.config.edit import name_from
from edge.config.kinds import NOT_SERVED, SERVED
from edge.errors import EdgeError
from edge.text import from_iso, moment_text, printable

_END = "-----END CERTIFICATE-----"

_COLUMNS: Columns[dict[str, Any]] = {
    "AE title": lambda each: each["ae_title"],
    "address": lambda each: each["address"],
    "modality": lambda each: each["name"],
    "equipment": lambda each: " ".join(filter(None, (each["manufacturer"], each["model"]))),
    "last call": lambda each: moment_text(from_iso(each["last_seen"])),
    "state": lambda each: "refused" if not each["admitted"] else "silent" if each["silent"] else "known",
}


@click.group(short_help="List equipment; add a scanner.")
def modality() -> None:
    """List the equipment that has called, and add a scanner to the configuration.

    \b
    Examples:  edge modality list
               edge modality add CT2 --host 10.10.4.22 --reason "new CT"
    """


@modality.command("list", short_help="List the equipment that has called.")
@json_option
@click.pass_obj
def list_modalities(session: CommandSession, as_json: bool) -> None:
    """List the equipment that has called: admitted, or refused because nothing names it.

    \b
    Example:  edge modality list
    """
    found = read_status(session)["modalities"]
    print_list(found, _COLUMNS, "No equipment has called yet.", as_json=as_json)
    for each in () if as_json else found:
        if not each["admitted"]:
            title = printable(each["ae_title"]) or "a caller without AE title"
            say(f"{title} at {each['address']}: {printable(each['lacks']) or 'no [modality] names it'}.", "yellow")


@modality.command(short_help="Add a scanner to the configuration.")
@click.argument("ae_title")
@click.option("--host", "hosts", multiple=True, metavar="ADDRESS", help="Its address; omitted: the one it called from.")
@click.option("--name", metavar="NAME", help="Its name in the configuration; omitted: from the AE title.")
@click.option("--service", "services", multiple=True, type=click.Choice((*SERVED, *NOT_SERVED)), help="What it may do.")
@click.option("--port", type=click.IntRange(1, 65535), help="Where it is called back, for storage commitment.")
@click.option(
    "--certificate",
    default="",
    metavar="NAME|FILE",
    help="What it must show: a name, sha256:..., or its file.",
)
@change_reason_option
@click.pass_obj
def add(
    session: CommandSession,
    ae_title: str,
    hosts: tuple[str, ...],
    name: str | None,
    services: tuple[str, ...],
    port: int | None,
    certificate: str,
    reason: str,
) -> None:
    """Write a [modality.NAME] for equipment with AE_TITLE, and have the gateway read it.

    Where equipment of this AE title is configured already, its new address is added there.

    \b
    Example:  edge modality add CT2 --reason "new CT, ticket 4711"
    """
    addresses = list(hosts) or _addresses_of(session, ae_title)
    same = [each for each in session.config.modalities.values() if each.ae_title == ae_title]
    if same and name is None:
        for host in addresses:
            fields = {"name": same[0].name, "host": host, "reason": reason}
            print_change(session.change_configuration("modality-add-host", **fields))
        return
    new: dict[str, Any] = {
        "name": name or name_from(ae_title, session.config.modalities),
        "ae_title": ae_title,
        "hosts": addresses,
        "services": list(services),
        "port": port,
        "certificate": certificate_to_show(certificate),
        "reason": reason,
    }
    print_change(session.change_configuration("modality-add", **new))


def certificate_to_show(text: str) -> str:
    """A name or digest as it is; of a file the digest of its first certificate (DER, RFC 7468)."""
    if not text or not Path(text).is_file():
        return text
    try:
        der = ssl.PEM_cert_to_DER_cert(Path(text).read_text("ascii").partition(_END)[0].strip() + f"\n{_END}\n")
    except (OSError, ValueError) as error:
        raise EdgeError(f"{text} is no certificate in PEM form: {error}") from None
    return f"sha256:{hashlib.sha256(der).hexdigest()}"


def _addresses_of(session: CommandSession, ae_title: str) -> list[str]:
    """Where equipment of this AE title called from and was refused, since nothing names it."""
    seen = [each for each in read_status(session)["modalities"] if each["ae_title"] == ae_title]
    refused = [each for each in seen if not each["admitted"]]
    found = [each["address"] for each in refused if not each["lacks"]]
    if not found and refused:
        raise EdgeError(f'a [modality] names "{ae_title}" there already: {refused[0]["lacks"]}')
    if not found:
        raise EdgeError(f'"{ae_title}" has not called, or is admitted; name its address with --host')
    return found
