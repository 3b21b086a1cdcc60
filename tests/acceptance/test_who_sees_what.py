"""Every page of the console, as each role: what names a patient is shown to few, and never without a ledger row."""

from __future__ import annotations

import json
import re
import sqlite3
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.routing import Route

from edge.config import load_config
from edge.console import application
from edge.console.access import Access
from edge.web.setup import Setup
from tests.acceptance.test_promises import scanner
from tests.support.ledger_rows import with_words
from tests.support.objects import as_pdf, ct_files, new_uid, sop_instance_uid
from tests.support.peers import Edge, routes_to, storescu, wait_until
from tests.support.scripted import ScriptedScp, answer_with
from tests.support.visitor import visitor
from tests.support.web_site import Kept

MARKS = ("alphafink", "betafink", "gammafink", "quotefink", "deltafink")
#: A list in another order has the same rows: one order of each list stands for all.
SORTED, ORDERS = re.compile(r"[?&](sort|down|page)="), ("/queue?sort=patient&down=", "/studies?sort=patient&down=")
#: The value of a filter.
GIVEN = re.compile(r"=[^&]*")
#: UIDs of objects; those that the Standard registers name kinds.
#: But those of the standard, and our own implementation's.
UID = re.compile(r"(?<![0-9.])(?!1\.2\.840\.10008\.)(?!1\.2\.826\.0\.1\.3680043\.10\.1\b)[0-9]+(?:\.[0-9]+){5,}\b")
MACHINES = ("/healthz", "/readyz", "/metrics", "/api/status")
HOLD = "1.2.826.0.1.3680043.8.498.4711"


def patient(mark: str) -> dict[str, str]:
    """Attributes each of which names the patient."""
    return {
        "PatientName": f"{mark}^Zoe",
        "PatientID": f"PID-{mark}",
        "AccessionNumber": f"A-{mark}",
        "StudyDescription": f"study of {mark}",
        "SeriesDescription": f"series of {mark}",
        "ReferringPhysicianName": f"Dr^{mark}",
        "PatientBirthDate": "19040229",
    }


class Clinic:
    """A gateway that has a good object, a conflict, two in quarantine, and an archive that quotes a patient."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        archive = stack.enter_context(ScriptedScp([answer_with(0xC000, "no such patient: Quotefink^Zoe")]))
        config = routes_to(archive) + '[modality.ct1]\nae_title = "CT1"\n'
        config += '[console]\nproxies = ["127.0.0.1"]\nuser_header = "X-Remote-User"\nuser_role = "operator"\n'
        config += f'[hold.one]\nstudies = ["{HOLD}"]\n[hold.two]\nwhen = {{ PatientName = "*deltafink*" }}\n'
        self.edge = stack.enter_context(Edge(folder / "edge", config))
        for role in ("viewer", "admin"):
            done = self.edge.cli("console", "accounts", "add", role, "--role", role, "--proxy")
            assert done.returncode == 0, done.stderr
        (alpha,), (beta,), (gamma,) = (ct_files(folder / each, 1, 4096, **patient(each)) for each in MARKS[:3])
        beta.write_bytes(beta.read_bytes().replace(sop_instance_uid(beta).encode(), sop_instance_uid(alpha).encode()))
        torn = folder / "torn.dcm"
        torn.write_bytes(gamma.read_bytes()[: gamma.read_bytes().index(b"gammafink^Zoe") + 8])
        with scanner(self.edge.port) as ct:
            assert ct.store(alpha) == 0
            assert ct.store(beta) == 0
            assert ct.store(gamma, new_uid()) == 0xC000
            assert ct.store(torn) == 0xC000
        (letter,) = ct_files(folder / "letter", 1, 4096, **patient("alphafink"))
        storescu([as_pdf(letter)], self.edge.port)
        wait_until(lambda: self.edge.api_status()["destinations"]["archive"]["held"] >= 1, 20, "one is refused")
        ct_files(folder / "disc", 1, 4096, PatientName="Disc^Zoe", PatientID="PID-disc")
        assert self.edge.cli("import", str(folder / "disc")).returncode == 0
        self.stack, self._numbers = stack, count(1)

    def visitor(self, name: str = "") -> httpx.Client:
        """Somebody by the proxy's word; without a name, an operator who was never here."""
        client = self.stack.enter_context(visitor(self.edge.url("")))
        client.headers["X-Remote-User"] = name or f"operator-{next(self._numbers)}"
        return client

    def rows(self, sql: str, *args: object) -> list[Any]:
        with closing(sqlite3.connect(self.edge.data_dir / "catalog.db")) as conn:
            return conn.execute(sql, args).fetchall()

    def objects(self, mark: str) -> tuple[set[int], set[int]]:
        """The studies, and the instances without one, that a mark belongs to."""
        if mark == "gammafink":
            return set(), {row[0] for row in self.rows("SELECT id FROM instance WHERE study_id IS NULL")}
        patient = "alphafink" if mark == "quotefink" else mark
        return {row[0] for row in self.rows("SELECT id FROM study WHERE patient_id = ?", f"PID-{patient}")}, set()

    def seen_by(self, who: str) -> tuple[set[int], set[int]]:
        """Studies and instances that the ledger says somebody was shown."""
        found = self.rows("SELECT study_id, instances FROM ledger WHERE event = 'viewed' AND who = ?", who)
        return {row[0] for row in found if row[0]}, {each for row in found for each in json.loads(row[1])}


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    with ExitStack() as stack:
        yield Clinic(tmp_path_factory.mktemp("clinic"), stack)


