"""Secrets: keys and passwords, which stand in files, never in the configuration itself.

A secret is named in the configuration by a path, or by the bare name of a systemd credential (systemd.exec(5),
LoadCredential=). A file that others than its owner may read is refused.
"""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path

from edge.errors import Permanent

MAX_SECRET_BYTES = 64 << 10
#: A key for HMAC has at least 112 bits (NIST SP 800-131A section 10), and is no row of the same few bytes.
LEAST_KEY_BYTES, LEAST_KEY_VALUES = 14, 8
#: HMAC-SHA256 takes a longer key by its digest, and fills a shorter one up with zeros (RFC 2104 section 2).
BLOCK_BYTES = 64
OPEN_TO_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class SecretError(Permanent):
    """A secret cannot be used; the text names the file and the remedy, never the content."""


def path_of(name: str, directory: Path) -> Path:
    """Find the file of a secret: a credential of the service, else a path from the configuration's directory."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if credentials and "/" not in name and (held := Path(credentials, name)).exists():
        return held
    return directory / name


def read_secret(path: Path) -> bytes:
    """Read a secret, without the line end that an editor adds. Raises SecretError."""
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if mode & OPEN_TO_OTHERS and not _is_credential(path):
                raise SecretError(f"{path} may be read by others than its owner: chmod 600 {path}")
            content = file.read(MAX_SECRET_BYTES + 1)
    except OSError as error:
        raise SecretError(f"the secret {path} cannot be read: {error.strerror}") from None
    if len(content) > MAX_SECRET_BYTES:
        raise SecretError(f"{path} is longer than {MAX_SECRET_BYTES} bytes: is it the right file?")
    if not content.strip():
        raise SecretError(f"{path} is empty")
    return content.rstrip(b"\r\n")


def read_key(path: Path) -> bytes:
    """Read a key for signatures. Raises SecretError for one that is too weak."""
    key = read_secret(path)
    if weakness := weakness_of(key):
        raise SecretError(f"{path} is no key: {weakness}; make one with `head -c 32 /dev/urandom | base64`")
    return key


def weakness_of(key: bytes) -> str:
    """Explain why a key is too weak to sign; empty if it is not."""
    if len(effective_key(key)) < LEAST_KEY_BYTES:
        return f"it has fewer than {LEAST_KEY_BYTES} bytes"
    return "it repeats a few bytes" if len(set(key)) < LEAST_KEY_VALUES else ""


def effective_key(key: bytes) -> bytes:
    """The key that HMAC-SHA256 uses: two keys with the same one sign alike."""
    return (hashlib.sha256(key).digest() if len(key) > BLOCK_BYTES else key).rstrip(b"\0")


def _is_credential(path: Path) -> bool:
    """systemd guards its credentials itself: the directory is the service's alone."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return bool(credentials) and path.parent == Path(credentials or "")
