"""Passwords: which are accepted, how they are stored, and whether one is right.

The hash is argon2id (RFC 9106) with OWASP's minimum parameters (19 MiB, two passes), or, where OpenSSL runs in FIPS
mode, PBKDF2-HMAC-SHA-512 (NIST SP 800-132). A hash of the other method remains valid until the next sign-in replaces
it. One hash is computed at a time, which bounds the load that guessing causes. An unknown name takes the same time as
a wrong password.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
import threading
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from edge.web.accounts import Account, AccountError

if TYPE_CHECKING:
    from argon2 import PasswordHasher

MIN_PASSWORD, MAX_PASSWORD = 15, 256
#: OWASP's minimum for PBKDF2-HMAC-SHA-512.
ITERATIONS = 210_000
_PBKDF2 = "pbkdf2-sha512"
#: The least number of characters, and of different ones, in a password without its common parts.
LEAST_OWN, LEAST_DIFFERENT = 6, 4
_ALIKE = str.maketrans("4@8(310!|$57+", "aabceioiisstt")

_one_at_a_time = threading.Lock()


def require_strong(password: str, name: str) -> str:
    """Return the password if it is long enough and not common. Raises AccountError."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise AccountError(f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters; several words make a good one")
    if is_common(password, name):
        raise AccountError("the password is too easy to guess; several words of your own make a good one")
    return password


def is_common(password: str, name: str = "") -> bool:
    """Check whether it consists mainly of common passwords, runs of the alphabet or keyboard, repetitions, or `name`.

    Digits and signs that resemble letters count as letters.
    """
    folded = password.casefold()
    return not all(_has_own_part(text, name.casefold()) for text in (folded, folded.translate(_ALIKE)))


def _has_own_part(text: str, name: str) -> bool:
    left = text
    for part in (name, *_common()) if len(name) > 2 else _common():  # the longest first
        left = left.replace(part, "\0")
    left = _without_repetition("".join(char for char in left if char.isalnum()))
    return len(left) >= LEAST_OWN and len(set(left)) >= LEAST_DIFFERENT


def _without_repetition(text: str) -> str:
    """Return `abc` for `abcabcab`."""
    for period in range(1, len(text) // 2 + 1):
        if text == (text[:period] * len(text))[: len(text)]:
            return text[:period]
    return text


@cache
def _common() -> tuple[str, ...]:
    """Return the words of common.txt, and the runs of four or more characters in its rows, the longest first."""
    words: set[str] = set()
    for line in (Path(__file__).parent / "common.txt").read_text("ascii").splitlines():
        if line.startswith("~"):
            for row in (line[1:], line[:0:-1]):
                words |= {row[i:j] for i in range(len(row)) for j in range(i + 4, len(row) + 1)}
        elif line and not line.startswith("#"):
            words.add(line)
    return tuple(sorted(words, key=lambda word: (-len(word), word)))


def is_fips_mode() -> bool:
    """Check whether the OpenSSL that Python uses is in FIPS mode: only approved algorithms may be used then."""
    try:
        from _hashlib import get_fips_mode  # noqa: PLC0415  # not in every Python; there is no public function
    except ImportError:
        return False
    return bool(get_fips_mode())


def hash_password(password: str) -> str:
    """Return the hash of a password, with its method, parameters and salt."""
    with _one_at_a_time:
        return _pbkdf2(password, secrets.token_bytes(16), ITERATIONS) if is_fips_mode() else _hasher().hash(password)


def is_outdated(account: Account) -> bool:
    """Check whether the hash of the account's password has another method than new ones."""
    return bool(account.password) and account.password.startswith(f"${_PBKDF2}$") != is_fips_mode()


def is_password_of(account: Account | None, password: str) -> bool:
    """Check a password. Takes the same time if there is no account, or no password."""
    known = account.password if account else ""
    with _one_at_a_time:
        found = _is_right(known or _decoy(), password[:MAX_PASSWORD])
    return found and bool(known)


def _is_right(kept: str, password: str) -> bool:
    if kept.startswith(f"${_PBKDF2}$"):
        _, _, iterations, salt, _ = kept.split("$")
        again = _pbkdf2(password, base64.b64decode(salt), int(iterations))
        return hmac.compare_digest(again.encode(), kept.encode())
    from argon2.exceptions import InvalidHashError, VerificationError  # noqa: PLC0415  # loaded at the first sign-in

    try:
        return _hasher().verify(kept, password)
    except (VerificationError, InvalidHashError):
        return False


def _pbkdf2(password: str, salt: bytes, iterations: int) -> str:
    digest = hashlib.pbkdf2_hmac("sha512", password.encode("utf-8", "surrogatepass"), salt, iterations, 32)
    encoded = (base64.b64encode(part).decode() for part in (salt, digest))
    return f"${_PBKDF2}${iterations}${'$'.join(encoded)}"


def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher  # noqa: PLC0415

    return PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)


def _decoy() -> str:
    """Return a hash that no known password has."""
    if is_fips_mode():
        return f"${_PBKDF2}${ITERATIONS}${'A' * 22}==${'A' * 43}="
    return "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43
