"""Passwords: long, not common, kept as argon2id or, where OpenSSL runs in FIPS mode, as PBKDF2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.web import passwords
from edge.web.accounts import Account, AccountError, UserRole
from edge.web.guard import Rules
from tests.support.peers import ENVIRONMENT, REPOSITORY
from tests.support.web_site import HASH, PASSWORD, Site, sign_in


@pytest.fixture
def sites() -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(rules: Rules | None = None) -> Site:
        made.append(Site(rules))
        return made[-1]

    yield make
    for site in made:
        site.close()


COMMON = [
    "passwordpassword", "Password12345678", "P@ssw0rdP@ssw0rd", "qwertyuiopasdfgh",
    "1qaz2wsx3edc4rfv", "1234567890123456",
    "abcdefghijklmnop", "iloveyouiloveyou",
    "aaaaaaaaaaaaaaaa", "xyzxyzxyzxyzxyzxyz", "AdminAdminAdmin1", "letmeinletmein!!",
    "WelcomeWelcome2026", "correcthorsebatterystaple",
    "anna.petersen.anna", "Summer2026!Summer", "edge-gateway-2026",
    "zyxwvutsrqponmlk",
]  # fmt: skip


@pytest.mark.parametrize("password", [*COMMON, "fourteen chars", ""])
def test_short_and_common_passwords_are_not_taken(password: str) -> None:
    with pytest.raises(AccountError):
        passwords.require_strong(password, "anna.petersen")


@pytest.mark.parametrize(
    "password",
    [
        PASSWORD,
        "four words will do",
        "another good one",
        "vT9#kLq2!mZx7@Rb",
        "grüne Äpfel im Regen",
        "日本語のながいパスワードです。",
    ],
)
def test_good_passwords_are_taken(password: str) -> None:
    assert passwords.require_strong(password, "anna.petersen") == password


@pytest.fixture
def fips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "is_fips_mode", lambda: True)


def test_in_fips_mode_it_is_pbkdf2_and_what_is_kept_goes_on_working(fips: None, sites: Callable[..., Site]) -> None:
    kept = passwords.hash_password(PASSWORD)
    assert kept.startswith("$pbkdf2-sha512$210000$")
    assert kept != passwords.hash_password(PASSWORD)
    account = Account("anna", UserRole.VIEWER, kept, 0.0)
    assert passwords.is_password_of(account, PASSWORD)
    assert not passwords.is_password_of(account, PASSWORD + "x")
    assert not passwords.is_password_of(None, PASSWORD)
    site = sites()
    site.add("anna", UserRole.VIEWER)
    assert site.accounts.by_name["anna"].password == HASH  # argon2id, from before
    client = site.browser()
    assert sign_in(client, "anna").status_code == 303
    assert site.accounts.by_name["anna"].password.startswith("$pbkdf2-sha512$")
    assert client.get("/").status_code == 200  # the session goes on
    assert sign_in(site.browser(), "anna").status_code == 303


def test_what_is_kept_in_fips_mode_works_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "is_fips_mode", lambda: True)
    account = Account("anna", UserRole.VIEWER, passwords.hash_password(PASSWORD), 0.0)
    monkeypatch.undo()
    assert passwords.is_password_of(account, PASSWORD)
    assert passwords.is_outdated(account)


def test_fips_mode_is_openssl_s_own_word(tmp_path: Path) -> None:
    """No validated provider is to be had here: OpenSSL is set to prefer one, and says so."""
    config = tmp_path / "openssl.cnf"
    config.write_text("openssl_conf = init\n[init]\nalg_section = wanted\n[wanted]\ndefault_properties = fips=yes\n")
    ask = "from edge.web.passwords import is_fips_mode; print(int(is_fips_mode()))"

    def said(**more: str) -> str:
        environment = {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), **more}
        return subprocess.run(
            [sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True, timeout=60
        ).stdout.strip()

    assert said() == "0"
    assert said(OPENSSL_CONF=str(config)) == "1"
