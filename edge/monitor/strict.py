"""The settings that a strict site, a military one in particular, forbids: `edge check --strict`.

Pure. Each finding has a stable code for programs, and a sentence with the remedy for people. What cannot be determined
is a finding, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from edge.config.files import Key
from edge.config.sections import Config
from edge.monitor.encryption import Encryption
from edge.monitor.exposure_warnings import is_loopback

#: ASD STIG APSC-DV-000530, APSC-DV-000070, APSC-DV-000080.
MOST_FAILURES, MOST_IDLE_SECONDS, MOST_ADMIN_IDLE_SECONDS = 3, 900.0, 600.0
_EVERYBODY = ("0.0.0.0/0", "::/0")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is forbidden."""

    code: str
    key: Key
    text: str


def findings(config: Config, encryption: Encryption) -> list[Finding]:
    """Everything that such a site forbids, in order. `encryption`: of the disk that holds data_dir."""
    found = [finding for check in STRICT_CHECKS for finding in check(config)]
    return [*found, *_at_rest(encryption)]


def _plain_dicom(config: Config) -> Iterator[Finding]:
    if config.listen.plain:
        text = "DICOM is received in clear; set up [tls] for every modality, then set this to false"
        yield Finding("plain-dicom", ("listen", "plain"), text)
    for each in config.destinations.values():
        if not each.tls and not is_loopback(each.host):
            text = "DICOM is sent in clear; set tls = true"
            yield Finding("clear-destination", ("destination", each.name, "tls"), text)


def _commitment(config: Config) -> Iterator[Finding]:
    for each in config.destinations.values():
        if each.confirm == "commitment" and not (each.tls and each.certificate and not config.listen.plain):
            text = (
                "a proof of arrival can come from anybody who uses its AE title; set tls = true, certificate to what"
                " the archive shows when it calls, and listen.plain = false"
            )
            yield Finding("forgeable-commitment", ("destination", each.name, "confirm"), text)


def _callers(config: Config) -> Iterator[Finding]:
    if config.listen.unknown == "accept":
        text = 'unknown callers are accepted; name the equipment in [modality.NAME], and set this to "refuse"'
        yield Finding("unknown-callers", ("listen", "unknown"), text)
    for each in config.modalities.values():
        from_anywhere = not each.hosts or any(host in _EVERYBODY for host in each.hosts)
        if from_anywhere and not each.certificate:
            text = "it is known by its AE title alone, which anybody can use; give hosts, certificate or both"
            yield Finding("title-alone", ("modality", each.name), text)


def _tls(config: Config) -> Iterator[Finding]:
    if config.tls.is_on and config.tls.crl is None:
        text = "a certificate that was revoked is still taken; give the authorities' revocation lists"
        yield Finding("no-revocation", ("tls", "crl"), text)


def _pages(config: Config) -> Iterator[Finding]:
    console = config.console
    if not is_loopback(console.host) and console.certificate is None:
        text = 'the pages are served in clear; set this to "127.0.0.1", and put a proxy with TLS on this machine'
        yield Finding("clear-pages", ("console", "host"), text)
    if console.client_ca is not None and console.client_crl is None and not console.client_ocsp:
        text = "a revoked client certificate still signs in; name the authority's revocation list or responder"
        yield Finding("no-revocation", ("console", "client_crl"), text)
    if not console.banner:
        yield Finding("no-banner", ("console", "banner"), "no notice is acknowledged before sign-in; give its text")
    for key, value, most in (
        ("lock_after", console.lock_after, MOST_FAILURES),
        ("idle", console.idle, MOST_IDLE_SECONDS),
        ("admin_idle", console.admin_idle, MOST_ADMIN_IDLE_SECONDS),
    ):
        if value > most:
            allowed = f"{most}" if key == "lock_after" else f'"{most // 60:.0f}m"'
            yield Finding("lenient-sign-in", ("console", key), f"it may be {allowed} at most")


def _others(config: Config) -> Iterator[Finding]:
    audit = config.audit
    if audit.host is not None and audit.transport != "tls" and not is_loopback(audit.host):
        text = 'audit messages, which name patients, are sent in clear; use "tls"'
        yield Finding("clear-audit", ("audit", "transport"), text)
    for mail in config.emails.values():
        if mail.security == "none" and not is_loopback(mail.host):
            text = 'mail is sent in clear; use "starttls" or "tls"'
            yield Finding("clear-mail", ("email", mail.name, "security"), text)
    for server in config.syslogs.values():
        if server.transport != "tls" and not is_loopback(server.host):
            text = 'notices are sent in clear; use "tls"'
            yield Finding("clear-syslog", ("syslog", server.name, "transport"), text)


def _at_rest(encryption: Encryption) -> Iterator[Finding]:
    key = ("site", "data_dir")
    if encryption is Encryption.NO:
        text = (
            "it is on no encrypted volume (dm-crypt); give it a LUKS volume of its own, as SECURITY.md shows. A drive"
            " that encrypts itself cannot be seen from here"
        )
        yield Finding("data-unencrypted", key, text)
    elif encryption is Encryption.UNKNOWN:
        text = (
            "whether it is on an encrypted volume cannot be determined from here; make sure that it does, or give it"
            " a LUKS volume of its own, as SECURITY.md shows"
        )
        yield Finding("data-encryption-unknown", key, text)


STRICT_CHECKS: tuple[Callable[[Config], Iterator[Finding]], ...] = (
    _plain_dicom,
    _commitment,
    _callers,
    _tls,
    _pages,
    _others,
)
