"""A console without a gateway: a real catalog with rows for every page, served by the test's own process."""

from __future__ import annotations

import base64
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pydicom
from playwright.sync_api import Browser, Page
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset

from edge.config.edit import digest_files, read_files
from edge.console.access import Access
from edge.console.accounts import record_in_ledger
from edge.console.application import NAVIGATION, build_console
from edge.daemon.changes import CHANGES, RELEASER_DECISIONS, announce_to_centre
from edge.model import Outcome
from edge.monitor.status_document import status_json
from edge.storage.release import Releaser
from edge.store import configuration_versions, imports, ledger, legal_holds, relays, samples, worklist
from edge.store.callers import Calls, remember_peer
from edge.web.accounts import Account, Accounts, UserRole
from edge.web.passwords import hash_password
from edge.web.server import WebServer
from edge.web.setup import Setup
from tests.monitor import test_advice as staging
from tests.support.clinic import csrf
from tests.support.filled import CONFIG
from tests.support.hl7 import merge, order, update
from tests.support.ledger_rows import with_words
from tests.support.objects import ct_files
from tests.support.visitor import visitor

PASSWORD = "correct horse battery"
HASH = hash_password(PASSWORD)
DAY = 86_400.0
EXPLICIT = "1.2.840.10008.1.2.1"
#: Tables that give every page something to show.
PARTS = """
[calendar]
time_zone = "UTC"
[hl7]
port = 2575
[feed.his]
hosts = ["10.10.9.5"]
authority = "MTF0067"
[relay.vna]
host = "vna.example.org"
port = 2575
messages = ["ADT"]
[worklist]
from = "archive"
[mpps]
to = ["archive"]
[query]
[dicomweb]
port = 8043
[client.viewer]
token = "viewer-token"
services = ["query", "retrieve"]
[coerce.institution]
to = ["archive"]
set = { InstitutionName = "Example Health Clinic" }
[maintenance.switch]
from = "2037-01-01 22:00"
to = "2037-01-02 02:00"
reason = "a new core switch for the whole of the second floor"
"""


class ConsoleSite(staging.Site):
    """A catalog and its console; `url` is where a browser finds it."""

    def __init__(self, tmp_path: Path) -> None:
        super().__init__(tmp_path)
        serves = 'ae_title = "CT1"\nservices = ["echo", "store", "commit", "query", "worklist", "mpps"]\n'
        self.write(CONFIG.replace('ae_title = "CT1"\n', serves, 1) + PARTS)
        self.reload()
        access = Access(self.db, self.spool, lambda: self.config, self.directory, self._status, self._change)
        accounts = Accounts(self.db, record_in_ledger)
        for role in UserRole:
            accounts.put(Account(role.name.lower(), role, HASH, time.time() - 1), "test")
        self.server = WebServer(build_console(access, Setup(accounts)), "127.0.0.1", 0)
        self.server.start()
        self.url = f"http://127.0.0.1:{self.server.port}"
        self._clients: list[httpx.Client] = []

    def _status(self) -> Any:
        return status_json(self.seen())

    def _change(self, name: str, fields: dict[str, Any]) -> Any:
        """A command of the control socket."""
        if name == "settle":
            return {"settled": True}
        if name == "announce":
            return announce_to_centre(self.db, self.config, fields)
        if name in RELEASER_DECISIONS:
            return RELEASER_DECISIONS[name](Releaser(self.db, self.spool, self.intake), fields)
        return CHANGES[name](self.db, fields)

    def close(self) -> None:
        for client in self._clients:
            client.close()
        self.server.stop()
        super().close()

    def person(self, name: str) -> httpx.Client:
        """Somebody who has signed in: viewer, operator or admin."""
        client = visitor(self.url)
        self._clients.append(client)
        given = {"csrf": csrf(client, "/sign-in"), "name": name, "password": PASSWORD, "to": "/"}
        assert client.post("/sign-in", data=given).status_code == 200
        return client

    def open(self, browser: Browser, name: str, path: str = "/queue", **context: Any) -> Page:
        """A page of somebody who has signed in."""
        page = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **context}).new_page()
        page.goto(self.url + path)
        page.get_by_label("Name").fill(name)
        page.get_by_label("Password").fill(PASSWORD)
        page.keyboard.press("Enter")
        page.wait_for_url(self.url + path)
        return page

    def ledger(self, event: str) -> list[tuple[Any, ...]]:
        sql = "SELECT who, study_id, destination, words(event, detail, payload) FROM ledger WHERE event = ?"
        with self.db.reading() as conn:
            return [tuple(row) for row in with_words(conn).execute(sql, (event,)).fetchall()]

    # -- an archive that comes and goes -------------------------------------------------------------------------------

    def lose(self, destination: str) -> None:
        """It does not answer, and the watch has noticed."""
        self.live = replace(self.live, destinations={destination: staging.Link("down")})
        self.look()
        self.later = 0.0

    def find_again(self, destination: str) -> None:
        """It answers, and gets what waits."""
        self.live = replace(self.live, destinations={})
        self.send(destination)


