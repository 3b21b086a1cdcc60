"""The central office as a process with TLS: what it answers, its pages, and a real gateway that dies and returns."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge.monitor.heartbeat import sign
from edge.store.engine import Row
from tests.support.central_office import CentralOffice, document, encoded, key_of, some_sites
from tests.support.peers import Edge, wait_until


@pytest.fixture(scope="module")
def central(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CentralOffice]:
    with CentralOffice(tmp_path_factory.mktemp("central"), some_sites(3)) as office:
        yield office


@pytest.fixture
def client(central: CentralOffice) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=central.url, verify=central.context) as client:
        yield client


def post(client: httpx.Client, body: bytes, *, site: str = "1", key: bytes = b"") -> tuple[int, Any]:
    headers = {"Edge-Site": site, "Edge-Signature": sign(key or key_of(site), body)}
    answer = client.post("/heartbeat", content=body, headers=headers)
    return answer.status_code, answer.json()


def test_what_it_answers(client: httpx.Client, central: CentralOffice) -> None:
    now = time.time()
    first = encoded(document("1", 1, now))
    ledger = {"era": 1, "seq": 1, "head": f"{1:064x}"}
    assert post(client, first) == (200, {"number": 1, "taken": "new", "ledger": ledger})
    assert post(client, first) == (200, {"number": 1, "taken": "again", "ledger": ledger})
    assert post(client, encoded(document("1", 1, now + 1)))[0] == 409
    assert post(client, encoded(document("2", 1, now)))[0] == 422, "another site than the header says"
    assert post(client, b"{")[0] == 400
    assert post(client, encoded({**document("1", 2, now), "number": "two"}))[0] == 422
    assert post(client, b" " * (2 << 20) + b"{}")[0] == 413
    assert post(client, first, key=b"another")[0] == 401
    assert post(client, first, site="nobody")[0] == 401
    assert client.post("/heartbeat", content=first).status_code == 401
    kinds = [each["kind"] for each in central.cli("incidents")]
    assert sorted(kinds) == ["number-reused", "signature-refused"]


def sign_in(client: httpx.Client, central: CentralOffice) -> None:
    """The first account, by the link that the start has logged."""
    link = re.search(r"https://\S+(/setup\?token=\S+)", central.log.read_text())
    assert link
    page = client.get(link[1])
    name = {"name": "ann", "password": "four words will do", "again": "four words will do"}
    done = client.post("/setup", data={**hidden(page.text), **name})
    assert done.status_code == 303, done.text


def hidden(page: str) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="([a-z]+)" value="([^"]*)"', page))


def test_the_pages(client: httpx.Client, central: CentralOffice) -> None:
    post(client, encoded(document("2", 1, time.time())), site="2")
    assert client.get("/").headers["location"] == "/sign-in", "nothing is shown to strangers"
    assert client.get("/ask/inventory.csv").status_code == 303
    sign_in(client, central)
    assert "Site 2" in client.get("/").text
    assert client.get("/?q=never").status_code == 200
    for path in ("/site/2?over=day", "/site/2?over=year", "/site/3", "/incidents", "/incidents?show=all"):
        assert client.get(path).status_code == 200, path
    for name in ("filling", "equipment", "downtime", "capacity", "inventory"):
        for kind in ("", ".csv", ".json"):
            assert client.get(f"/ask/{name}{kind}").status_code == 200, name
    assert client.get("/site/99").status_code == client.get("/ask/nothing").status_code == 404


def test_an_incident_is_acknowledged_noted_and_closed(client: httpx.Client, central: CentralOffice) -> None:
    body = encoded(document("3", 1, time.time()))
    post(client, body, site="3", key=b"another")
    number = next(each["id"] for each in central.cli("incidents") if each["site"] == "3")
    central.cli("incident", "show", str(number))
    if not client.get("/").is_success:
        client.post(
            "/sign-in", data={**hidden(client.get("/sign-in").text), "name": "ann", "password": "four words will do"}
        )
    path = f"/incidents/{number}"
    form = hidden(client.get(path).text)
    for what, note in (("acknowledge", ""), ("note", "the key was mistyped"), ("close", "mended")):
        assert client.post(f"{path}/decide", data={**form, "what": what, "note": note}).status_code == 303
    assert client.post(f"{path}/decide", data={**form, "what": "close", "note": "again"}).status_code == 409
    assert client.post(f"{path}/decide", data={"what": "close", "note": "forged"}).status_code == 403
    found = central.cli("incident", "show", str(number))
    assert found["closed_at"]
    assert [each["who"] for each in found["notes"]] == ["ann"] * 3


def test_a_killed_gateway_is_down_and_its_return_is_measured(tmp_path: Path, running: ExitStack) -> None:
    site = '[site."0067"]\nkey = "0067.key"\n'
    central = running.enter_context(CentralOffice(tmp_path / "central", site))
    (tmp_path / "edge").mkdir()
    key = tmp_path / "edge" / "site.key"
    key.touch(mode=0o600)
    key.write_bytes(key_of("0067"))
    heartbeat = f'[heartbeat]\nurl = "{central.url}/heartbeat"\nevery = "1s"\nkey = "{key}"\n'
    edge = running.enter_context(Edge(tmp_path / "edge", heartbeat + f'ca = "{central.directory / "ca.pem"}"\n'))
    wait_until(lambda: central.ask("SELECT id FROM site"), 20, "the site is heard")
    killed_from = time.time()
    edge.kill()
    died = time.time()
    wait_until(lambda: silent(central), 10, "the site is down")
    (site,) = central.cli("sites")
    assert (site["site"], site["word"]) == ("0067", "silent")
    started_from = time.time()
    edge.start()
    back = time.time()
    wait_until(lambda: not silent(central), 20, "the site is heard again")
    outage = wait_until(lambda: account_of(central), 20, "the site has told of its downtime")
    assert outage["cause"] == "down"
    for begun, ended in (("down_from", "down_to"), ("reported_from", "reported_to")):
        assert outage[begun] <= died, begun
        # The kernel counts a process's start from a boot time of whole seconds.
        assert started_from - 1.1 <= outage[ended], ended
    assert outage["reported_to"] <= back, "it ran again"
    assert outage["reported_from"] > int(killed_from) - 60, "it was running shortly before"
    (incident,) = [each for each in central.cli("incidents", "--all") if each["kind"] == "site-down"]
    assert incident["closed_at"]


def silent(central: CentralOffice) -> bool:
    return bool(central.ask("SELECT id FROM incident WHERE kind = 'site-down' AND closed_at IS NULL"))


def account_of(central: CentralOffice) -> Row | None:
    """The outage, once the site has told of it."""
    return next(iter(central.ask("SELECT * FROM outage WHERE reported_from IS NOT NULL")), None)


def test_a_stop_ends_couriers_and_database_in_order(tmp_path: Path) -> None:
    with CentralOffice(tmp_path, some_sites(1)) as central:
        assert central.stop() == 0
    assert "stopped in order" in central.log.read_text()
    assert not list(tmp_path.rglob("central.db-wal")), "SQLite's log is folded in when the last connection closes"
