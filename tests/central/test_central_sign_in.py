"""Signing in at the central office, as a process with TLS: banner, lock, accounts that end; strangers fill no log."""

from __future__ import annotations

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace

import httpx
import pytest

from edge.central.accounts import record_in_journal
from edge.store.engine import rows
from edge.web.accounts import Account, Accounts, Use, UserRole, end_of_day
from tests.support.central_office import CentralOffice, OpenDatabase, some_sites
from tests.support.web_site import HASH, PASSWORD, csrf

KEYS = '''
banner = """
First line of the notice.
Second line."""
lock_after = 2
idle = "2m"
admin_idle = "1m"
sessions = 1
'''


@pytest.fixture(scope="module")
def central(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CentralOffice]:
    with CentralOffice(tmp_path_factory.mktemp("central"), some_sites(1), KEYS) as office:
        yield office


def command(central: CentralOffice, *words: str) -> subprocess.CompletedProcess[str]:
    return central.run("account", *words)


def sign_in(client: httpx.Client, name: str, password: str = PASSWORD) -> int:
    shown = client.get("/sign-in").text
    assert "First line of the notice.\nSecond line." in shown
    given = {"csrf": csrf(client), "name": name, "password": password}
    assert client.post("/sign-in", data=given).status_code == 403
    form = client.post("/sign-in", data={"csrf": given["csrf"], "acknowledge": "yes"}).text
    found = re.search(r'name="acknowledged" value="([0-9a-f]+)"', form)
    assert found
    return client.post("/sign-in", data=given | {"acknowledged": found[1]}).status_code


def journal(central: CentralOffice) -> list[str]:
    return [row["text"] for row in central.ask("SELECT text FROM journal ORDER BY id")]


def test_the_same_as_at_a_site(central: CentralOffice) -> None:
    def browser() -> httpx.Client:
        return httpx.Client(base_url=central.url, verify=central.context, timeout=60)

    assert "characters" in command(central, "ann", "--password", "too short").stderr
    assert command(central, "ann", "--password", PASSWORD, "--role", "operator").returncode == 0
    time.sleep(0.01)
    with browser() as one, browser() as two:
        assert sign_in(one, "ann") == 303
        assert "First sign-in" in one.get("/").text
        assert sign_in(two, "ann") == 303
        assert one.get("/").status_code == 303  # one session of an account
        assert two.get("/").status_code == 200
        assert [sign_in(one, "ann", "wrong") for _ in range(2)] == [401, 401]
        assert sign_in(one, "ann") == 401  # locked
        assert command(central, "ann", "--enable").returncode == 0
        assert sign_in(one, "ann") == 303
        assert command(central, "ann", "--disable").returncode == 0
        assert one.get("/").status_code == 303
        assert sign_in(one, "ann") == 401
        assert command(central, "ann", "--enable", "--expires", "2001-01-01").returncode == 0
        assert sign_in(one, "ann") == 401
    entries = journal(central)
    assert entries.count("signed in, from 127.0.0.1") == 3
    pattern = r"account ann: locked until [-0-9: A-Z]+ after 2 failures, from 127"
    assert [text for text in entries if re.match(pattern, text)]
    assert "account ann: operator, disabled" in entries
    assert "account ann: operator, until 2001-01-01" in entries


def test_bad_requests_fill_no_log(central: CentralOffice) -> None:
    before = len(central.log.read_text().splitlines())
    for _ in range(60):
        with (
            socket.create_connection(("127.0.0.1", central.port), timeout=60) as plain,
            central.context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
            suppress(OSError),
        ):
            sock.sendall(b"nonsense\r\n\r\n")
            sock.recv(1000)
    assert len(central.log.read_text().splitlines()) - before <= 12


def test_accounts_are_kept_by_either_database(database: str) -> None:
    with closing(OpenDatabase(database)) as store:
        kept = Accounts(store, record_in_journal)
        kept.put(Account("anna", UserRole.VIEWER, HASH, 1.0, expires_at=end_of_day("2030-12-31")), "root")
        for second in range(5):
            found = kept.find("anna")
            assert found
            kept.record_failure(found, "10.0.0.1", 1000.0 + second, 3)
        locked = kept.find("anna")
        assert locked
        assert locked.use.is_locked(1004.0)
        kept.put(replace(locked, disabled=True), "root")
        kept.record_sign_in("anna", "10.0.0.2", 1010.0)
        assert kept.find("anna") == replace(locked, disabled=True, use=Use(1010.0, "10.0.0.2"))
        kept.record_unknown_name("10.0.0.3", 7)
        with store.reading() as conn:
            entries = [row["text"] for row in rows(conn, "SELECT text FROM journal ORDER BY id")]
        assert entries[1:5] == [
            *["sign-in refused, from 10.0.0.1"] * 3,
            "account anna: locked until 1970-01-01 00:31 UTC after 3 failures, from 10.0.0.1",
        ]