# -- rows for every page -----------------------------------------------------------------------------------------------


def fill(site: ConsoleSite) -> None:
    """A working day on which everything happens that a page can show."""
    staging.damaged(site, sent=False)
    for name, what in (("Example^Alice", "CT HEAD"), ("Sample^Bruno", "CT ABDOMEN WITH AND WITHOUT CONTRAST")):
        site.receive(3, PatientName=name, PatientID="T1001", StudyDescription=what, AccessionNumber="A1001")
    site.send()
    staging.refused(site)
    for stage in (staging.unrouted, staging.mixed, type(site).strange, type(site).version):
        stage(site)
    site.receive(2, PatientName="Pattern^David", PatientID="T1004", AccessionNumber="A1004")
    site.settle("archive", 1, Outcome.DEFER, "no answer")
    _fill_orders(site)
    _fill_equipment(site)
    _fill_questions(site)
    _fill_history(site)
    _fill_import(site)
    site.lose("archive")


def _fill_orders(site: ConsoleSite) -> None:
    staging.receive_hl7(
        site,
        merge("M1", "T1", "T2"),
        merge("M2", "T2", "T3"),
        merge("M3", "T3", "T1"),
        update("M4", "T1", "EXAMPLE^ANNA"),
        order("M5", "NW", "1001", "T1001"),
        order("M6", "NW", "1002", "T1002"),
        update("M7", "T1001", "EXAMPLE^ALICIA"),
    )
    site.receive(2, PatientName="Other^Name", PatientID="T7777", AccessionNumber="1001")  # differs from the order
    site.db.write(lambda conn: relays.enqueue_message(conn, ["vna"], 1, []))
    site.execute("UPDATE hl7_relay SET state = 'held'")
    site.db.write(lambda conn: worklist.replace_items(conn, "", [appointment(n) for n in range(3)], time.time()))
    staging.strangers_prior(site)
    _fill_steps(site)


def _fill_steps(site: ConsoleSite) -> None:
    now, who = time.time(), "'CT1', 'EDGE', '10.10.4.21', 'ct1', 'CT1', 'CT'"
    for number, state, ended, missing in (
        (1, "COMPLETED", now - 3000, 0),
        (2, "COMPLETED", now - 1500, 2),
        (3, "IN PROGRESS", None, 0),
    ):
        columns = "id, sop_instance_uid, state, digest, calling_ae, called_ae, address, modality_name, station_ae"
        columns += ", modality, step_id, study_uid, accession_number, created_at, ended_at, missing"
        values = f"?1, '1.2.840.1.' || ?1, ?2, x'00', {who}, 'PPS' || ?1, '1.2.840.2.' || ?1, 'A200' || ?1, ?3, ?4, ?5"
        given = number, state, now - 3600 + 600 * number, ended, missing
        site.execute(f"INSERT INTO performed_step ({columns}) VALUES ({values})", *given)
        site.execute(
            "INSERT INTO step_message VALUES (?1, ?1, 'create', 1, 'record' || ?1, '1.2.3',"
            f" '{EXPLICIT}', x'00', ?2, 1)",
            *(number, now - 3600),
        )
        delivered = "'sent', 0, NULL" if number == 1 else "'held', 0, NULL" if number == 2 else "'pending', 0, NULL"
        site.execute(
            "INSERT INTO step_delivery (message_id, step_id, destination, state, not_before, ended_at)"
            f" VALUES (?1, ?1, 'archive', {delivered})",
            number,
        )


def encode(dataset: Dataset) -> bytes:
    """A data set in explicit VR little endian."""
    out = DicomBytesIO()
    out.is_little_endian, out.is_implicit_VR = True, False
    write_dataset(out, dataset)
    return bytes(out.getvalue())


def appointment(number: int) -> worklist.StoredItem:
    item, step = Dataset(), Dataset()
    name = ("Example^Alice", "Sample^Bruno", "Model^Clara")[number % 3]
    item.AccessionNumber, item.PatientName, item.PatientID = f"A200{number}", name, f"T100{number}"
    item.StudyInstanceUID, item.RequestedProcedureDescription = f"1.2.840.{number}", "CT of the abdomen"
    step.Modality, step.ScheduledStationAETitle, step.ScheduledProcedureStepID = "CT", "CT1", f"S{number}"
    step.ScheduledProcedureStepStartDate = "20370101"
    step.ScheduledProcedureStepStartTime = f"{8 + number % 10:02d}1500"
    item.ScheduledProcedureStepSequence = [step]
    return worklist.StoredItem(encode(item), "ISO_IR 192", item.StudyInstanceUID, f"S{number}", "20370101081500")


