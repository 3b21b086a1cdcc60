"""The console's own TLS: its files, and revocation lists that are read again when they change."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from pathlib import Path

from edge.config import secret
from edge.config.sections import Config
from edge.network.tls import TlsError, load_trusted, stamps

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConsoleFiles:
    """The files of [console]."""

    certificate: Path
    key: Path
    client_ca: Path | None
    client_crl: Path | None


def console_files(config: Config, directory: Path) -> ConsoleFiles | None:
    """None where the console speaks plain HTTP. Raises SecretError for a key that others may read."""
    console = config.console
    if console.certificate is None or console.key is None:
        return None
    key = secret.path_of(console.key, directory)
    secret.read_secret(key)
    ca, crl = (secret.path_of(each, directory) if each else None for each in (console.client_ca, console.client_crl))
    return ConsoleFiles(secret.path_of(console.certificate, directory), key, ca, crl)


class RevocationLists:
    """Reads the file of revocation lists again when it has changed; a bad one leaves the former active."""

    def __init__(self, context: ssl.SSLContext | None, path: Path | None) -> None:
        self._context, self._path = context, path
        self._stamp = stamps([path]) if path else None

    def refresh(self) -> None:
        """Cheap; called often."""
        if self._context is None or self._path is None or (found := stamps([self._path])) in (None, self._stamp):
            return
        self._stamp = found
        try:
            load_trusted(self._context, "crl", self._path)
        except TlsError as error:
            log.error("the new revocation list cannot be used, the previous one stays active: %s", error)
