"""No patient is named where nobody need know: a marked one passes through every trouble, then all is searched.

`SOURCES` is what is searched: whatever else the gateway tells the outside gets a line there. What a person asks for at
the terminal (`edge queue list`, `edge studies list`), the audit trail and the catalog name patients; that is their use.
"""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pydicom
import pytest
from click.testing import CliRunner, Result

from edge.cli import cli
from edge.monitor import downtime
from tests.acceptance.test_promises import JPEG_2000, scanner, waiting
from tests.support.objects import ct_files, part10, sop_instance_uid
from tests.support.peers import Edge, StoreScp, http_get, storescu, wait_until
from tests.support.repository import Repository
from tests.support.scripted import ScriptedScp, accept, answer_with, native_only
from tests.system.test_main_job import study_of

#: DICOM keyword -> value. Any four letters of these in a row that are in no other word would do as a mark.
PATIENT = {
    "PatientName": "Kanarienvogel^Hansi",
    "PatientID": "PID-47110815-KANARI",
    "AccessionNumber": "ACC-KANARI-1",
    "PatientBirthDate": "19040229",
    "PatientComments": "sings KANARI songs",
    "StudyDescription": "Schnabel KANARI",
    "ReferringPhysicianName": "Kanarienarzt^Otto",
}
MARKS = re.compile("kanari|hansi|schnabel|19040229|47110815", re.IGNORECASE)
SECRET = "Sesam-open-up-please"
QUOTED = f"no such patient: {PATIENT['PatientName']} {PATIENT['PatientID']}"
#: An object of this accession number meets a fault of ours, whose words quote it.
FAULT = "ACC-KANARI-FAULT"

#: Runs the gateway with faults in it: in reception, in a thread, and in the end in the main thread.
FAULTY = f"""
import os, sys, threading
from edge.store import catalog
from edge.daemon.housekeeping import Schedule

add, tick = catalog.add, Schedule.run_due

def faulty_add(conn, facts, *rest):
    if facts.first("AccessionNumber") == {FAULT!r}:
        raise KeyError(f"cannot enter {{facts}}")
    return add(conn, facts, *rest)

def faulty_tick(self):
    for name in ("thread", "main") if threading.current_thread() is threading.main_thread() else ():
        path = os.path.join(os.environ["FAULTS"], name)
        if os.path.exists(path):
            def fail(words=open(path).read()):
                raise ValueError(words)
            os.remove(path)
            if name == "main":
                fail()
            threading.Thread(target=fail).start()
    return tick(self)

catalog.add, Schedule.run_due = faulty_add, faulty_tick
from edge.cli import main
main()
"""


class Faulty(Edge):
    """The gateway with faults that the test switches on by files."""

    def command(self) -> list[str]:
        script = self.directory / "faulty.py"
        script.write_text(FAULTY)
        return [sys.executable, str(script), "run", "--config", str(self.config_dir)]

    def environment(self) -> dict[str, str]:
        return {**super().environment(), "FAULTS": str(self.directory)}


class Scene:
    """What is left when the trouble is over: a stopped gateway, and what it said while it ran."""

    def __init__(self, edge: Edge, said: dict[str, str]) -> None:
        self.edge, self.said = edge, said


def outbox(scene: Scene) -> str:
    """Every message to anybody but the audit repository, and why it has not left."""
    return _rows(scene, "SELECT channel, kind, body, last_error FROM message WHERE channel <> 'audit'") + _rows(
        scene, "SELECT last_error FROM message"
    )


def checked(edge: Edge) -> str:
    done = command(edge, "check")
    return done.stdout + done.stderr


def crash_reports(edge: Edge) -> list[Path]:
    """What faulthandler and the like leave behind; a core dump there may not be (LimitCORE=0 of the unit)."""
    return [edge.data_dir / downtime.FATAL, *edge.directory.rglob("core*")]


def destinations(scene: Scene) -> str:
    return _rows(scene, "SELECT * FROM destination")


def _rows(scene: Scene, sql: str) -> str:
    with closing(sqlite3.connect(scene.edge.data_dir / "catalog.db")) as conn:
        return json.dumps(conn.execute(sql).fetchall())


#: Pages of the console that show patients to whoever is signed in.
PAGES = ("/", "/studies", "/studies/1", "/queue", "/exceptions", "/exceptions/4", "/dry-run", "/nowhere")

