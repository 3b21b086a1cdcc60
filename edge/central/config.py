"""The centre's configuration: a directory of TOML files of its own, checked as strictly as a site's.

[central]       where it listens, and its database
[site.ID]       each site that may report: its key, and what is registered there
[calendar], [email.NAME], [webhook.NAME], [syslog.NAME]     as a site's: business days, and notifications
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote, urlsplit, urlunsplit

from edge.config import kinds, load_tables, secret
from edge.config.channels import Email, SyslogServer, Webhook, passwords_are_safe
from edge.config.cross_checks import keys_come_together
from edge.config.sections import Calendar, PagesSection
from edge.config.tables import sections_by_table
from edge.config.values import Unfit, ValueKind
from edge.errors import ConfigError

INSTALLED = Path("/etc/edge-central/conf.d")
#: Where the unit takes credentials from, beside the configuration's directory, and what it puts before their names.
_KEYS_FOLDER, _KEYS_PREFIX = "keys", "keys_"


def _secret_path(name: str, directory: Path) -> Path:
    """Find the file of a secret (edge.config.secret); a command finds a credential where the unit takes it from."""
    found, bare = secret.path_of(name, directory), name.removeprefix(_KEYS_PREFIX)
    held = directory.parent / _KEYS_FOLDER / bare
    is_command = "CREDENTIALS_DIRECTORY" not in os.environ
    return held if is_command and bare != name and "/" not in name and not found.exists() and held.exists() else found


def _database(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"postgresql://\S+", value):
        if urlsplit(value).password is not None:
            reason = "expected a URL without password, found one in it; database_password names the file that holds it"
            raise Unfit(((), reason))  # which does not quote it
        return value
    raise ValueError


def _time_of_day(value: object) -> str:
    if isinstance(value, str) and re.fullmatch(r"([01][0-9]|2[0-3]):[0-5][0-9]", value):
        return value
    raise ValueError


DATABASE = ValueKind('a URL such as "postgresql://edge@db.example.org/edge"', _database)
TIME_OF_DAY = ValueKind('a time of day such as "07:00"', _time_of_day)
TAGS = kinds.list_of(kinds.TEXT, "words")


@dataclass(frozen=True, slots=True)
class Central(PagesSection):
    """Without a certificate it speaks plain HTTP, behind a proxy that ends TLS."""

    host: Annotated[str, kinds.HOST] = "0.0.0.0"
    port: Annotated[int, kinds.PORT] = 8443
    data_dir: Annotated[Path, kinds.PATH] = Path("/var/lib/edge-central")
    database: Annotated[str | None, DATABASE] = None  # None: central.db in data_dir
    database_password: Annotated[str | None, kinds.SECRET] = None
    digest: Annotated[str, TIME_OF_DAY] = "07:00"  # in the calendar's time zone
    metrics: Annotated[tuple[str, ...], kinds.NETWORKS] = ("127.0.0.0/8", "::1")  # who may read /metrics


@dataclass(frozen=True, slots=True)
class Site:
    """A site that may report. `equipment`: the AE titles that are registered there; `link`: of its own console."""

    id: str
    key: Annotated[str, kinds.SECRET]
    next_key: Annotated[str | None, kinds.SECRET] = None  # valid beside `key`, while the site changes its own
    name: Annotated[str, kinds.TEXT] = ""
    provider: Annotated[str, kinds.TEXT] = ""
    region: Annotated[str, kinds.TEXT] = ""
    equipment: Annotated[tuple[str, ...], kinds.AE_TITLE_LIST] = ()
    tags: Annotated[tuple[str, ...], TAGS] = ()
    contact: Annotated[str, kinds.TEXT] = ""
    link: Annotated[str, kinds.URL] = ""


@dataclass(frozen=True, slots=True)
class CentralConfig:
    """All of it."""

    directory: Path
    central: Central
    sites: Annotated[dict[str, Site], "site"] = field(default_factory=dict)
    calendar: Calendar = field(default_factory=Calendar)
    emails: Annotated[dict[str, Email], "email"] = field(default_factory=dict)
    webhooks: Annotated[dict[str, Webhook], "webhook"] = field(default_factory=dict)
    syslogs: Annotated[dict[str, SyslogServer], "syslog"] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict, compare=False, repr=False)

    def name_of(self, site: str, reported: str) -> str:
        """A site's name: the configured one, else the one that the site reported."""
        known = self.sites.get(site)
        return (known.name if known else "") or reported

    def names_of(self, rows: Iterable[Any]) -> dict[str, str]:
        """The name of each site of these rows, by its number; a row has `id` and `name`."""
        return {row["id"]: self.name_of(row["id"], row["name"]) for row in rows}

    def read_keys(self) -> dict[str, tuple[bytes, ...]]:
        """The keys of every site. Raises ConfigError with one line for each that cannot be used."""
        keys: dict[str, tuple[bytes, ...]] = {}
        problems, holders = [], dict[bytes, str]()
        for site in self.sites.values():
            for option, path in self._key_files(site):
                where = f"{self.lines.get(f'site.{site.id}.{option}', 'site')}: site.{site.id}.{option}"
                try:
                    key = secret.read_key(path)
                except secret.SecretError as error:
                    problems.append(f"{where}: {error}")
                    continue
                holder = holders.setdefault(secret.effective_key(key), site.id)
                if holder != site.id:
                    problems.append(f"{where}: {path} is the key of site {holder} as well: each site has its own")
                keys[site.id] = (*keys.get(site.id, ()), key)
        if problems:
            raise ConfigError(problems)
        return keys

    def _key_files(self, site: Site) -> Iterator[tuple[str, Path]]:
        for option in ("key", "next_key"):
            if (name := getattr(site, option)) is not None:
                yield option, _secret_path(name, self.directory)

    def secrets(self) -> Iterator[tuple[str, Path]]:
        """Every file with a secret that is no site's key: (the configuration's key, path)."""
        named: list[tuple[str, str | None]] = [
            ("central.key", self.central.key),
            ("central.database_password", self.central.database_password),
        ]
        named += [(f"email.{name}.password", each.password) for name, each in self.emails.items()]
        named += [(f"webhook.{name}.key", each.key) for name, each in self.webhooks.items()]
        named += [(f"syslog.{name}.client_key", each.client_key) for name, each in self.syslogs.items()]
        for key, file in named:
            if file is not None:
                yield key, _secret_path(file, self.directory)

    def check_files(self) -> None:
        """Certificate and secrets can be used. Raises ConfigError with one line for each that cannot."""
        problems = []
        for key, path in self.secrets():
            try:
                secret.read_secret(path)
            except secret.SecretError as error:
                problems.append(f"{self.lines.get(key, 'central')}: {key}: {error}")
        if not problems and (pair := self.tls()):
            try:
                ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*pair, password=lambda: b"")
            except (OSError, ValueError) as error:
                reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
                place = self.lines.get("central.certificate", "central")
                problems.append(f"{place}: central.certificate: {pair[0]} with key {pair[1]} cannot be used: {reason}")
        if problems:
            raise ConfigError(problems)

    def watched_files(self) -> list[Path]:
        """The files that may be exchanged while the service runs."""
        keys = [path for site in self.sites.values() for _, path in self._key_files(site)]
        return [*(self.tls() or ()), *(path for path in self.client_files() if path is not None), *keys]

    def client_files(self) -> tuple[Path | None, Path | None]:
        """Authority and revocation lists of the certificates by which people sign in."""
        central = self.central
        ca, crl = (each and _secret_path(each, self.directory) for each in (central.client_ca, central.client_crl))
        return ca or None, crl or None

    def own_files(self) -> list[Path]:
        """The directory and the TOML files of the configuration itself."""
        return [self.directory, *sorted(self.directory.glob("[!.]*.toml"))]

    def tls(self) -> tuple[Path, Path] | None:
        """Certificate and key of the service; None: plain HTTP."""
        central = self.central
        if central.certificate is None or central.key is None:
            return None
        return self.directory / central.certificate, _secret_path(central.key, self.directory)

    def database_url(self) -> str:
        """Return the URL with its password. Raises SecretError."""
        central = self.central
        if central.database is None:
            return f"sqlite:///{central.data_dir / 'central.db'}"
        parts = urlsplit(central.database)
        host = parts.netloc
        if central.database_password:
            password = secret.read_secret(_secret_path(central.database_password, self.directory)).decode()
            user, at, rest = host.rpartition("@")
            host = f"{user}:{quote(password, safe='')}{at}{rest}"
        return urlunsplit(parts._replace(netloc=host))


SECTIONS, NAMED = sections_by_table(CentralConfig)


def load(directory: Path, texts: Mapping[str, str] | None = None) -> CentralConfig:
    """Read and check it; raises ConfigError with every fault. `texts`: of the files, in place of those there."""
    parts = load_tables(directory, SECTIONS, NAMED, (passwords_are_safe, keys_come_together), texts)
    central: Central = parts["central"]
    if (central.certificate is None) != (central.key is None):
        place = parts["lines"].get("central", str(directory))
        raise ConfigError([f"{place}: central: certificate and key go together; found only one of them"])
    return CentralConfig(directory, **parts | {"central": replace(central, data_dir=directory / central.data_dir)})