def _fill_equipment(site: ConsoleSite) -> None:
    staging.called("")(site)
    now = site.clock()
    for name, title, address in (("ct1", "CT1", "10.10.4.21"), ("client.viewer", "VIEWER", "10.10.7.7")):
        calls = Calls(name, now - staging.HOUR, now, 3)
        site.db.write(lambda conn, key=(title, address), calls=calls: remember_peer(conn, *key, calls))  # type: ignore[misc]
    staging.lossy(site)
    staging.asked(site)
    said = "?, 'anna', 'equipment', '2027-01-01', 50000000000, 'a second CT'"
    columns = "at, who, kind, from_date, expected_bytes_per_month, said"
    site.execute(f"INSERT INTO announcement ({columns}) VALUES ({said})", now)


def _fill_questions(site: ConsoleSite) -> None:
    keys = Dataset()
    keys.QueryRetrieveLevel, keys.PatientName, keys.StudyDate = "STUDY", "EXAMPLE*", "20260101-20261231"
    payload = {
        "what": "find",
        "model": "study",
        "called": "EDGE",
        "address": "10.10.5.1",
        "answers": 12,
        "seconds": 0.3,
    }
    payload |= {"status": 0, "syntax": EXPLICIT, "identifier": base64.b64encode(encode(keys)).decode()}
    for more in ({}, {"status": 0xA700, "left_out": ["archive"]}):
        given = payload | more
        site.db.write(
            lambda conn, given=given: ledger.append(conn, time.time(), ledger.QUERIED, "WS1", [], payload=given)  # type: ignore[misc]
        )


def _fill_history(site: ConsoleSite) -> None:
    now = time.time()

    def work(conn: Any) -> None:
        for hour in range(48):
            found = {"disk.used": 1e11 + 1e8 * hour, "received.bytes": 1e9 * hour, "backlog/archive": 10.0 * (hour % 7)}
            for way, name in (("received", "ct1"), ("sent", "archive")):
                found |= {f"{way}.answers/{name}": 100.0 * hour, f"{way}.answer.seconds/{name}": 2.0 * hour}
                found[f"{way}.answer.bytes/{name}"] = 1e9 * hour
            samples.add_sample(conn, now - 3600 * (48 - hour), found)
        files = read_files(site.directory)
        for number, reason in enumerate(("a second scanner", "the reader has moved")):
            name = next(iter(files))
            changed = {**files, name: files[name] + f"# {number}\n"}
            configuration_versions.record_version(conn, now - number, "anna", reason, digest_files(changed), changed)
        uid = conn.execute("SELECT study_uid FROM study ORDER BY id LIMIT 1 OFFSET 1").fetchone()[0]
        legal_holds.place_hold(conn, uid, now, "anna", "case 17/442")

    site.db.write(work)
    site.execute(
        "INSERT INTO downtime (began, ended, why, planned) VALUES (?, ?, 'killed', 0)", now - DAY, now - DAY + 1200
    )
    for day in range(5):
        values = "(?, 'CT1', 100, 99, 90, 80, 70, 1, 2)"
        site.execute(f"INSERT INTO daily_figure VALUES {values}", int(now // DAY) - day)


def _fill_import(site: ConsoleSite) -> None:
    (path,) = ct_files(site.tmp_path / "staged", 1, 1024, PatientName="Foreign^Lea")
    dataset = pydicom.dcmread(path)

    def work(conn: Any) -> None:
        batch = imports.begin_batch(conn, "/media/cdrom", "command", "anna", site.clock())
        patient = f"'{dataset.StudyInstanceUID}', 'X1', '', 'Foreign^Lea', '19700101', 'F'"
        values = f"1, {batch}, {patient}, '20260101', 'KNEE', 'CT', '', 'staged', NULL, '', NULL, ''"
        conn.execute(f"INSERT INTO import_study VALUES ({values})")
        imports.add_skipped(conn, batch, [("AUTORUN.INF", "foreign", ""), ("DIR/BOMB.ZIP", "bomb", "1000 times")])
        conn.execute("UPDATE import_batch SET ended_at = began_at, foreign_files = 3, missing = '[\"IM0007\"]'")

    site.db.write(work)


def list_pages(site: ConsoleSite) -> list[str]:
    """Every address of the console that shows a page, with something in it."""
    conflict = site.one("SELECT max(id) FROM instance WHERE state = 'conflict'")
    study = site.one("SELECT s.id FROM legal_hold h JOIN study s ON s.study_uid = h.study_uid")
    image = site.one("SELECT min(id) FROM instance WHERE state = 'stored'")
    return [
        *(entry.path for group in NAVIGATION for entry in group.entries),
        f"/studies/{study}?proof=1",
        f"/instances/{image}",
        f"/exceptions/{conflict}",
        "/import/1",
        f"/report?month={time.strftime('%Y-%m')}",
        "/configuration/history?state=1",
        "/password",
        "/help",
        "/help/alerts/lost",
        "/help/guide/find-a-stuck-study",
        "/nowhere",
    ]
