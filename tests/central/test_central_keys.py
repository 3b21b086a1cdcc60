"""Keys, certificate and sites of a running centre are exchanged without a restart; a bad one changes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock
from urllib.parse import urlsplit

import httpx
import pytest
import trustme

from edge.central import config as configuration
from edge.central import service
from edge.central.config import CentralConfig
from edge.monitor.heartbeat import sign
from edge.store.central import open_store
from tests.support.central_office import (
    CentralOffice,
    document,
    encoded,
    key_of,
    some_sites,
    write_config,
    write_secret,
)
from tests.support.peers import wait_until

NEXT = b"the next key of the first site"


@pytest.fixture(scope="module")
def central(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CentralOffice]:
    """One for all tests: each changes what is of its own site."""
    sites = some_sites(2).replace('key = "1.key"', 'key = "1.key"\nnext_key = "1-next.key"')
    with CentralOffice(tmp_path_factory.mktemp("central"), sites) as office:
        yield office


def answer(central: CentralOffice, site: str, key: bytes, number: int = 1) -> int:
    body = encoded(document(site, number, time.time()))
    headers = {"Edge-Site": site, "Edge-Signature": sign(key, body)}
    return httpx.post(f"{central.url}/heartbeat", content=body, headers=headers, verify=central.context).status_code


def hang_up(central: CentralOffice) -> None:
    assert central.process
    os.kill(central.process.pid, signal.SIGHUP)


def test_a_key_is_exchanged_while_the_site_reports_with_the_old_one(central: CentralOffice) -> None:
    assert answer(central, "1", key_of("1")) == 200
    assert answer(central, "1", key_of("1-next"), 2) == 200, "both are valid"
    assert answer(central, "2", key_of("1-next")) == 401, "for their own site alone"
    write_secret(central.conf / "1.key", NEXT)
    wait_until(lambda: answer(central, "1", NEXT, 3) == 200, 60, "a file that has changed is read again")
    assert answer(central, "1", key_of("1"), 4) == 401
    (central.conf / "central.toml").write_text(
        (central.conf / "central.toml").read_text().replace('next_key = "1-next.key"\n', "")
    )
    hang_up(central)
    wait_until(lambda: answer(central, "1", key_of("1-next"), 5) == 401, 60, "the old one is gone")
    assert answer(central, "1", NEXT, 6) == 200


def test_what_cannot_be_used_changes_nothing(central: CentralOffice) -> None:
    write_secret(central.conf / "2.key", b"short")
    wait_until(lambda: "cannot be used, the previous ones stay active" in central.output(), 60, "it says so")
    assert "2.key is no key" in central.output()
    assert answer(central, "2", key_of("2")) == 200
    assert answer(central, "2", b"short", 2) == 401
    write_secret(central.conf / "2.key", key_of("2"))
    text = (central.conf / "central.toml").read_text()
    (central.conf / "central.toml").write_text(text + "[sit]\n")
    hang_up(central)
    wait_until(lambda: "the previous one stays active" in central.output(), 60, "it says so")
    assert answer(central, "2", key_of("2"), 2) == 200
    (central.conf / "central.toml").write_text(text)


def test_sites_beside_a_certificate_that_cannot_be_used_change_nothing_either(central: CentralOffice) -> None:
    text, said = (central.conf / "central.toml").read_text(), "the previous one stays active"
    before = central.output().count(said)
    write_secret(central.conf / "4.key", key_of("4"))
    bad = text.replace("[central]", '[central]\nclient_ca = "gone.pem"') + '[site."4"]\nkey = "4.key"\n'
    (central.conf / "central.toml").write_text(bad)
    hang_up(central)
    wait_until(lambda: central.output().count(said) > before, 60, "it says so")
    assert answer(central, "4", key_of("4")) == 401
    (central.conf / "central.toml").write_text(text)


def test_a_fault_of_the_centre_itself_while_it_reads_them_changes_and_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    config = write_config(tmp_path / "conf.d", some_sites(1))
    fault = MagicMock(side_effect=ZeroDivisionError)

    async def read_again() -> bool:
        async with open_store(config.database_url()) as store:
            server = service.CentralServer(config, store)
            monkeypatch.setattr(configuration, "load", fault)
            monkeypatch.setattr(CentralConfig, "read_keys", fault)
            server._reload.set()
            await server.turn()
            write_secret(config.directory / "1.key", NEXT)
            server.refresh()
            server.refresh()
            server.close()
            return server.config is config

    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        assert asyncio.run(read_again())
    assert "the previous one stays active: ZeroDivisionError" in caplog.text
    assert "the previous ones stay active: ZeroDivisionError" in caplog.text


def test_a_site_is_added_without_a_restart(central: CentralOffice) -> None:
    assert answer(central, "3", key_of("3")) == 401
    write_secret(central.conf / "3.key", key_of("3"))
    with (central.conf / "central.toml").open("a") as file:
        file.write('[site."3"]\nkey = "3.key"\n')
    hang_up(central)
    wait_until(lambda: answer(central, "3", key_of("3")) == 200, 60, "it is heard")
    assert "3" in [each["site"] for each in central.cli("sites")]


def test_a_new_certificate_is_used_for_new_connections(central: CentralOffice) -> None:
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(central.directory / "central.pem"))
    fresh = ssl.create_default_context()
    authority.configure_trust(fresh)
    wait_until(lambda: is_trusted(central, fresh), 60, "the new one is shown")
    central.context = fresh


def is_trusted(central: CentralOffice, context: ssl.SSLContext) -> bool:
    try:
        return httpx.get(f"{central.url}/healthz", verify=context).status_code == 200
    except httpx.TransportError:
        return False


# -- one length of a request -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/heartbeat", "/healthz", "/sign-in"])
@pytest.mark.parametrize("lengths", [("Content-Length: 5", "Transfer-Encoding: chunked"), None], ids=["both", "one"])
def test_two_lengths_of_one_request_are_refused_and_the_connection_ends(
    central: CentralOffice, path: str, lengths: tuple[str, str] | None
) -> None:
    head = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", *(lengths or ("Content-Length: 5",))]
    body = "0\r\n\r\n" if lengths else "12345"
    hidden = "GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
    got = raw(central, "\r\n".join([*head, "", body]) + hidden)
    statuses = [line.split()[1] for line in got.split("\r\n") if line.startswith("HTTP/1.1 ")]
    assert (statuses == ["400"]) == bool(lengths), got


def raw(central: CentralOffice, text: str) -> str:
    port = urlsplit(central.url).port or 0
    with (
        socket.create_connection(("127.0.0.1", port), timeout=60) as plain,
        central.context.wrap_socket(plain, server_hostname="127.0.0.1") as sock,
    ):
        sock.sendall(text.encode())
        found = b""
        while piece := sock.recv(65_536):
            found += piece
    return found.decode()