@pytest.fixture(scope="module")
def addresses(clinic: Clinic) -> list[str]:
    """Every address that a link or a picture of a page leads to, for an administrator, and those that scripts ask.

    Of those that join several filters, which show part of what each shows, one of each kind.
    """
    client, found, seen = clinic.visitor("admin"), dict[str, str](), set[str]()
    waiting = deque(["/", "/nowhere", "/password", "/sign-in", "/setup", "/import/upload/0/part?name=a"])
    while waiting and len(found) < 400:
        path = waiting.popleft()
        kind = GIVEN.sub("", path) if "&" in path else path
        if kind not in seen:
            seen.add(kind)
            found[path] = client.get(path).text
            links = re.findall(r'(?:href|src)="(/[^"#]*)', found[path])
            plain = (link.replace("&amp;", "&") for link in links if not link.startswith("/static/"))
            waiting.extend(link for link in plain if not SORTED.search(link) or link in ORDERS)
    return [*found, *MACHINES]


def csrf(client: httpx.Client) -> str:
    page = client.get("/password")
    found = re.search(r'name="csrf" value="([0-9a-f]+)"', page.text)
    assert found, (page.status_code, page.text[:300])
    return found[1]


#: What people post, and the answers that are pages.
POSTS = [
    ("/studies/search", {"patient_name": "fink"}),
    ("/queue/decide", {"action": "hold"}),
    ("/queue/decide", {"action": "nonsense", "pick": "1:held:archive", "reason": "x"}),
    ("/dry-run", {"text": ""}),
    ("/alerts/acknowledge", {"id": "0", "note": "x"}),
]


def unrecorded(clinic: Clinic, who: str, text: str) -> list[str]:
    """The marks in a body about whose objects the ledger does not say that they were shown to somebody."""
    studies, instances = clinic.seen_by(who)
    missing = []
    for mark in MARKS[:4]:
        if mark in text.lower():
            of_mark, without_study = clinic.objects(mark)
            assert of_mark or without_study
            if not (of_mark & studies or without_study & instances):
                missing.append(mark)
    return missing


def test_the_walk_comes_to_every_page(clinic: Clinic, addresses: list[str]) -> None:
    config = load_config(clinic.edge.config_dir)
    access = Access(None, None, lambda: config, clinic.edge.config_dir, dict, dict)  # type: ignore[arg-type]
    app = application.build_console(access, Setup(Kept()))
    routes = [each for each in app._app.routes if isinstance(each, Route) and "GET" in (each.methods or ())]  # type: ignore[attr-defined]
    known = [each for each in routes if each.path not in ("/static/{name}", "/{rest:path}", *application.OLD_PAGES)]
    paths = [address.partition("?")[0] for address in addresses]
    assert [each.path for each in known if not any(each.path_regex.match(path) for path in paths)] == []
    assert len(known) > 10


