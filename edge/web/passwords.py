"""Passwords: which are taken, how they are kept, and whether one is right.

They are kept as argon2id (RFC 9106) with OWASP's least parameters (19 MiB, two passes); where OpenSSL runs in FIPS mode
as PBKDF2-HMAC-SHA-512 (NIST SP 800-132). What is kept in one way goes on working in the other, and is kept in the
present way after the next sign-in. One is computed at a time, so that guessing costs the machine no more than that. An
unknown name costs the same time as a wrong password.
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
#: OWASP's least for PBKDF2-HMAC-SHA-512.
ITERATIONS = 210_000
_PBKDF2 = "pbkdf2-sha512"
#: What is left of a password without its common parts must have so many characters, so many of them different.
LEAST_OWN, LEAST_DIFFERENT = 6, 4
_ALIKE = str.maketrans("4@8(310!|$57+", "aabceioiisstt")
_TOO_EASY = "that password is too easy to guess; a few words of your own make a good one"

_one_at_a_time = threading.Lock()


def checked_password(password: str, name: str) -> str:
    """A password that is long enough, and not what many people take. Raises AccountError."""
    if not MIN_PASSWORD <= len(password) <= MAX_PASSWORD:
        raise AccountError(f"a password has {MIN_PASSWORD} to {MAX_PASSWORD} characters; a few words make a good one")
    if is_common(password, name):
        raise AccountError(_TOO_EASY)
    return password


def is_common(password: str, name: str = "") -> bool:
    """Whether little is left of it without common passwords, runs along the alphabet or keyboard, repetitions, `name`.

    Digits and signs that stand for letters count as those.
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
    """`abcabcab` is no more than `abc`."""
    for period in range(1, len(text) // 2 + 1):
        if text == (text[:period] * len(text))[: len(text)]:
            return text[:period]
    return text


@cache
def _common() -> tuple[str, ...]:
    """Words of common.txt, and every run of four or more along a row of it, the longest first."""
    words: set[str] = set()
    for line in (Path(__file__).parent / "common.txt").read_text("ascii").splitlines():
        if line.startswith("~"):
            for row in (line[1:], line[:0:-1]):
                words |= {row[i:j] for i in range(len(row)) for j in range(i + 4, len(row) + 1)}
        elif line and not line.startswith("#"):
            words.add(line)
    return tuple(sorted(words, key=lambda word: (-len(word), word)))


def is_fips_mode() -> bool:
    """Whether the OpenSSL that Python uses is in FIPS mode: only what is approved may be used then."""
    try:
        from _hashlib import get_fips_mode  # noqa: PLC0415  # not of every Python; nothing public tells it
    except ImportError:
        return False
    return bool(get_fips_mode())


def hashed(password: str) -> str:
    """What is kept of a password: with its method, parameters and salt."""
    with _one_at_a_time:
        return _pbkdf2(password, secrets.token_bytes(16), ITERATIONS) if is_fips_mode() else _hasher().hash(password)


def is_outdated(account: Account) -> bool:
    """Is the account's password kept in another way than new ones are?"""
    return bool(account.password) and account.password.startswith(f"${_PBKDF2}$") != is_fips_mode()


def matches(account: Account | None, password: str) -> bool:
    """Is it the account's password? Takes as long for no account, or one without a password."""
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
    """A hash of nothing that anybody knows, to spend the same time on."""
    if is_fips_mode():
        return f"${_PBKDF2}${ITERATIONS}${'A' * 22}==${'A' * 43}="
    return "$argon2id$v=19$m=19456,t=2,p=1$c29tZXNhbHRzb21lc2FsdA$" + "A" * 43