#: What is searched for the marks, by a name for people.
SOURCES: dict[str, Callable[[Scene], str]] = {
    "the log": lambda scene: scene.edge.log.read_text("utf-8", "replace"),
    "/api/status": lambda scene: scene.said["/api/status"],
    "/metrics": lambda scene: scene.said["/metrics"],
    "/healthz": lambda scene: scene.said["/healthz"],
    "/readyz": lambda scene: scene.said["/readyz"],
    "pages without a sign-in": lambda scene: scene.said["pages"],
    "edge status": lambda scene: scene.said["edge status"],
    "edge status, stopped": lambda scene: command(scene.edge, "status").stdout,
    "edge check": lambda scene: checked(scene.edge),
    "crash reports": lambda scene: "".join(path.read_text("utf-8", "replace") for path in crash_reports(scene.edge)),
    "errors of commands": lambda scene: scene.said["errors"],
    "answers to scanners": lambda scene: scene.said["answers"],
    "messages to others": outbox,
    "what is noted of destinations": destinations,
    "process list": lambda scene: scene.said["process"],
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("canary")
    with ExitStack() as running:
        archive = running.enter_context(ScriptedScp([answer_with(0xC000, QUOTED)]))
        full = running.enter_context(ScriptedScp([answer_with(0xA700, QUOTED)]))
        simple = running.enter_context(ScriptedScp(associations=[accept(native_only)]))
        gone = StoreScp(folder / "gone", "GONE")
        repository = Repository(folder / "repository")  # it does not run: all that it should have waits
        ports = {"archive": archive.port, "full": full.port, "simple": simple.port, "gone": gone.port}
        for name in ("chat-key", "heartbeat-key", "mail-password"):
            (folder / name).touch(mode=0o600)
            (folder / name).write_text(SECRET)
        config = to_all(ports) + repository.section() + told_by(folder)
        edge = running.enter_context(Faulty(folder / "edge", config, unknown="refuse"))
        answers = send_trouble(folder, edge)
        wait_for_trouble(edge)
        errors = commands_that_fail(edge, folder)
        (edge.directory / "thread").write_text(QUOTED)
        wait_until(lambda: "ValueError" in edge.log.read_text(), 10, "a thread has failed")
        assert {each["kind"] for each in edge.api_status()["alerts"]} >= {"work-held", "conflict", "quarantine"}
        wait_until(lambda: {"heartbeat", "webhook.chat"} <= channels(edge), 30, "others are to be told")
        edge.reload()
        wait_until(lambda: "has been read again" in edge.log.read_text(), 10, "the configuration is read again")
        said = {
            path: http_get(edge.url(path))[1].decode() for path in ("/api/status", "/metrics", "/healthz", "/readyz")
        }
        said |= {"errors": errors, "answers": answers, "edge status": command(edge, "status").stdout}
        said["pages"] = "".join(http_get(edge.url(path))[1].decode() for path in PAGES)
        said["process"] = process_of(edge.pid)
        said["key"] = (repository.directory / "edge.key").read_text().splitlines()[1]
        (edge.directory / "main").write_text(QUOTED)
        wait_until(lambda: edge.process is not None and edge.process.poll() is not None, 10, "the gateway has failed")
        yield Scene(edge, said)


def told_by(folder: Path) -> str:
    """Those who are told of alerts; none of them answers, so that all that they should be told waits."""
    return (
        f'[email.anna]\nhost = "127.0.0.1"\nport = 9\nsender = "edge@example.org"\nto = ["anna@example.org"]\n'
        f'user = "edge"\npassword = "{folder}/mail-password"\n'
        f'[webhook.chat]\nurl = "http://127.0.0.1:9/"\nkey = "{folder}/chat-key"\n'
        f'[heartbeat]\nurl = "http://127.0.0.1:9/"\nkey = "{folder}/heartbeat-key"\nevery = "1s"\n'
    )


def channels(edge: Edge) -> set[str]:
    """The channels in which something waits."""
    with closing(sqlite3.connect(edge.data_dir / "catalog.db")) as conn:
        return {row[0] for row in conn.execute("SELECT DISTINCT channel FROM message")}


def process_of(pid: int) -> str:
    """What `ps` and whoever may read its environment see."""
    return "".join((Path("/proc") / str(pid) / name).read_text() for name in ("cmdline", "environ"))


def to_all(ports: dict[str, int]) -> str:
    tables = "".join(
        f'[destination.{name}]\nae_title = "ARCHIVE"\nhost = "127.0.0.1"\nport = {port}\n'
        for name, port in ports.items()
    )
    known = '[modality.ct1]\nae_title = "CT1"\n'
    return f"{known}{tables}[route.all]\nto = {json.dumps(list(ports))}\n"


def send_trouble(folder: Path, edge: Edge) -> str:
    """Good objects, two that cannot be trusted, one under a known UID, one that meets a fault. Returns the answers."""
    (good,), (other,) = (ct_files(folder / each, 1, 4096, **PATIENT) for each in ("good", "other"))
    torn, conflict, undecodable = folder / "torn.dcm", folder / "conflict.dcm", folder / "undecodable.dcm"
    at = good.read_bytes().index(PATIENT["PatientName"].encode())
    torn.write_bytes(good.read_bytes()[: at + 8])
    conflict.write_bytes(other.read_bytes().replace(sop_instance_uid(other).encode(), sop_instance_uid(good).encode()))
    undecodable.write_bytes(not_an_image(other))
    with scanner(edge.port) as ct:
        assert ct.store(good) == 0
        assert ct.store(other, sop_instance_uid(good)) == 0xC000  # not the UID of the request
        assert ct.store(torn) == 0xC000
        assert ct.store(conflict) == 0
        assert ct.store(undecodable, syntax=JPEG_2000) == 0
        comments = ct.comments
        (fault,) = ct_files(folder / "fault", 1, 2048, **{**PATIENT, "AccessionNumber": FAULT})
        assert ct.store(fault) == 0  # its record is durable; behind the answer it goes to quarantine
    edge.settle()
    more = ct_files(folder / "more", 6, 2048, **PATIENT)
    storescu(more, edge.port)
    storescu(more[:1], edge.port, calling="STRANGER", check=False)
    return "\n".join(comments)


def not_an_image(path: Path) -> bytes:
    """A file whose attributes of the image, and whose "compressed" pixels, are the patient's name."""
    name = PATIENT["PatientName"]
    ds = pydicom.dcmread(path)
    ds.SOPInstanceUID = pydicom.uid.generate_uid()
    ds.PhotometricInterpretation = name[:6].upper()
    ds.add_new(0x7FE00010, "OB", pydicom.encaps.encapsulate([name.encode() * 20]))
    ds["PixelData"].is_undefined_length = True
    return part10(ds, JPEG_2000)


def wait_for_trouble(edge: Edge) -> None:
    def held(name: str) -> int:
        return int(edge.api_status()["destinations"][name]["held"])

    wait_until(lambda: held("archive") >= 8, 30, "refused for good, or a conflict")
    wait_until(lambda: held("simple") == 2, 30, "one cannot be converted")
    for name in ("gone", "full"):
        wait_until(lambda name=name: edge.api_status()["destinations"][name]["state"] == "down", 30, f"{name} is down")
    wait_until(lambda: waiting(edge) and edge.api_status()["queue"]["active"] == 0, 20, "nothing is under way")


def command(edge: Edge, *words: str) -> Result:
    """`edge WORDS` in this process: quicker than another one."""
    return CliRunner().invoke(cli, [*words, "--config", str(edge.config_dir)])


def commands_that_fail(edge: Edge, folder: Path) -> str:
    """What commands say when they cannot do what they were asked; and a person's own words are set down."""
    reason = f"wrong: {PATIENT['PatientName']}"
    assert command(edge, "queue", "hold", "--destination", "gone", "--reason", reason).exit_code == 0
    listed = command(edge, "queue", "list", "--state", "held")
    assert PATIENT["PatientName"] in listed.stdout  # the archive's own words, for the person who asks
    failing = [
        ("queue", "retry", "999999"),
        ("queue", "show", "999999"),
        ("studies", "show", "1.2.3"),
        ("audit", "report", "--patient", "nobody"),
        ("route", "explain", str(folder / "torn.dcm")),
        ("echo", "gone"),
        ("prove", study_of(folder / "good" / "000000.dcm")),
    ]
    errors = ""
    for words in failing:
        done = command(edge, *words)
        assert done.exit_code != 0, words
        errors += done.stderr
    return errors


@pytest.mark.parametrize("source", SOURCES)
def test_no_source_names_the_patient(scene: Scene, source: str) -> None:
    text = SOURCES[source](scene)
    assert text or source in ("messages to others", "crash reports")
    found = MARKS.search(text)
    assert found is None, text[max(0, found.start() - 300) : found.end() + 100]


def test_the_marks_are_found_where_they_belong(scene: Scene) -> None:
    """The search works, and the trouble came about: the audit trail and the catalog know the patient."""
    assert MARKS.search(_rows(scene, "SELECT body FROM message WHERE channel = 'audit'"))
    assert MARKS.search(_rows(scene, "SELECT reason_parameters FROM delivery"))
    log = SOURCES["the log"](scene)
    for fault in ("KeyError", "ValueError"):
        assert fault in log


def test_no_secret_is_seen(scene: Scene) -> None:
    for name, source in SOURCES.items():
        told = source(scene)
        assert SECRET not in told, name
        assert scene.said["key"] not in told, name


#: UIDs lead to a patient, for whoever has the archive: not where machines and other offices read.
@pytest.mark.parametrize("source", ["the log", "/api/status", "/metrics", "/healthz", "/readyz", "messages to others"])
def test_no_message_has_the_uid_of_an_object(scene: Scene, source: str) -> None:
    known = json.loads(_rows(scene, "SELECT sop_instance_uid FROM instance UNION SELECT study_uid FROM study"))
    text = SOURCES[source](scene)
    assert len(known) > 5
    assert [uid for (uid,) in known if uid in text] == []