def test_what_an_operator_sees_of_patients_is_in_the_ledger(clinic: Clinic, addresses: list[str]) -> None:
    faults, shown = {}, set()
    for address in addresses:
        client = clinic.visitor()
        text = client.get(address).text
        client.close()
        shown |= {mark for mark in MARKS if mark in text.lower()}
        if missing := unrecorded(clinic, client.headers["X-Remote-User"], text):
            faults[address] = missing
    for path, form in POSTS:
        client = clinic.visitor()
        text = client.post(path, data={"csrf": csrf(client), **form}).text
        client.close()
        if missing := unrecorded(clinic, client.headers["X-Remote-User"], text):
            faults[path] = missing
    assert not faults
    assert shown == set(MARKS)  # the search works


def test_the_header_of_an_object_in_quarantine_is_a_look_at_it(clinic: Clinic) -> None:
    client = clinic.visitor()
    for (number,) in clinic.rows("SELECT id FROM instance WHERE study_id IS NULL"):
        client.get(f"/exceptions/{number}")
        assert number in clinic.seen_by(client.headers["X-Remote-User"])[1]


def test_a_viewer_sees_nothing_of_a_patient_and_no_uid(clinic: Clinic, addresses: list[str]) -> None:
    viewer, faults = clinic.visitor("viewer"), {}
    token = csrf(viewer)
    bodies = {address: viewer.get(address).text for address in addresses}
    bodies |= {path: viewer.post(path, data={"csrf": token, **form}).text for path, form in POSTS}
    study = clinic.rows("SELECT study_uid FROM study")[0][0]
    found = viewer.post("/studies/search", data={"csrf": token, "study_uid": study, "modality": "XX"}).text
    assert study not in found
    for address, text in bodies.items():
        marks = [mark for mark in (*MARKS, "19040229", "1904-02-29") if mark in text.lower()]
        if marks or UID.search(text):
            faults[address] = marks + UID.findall(text)[:3]
    assert not faults
    assert clinic.seen_by("viewer") == (set(), set())


@pytest.mark.parametrize("number", ["\N{SUPERSCRIPT TWO}", "9" * 30, "9" * 5000, "-1", "1_0", ""])
def test_no_number_breaks_a_page(clinic: Clinic, number: str) -> None:
    client = clinic.visitor()
    token = csrf(client)
    assert client.get("/queue", params={"study": number}).status_code == 200
    assert client.get(f"/studies/{number}").status_code in (200, 404)
    given = {"csrf": token, "pick": f"{number}:held:archive", "action": "hold", "reason": "x"}
    assert client.post("/queue/decide", data=given).status_code == 422
    assert client.post("/alerts/acknowledge", data={"csrf": token, "id": number}).status_code == 409
    assert "cannot be answered" not in clinic.edge.log.read_text()


def test_without_sign_in_there_is_nothing(clinic: Clinic, addresses: list[str]) -> None:
    with visitor(clinic.edge.url("")) as nobody:
        for address in addresses:
            text = nobody.get(address).text
            assert not [mark for mark in MARKS if mark in text.lower()], address
            assert not UID.search(text), address
    assert not [mark for mark in MARKS if mark in clinic.edge.log.read_text().lower()]


def test_what_cannot_be_recorded_is_not_shown(clinic: Clinic) -> None:
    from edge.console.access import ViewRecorder
    from edge.errors import StorageUnhealthy
    from edge.store.database import Store
    from edge.web.accounts import Account, UserRole
    from edge.web.guard import Visitor

    class Broken:
        def write(self, work: object) -> None:
            raise StorageUnhealthy("the disk")

    visitor = Visitor("10.0.0.1", False, "", account=Account("anna", UserRole.OPERATOR, "", 0.0))
    broken = ViewRecorder(Broken())  # type: ignore[arg-type]
    for _ in range(2):
        with pytest.raises(StorageUnhealthy):
            broken.record(visitor, "a page", instances=[7])
    db = Store(clinic.edge.directory / "other.db")
    recorder = ViewRecorder(db)
    try:
        recorder.record(visitor, "a page", studies=[1], instances=[7, 8])
        recorder.record(visitor, "a page", studies=[1], instances=[8])
        with db.reading() as conn:
            sql = "SELECT study_id, instances, words(event, detail, payload) FROM ledger"
            rows = [tuple(row) for row in with_words(conn).execute(sql)]
    finally:
        db.close()
    assert rows == [(1, "[]", "a page, from 10.0.0.1"), (None, "[7, 8]", "a page, from 10.0.0.1")]
