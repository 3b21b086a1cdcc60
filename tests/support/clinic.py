"""A gateway with people: two archives, a study of a patient whose data are canaries, and accounts."""

from __future__ import annotations

import re
import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, expect

from tests.support.ledger_rows import with_words
from tests.support.objects import ct_files
from tests.support.peers import Edge, StoreScp, routes_to, storescu, wait_until
from tests.support.visitor import visitor

PASSWORD = "correct horse battery"
CANARIES = ("Zebrafink", "P00CANARY", "ACC00CANARY", "DESC00CANARY")


class Clinic:
    """A gateway, two archives, a study of a patient whose data are canaries, and people with accounts."""

    def __init__(self, folder: Path, stack: ExitStack, more: str = "") -> None:
        """`more`: tables of the configuration."""
        self.folder = folder
        self.archive = stack.enter_context(StoreScp(folder / "archive"))
        self.reader = stack.enter_context(StoreScp(folder / "reader", "READER"))
        config = routes_to(self.archive, more="\n")
        config += f'[destination.reader]\nae_title = "READER"\nhost = "127.0.0.1"\nport = {self.reader.port}\n'
        config += '[modality.ct1]\nae_title = "CT1"\n' + more
        self.edge = stack.enter_context(Edge(folder / "edge", config))
        setup = re.compile(r"http://\S+/setup\S+")
        wait_until(lambda: setup.search(self.edge.log.read_text()), 10, "the setup link")
        self.link = setup.findall(self.edge.log.read_text())[-1]
        self.stack = stack
        made = self.person("admin", self.link)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o600)
        for name in ("viewer", "operator"):
            done = self.edge.cli("console", "accounts", "add", name, "--role", name, "--password-file", str(secret))
            assert done.returncode == 0, done.stderr
        assert made.get("/").status_code == 200
        self.send(5)
        wait_until(lambda: self.edge.api_status()["destinations"]["archive"]["confirmed"] == 5, 30, "they are there")

    def send(self, count: int, **attributes: Any) -> None:
        given = {"PatientName": "Zebrafink^Zoe", "PatientID": "P00CANARY", "AccessionNumber": "ACC00CANARY"}
        given |= {"StudyDescription": "DESC00CANARY"} | attributes
        name = f"ct{len(list(self.folder.iterdir()))}"
        storescu(ct_files(self.folder / name, count, 16 * 1024, **given), self.edge.port)

    def person(self, name: str, setup: str = "") -> httpx.Client:
        """Somebody who has signed in."""
        client = self.stack.enter_context(visitor(self.edge.url("")))
        given = {"name": name, "password": PASSWORD, "again": PASSWORD, "to": "/"}
        path = "/sign-in"
        if setup:
            path, given["token"] = "/setup", setup.partition("token=")[2]
        assert client.post(path, data=given | {"csrf": csrf(client, setup or path)}).status_code == 200
        return client

    def is_down(self) -> None:
        """The gateway has noticed that the archive is away, and sends nothing."""

        def noticed() -> bool:
            told = self.edge.api_status()
            return told["destinations"]["archive"]["state"] == "down" and not told["queue"]["active"]

        wait_until(noticed, 20, "the outage is noticed")

    def ledger(self, event: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self.edge.data_dir / "catalog.db")) as conn:
            sql = "SELECT who, study_id, destination, words(event, detail, payload) FROM ledger WHERE event = ?"
            return with_words(conn).execute(sql, (event,)).fetchall()


def csrf(client: httpx.Client, path: str) -> str:
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', client.get(path).text)
    assert found, path
    return found[1]


def signed_in(browser: Browser, clinic: Clinic, name: str, **context: Any) -> Page:
    page = browser.new_context(viewport={"width": 1280, "height": 900}, **context).new_page()
    page.goto(clinic.edge.url("/queue"))
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Queue")).to_be_visible()
    return page
