"""Warnings of a configuration: what others may read, or pretend to be."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from fnmatch import fnmatchcase
from ipaddress import ip_network
from pathlib import Path

from edge.config.files import ConfigWarning, Key, fault_line
from edge.config.sections import Config

EVERYWHERE = ("0.0.0.0", "::")


def _open_doors(config: Config) -> Iterator[ConfigWarning]:
    """Equipment that anybody can pretend to be."""
    for modality in config.modalities.values():
        key = ("modality", modality.name)
        if modality.ae_title.strip("*") == "" and not modality.hosts and not modality.certificate:
            text = "anybody on the network can send under any AE title; name its hosts, or a certificate"
            yield (*key, "ae_title"), text
        for network in modality.hosts:
            if ip_network(network).prefixlen == 0:
                yield (*key, "hosts"), f"{network} is every address; name those of the equipment"


def secret_warnings(config: Config, directory: Path) -> list[str]:
    """Keys that name a file with a secret, and hold the secret itself as it seems: there is no such file."""
    named: list[tuple[Key, str | None]] = [(("heartbeat", "key"), config.heartbeat.key)]
    named += [(("email", name, "password"), each.password) for name, each in config.emails.items()]
    named += [(("webhook", name, "key"), each.key) for name, each in config.webhooks.items()]
    found = []
    for key, value in named:
        if value and not (directory / value).exists() and not re.fullmatch(r"[\w-]+([./][\w-]+)*", value):
            text = "this looks like the secret itself, and everybody who reads the file sees it"
            remedy = "put it into a file of its own (chmod 600) and write the name of that file here"
            found.append(fault_line(config.lines, key, f"{text}; {remedy}"))
    return found


def _mail_in_clear(config: Config) -> Iterator[ConfigWarning]:
    for name, each in config.emails.items():
        if each.security == "none" and not is_loopback(each.host):
            yield (
                ("email", name, "security"),
                'notices cross the network in clear; set "starttls" where the server has it',
            )


def _audit_in_clear(config: Config) -> Iterator[ConfigWarning]:
    if config.audit.host not in (None, "localhost", "127.0.0.1", "::1") and config.audit.transport != "tls":
        text = f"audit messages name patients, and {config.audit.transport} sends them in clear"
        yield ("audit", "transport"), f'{text}; use "tls" where the repository supports it'


def _console_in_clear(config: Config) -> Iterator[ConfigWarning]:
    if not is_loopback(config.console.host) and not config.console.proxies and config.console.certificate is None:
        text = "passwords and patient data cross the network in clear; put a proxy with TLS before it, or use a tunnel"
        yield ("console", "host"), text


def _web_destinations(config: Config) -> Iterator[ConfigWarning]:
    for name, each in config.destinations.items():
        if each.is_web and each.url.startswith("http:") and not is_loopback(each.host):
            yield ("destination", name, "url"), "patient data crosses the network in clear; use https://"
        if each.is_web and each.confirm == "status":
            text = 'the server\'s word at the time of sending is the only proof; "query" asks it later, by QIDO-RS'
            yield ("destination", name, "confirm"), text


def is_loopback(host: str) -> bool:
    return host == "::1" or host.lower() == "localhost" or fnmatchcase(host, "127.*")


EXPOSURE_CHECKS: tuple[Callable[[Config], Iterator[ConfigWarning]], ...] = (
    _open_doors,
    _mail_in_clear,
    _audit_in_clear,
    _console_in_clear,
    _web_destinations,
)
