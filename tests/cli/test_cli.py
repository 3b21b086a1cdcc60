"""The command as people type it: on real catalogs, with the daemon down and with one that answers."""

from __future__ import annotations

import fcntl
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from edge.cli import cli, status, tables
from edge.cli.mpps import attribute_lines
from edge.config.edit import read_files
from edge.daemon.changes import CHANGES
from edge.daemon.control import Control
from edge.dicom.items import item
from edge.model import Origin, Outcome
from edge.monitor import health
from edge.monitor.engine import notice_new
from edge.monitor.live import Live
from edge.monitor.snapshot_model import Alert
from edge.monitor.status_document import status_json
from edge.storage.release import Decided
from edge.store import alert_records, commitments, ledger
from edge.store.callers import Calls, remember_peer
from edge.store.database import Transaction
from tests.support.filled import CONFIG, CT1, Filled
from tests.support.gateway import Receiving
from tests.support.ledger_rows import with_words
from tests.support.objects import ct_files, new_uid
from tests.support.peers import REPOSITORY, StoreScp, free_port

STROKE = {"StudyDescription": "STROKE PROTOCOL"}


@pytest.fixture(autouse=True)
def _no_configuration_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_CONFIG", raising=False)
    monkeypatch.delenv("SUDO_USER", raising=False)


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with Filled(tmp_path) as made:
        yield made


@pytest.fixture
def daemon(filled: Filled) -> Iterator[Daemon]:
    serving = Daemon(filled)
    serving.control.start()
    yield serving
    serving.control.stop()


class Daemon:
    """What the daemon does at its control socket, and what it was asked."""

    def __init__(self, filled: Filled) -> None:
        self.filled = filled
        self.asked: list[dict[str, Any]] = []
        self.files = read_files(filled.directory)
        handlers = {
            "ping": lambda _: {},
            "configuration": lambda _: {"files": self.files},
            "status": self.status,
            **{name: partial(self._change, name) for name in CHANGES if name.startswith("queue-")},
            "destination-try": partial(CHANGES["destination-try"], filled.db),
            "instance-release": self._released,
        }
        self.control = Control(filled.data_dir, handlers)

    def status(self, _: dict[str, Any]) -> dict[str, Any]:
        with self.filled.db.reading() as conn:
            disk = health.Disk(100, 69)
            return {
                "status": status_json(health.snapshot(conn, self.filled.config, disk, Live("running"), time.time()))
            }

    def _change(self, name: str, told: dict[str, Any]) -> dict[str, Any]:
        return self._noted(told, CHANGES[name](self.filled.db, told))

    def _released(self, told: dict[str, Any]) -> dict[str, Any]:
        return self._noted(told, {"decided": [asdict(Decided(each, True, "released")) for each in told["ids"]]})

    def _noted(self, told: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(told)
        return answer


def edge(filled: Filled | None, *args: str) -> Result:
    """Run the command in this process; neither a trace nor an exception may come out."""
    given = ["--config", str(filled.directory)] if filled else []
    done = CliRunner().invoke(cli, [*given, *args])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


def answer(filled: Filled, *args: str, code: int = 0) -> Any:
    done = edge(filled, *args, "--json")
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def states(filled: Filled) -> list[str]:
    with filled.db.reading() as conn:
        return [row[0] for row in conn.execute("SELECT state FROM delivery ORDER BY id")]


# Every command.


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_every_command_has_help_with_an_example_and_takes_config() -> None:
    for path, command in commands(cli):
        done = CliRunner().invoke(cli, [*path, "--help"])
        assert done.exit_code == 0, path
        assert command.get_short_help_str(200), path
        if not isinstance(command, click.Group):
            assert re.search(rf"Examples?: +edge {' '.join(path)}", done.stdout), f"{path}: an example to copy"
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{path}: {option.name} is not explained"
        assert any(option.name == "config" for option in command.params), path


def test_the_contract_names_these_commands() -> None:
    assert {" ".join(path) for path, _ in commands(cli)} >= {
        *("run", "check", "version", "status", "studies list", "studies show", "queue list", "queue show"),
        *("queue retry", "queue hold", "queue release", "route explain", "echo", "prove"),
    }


# Finding the configuration.


@pytest.mark.parametrize("args", [["--config", "{}", "check"], ["check", "--config", "{}"]])
def test_config_before_and_after(filled: Filled, args: list[str]) -> None:
    done = CliRunner().invoke(cli, [each.format(filled.directory) for each in args])
    assert (done.exit_code, "is valid" in done.stdout) == (0, True), done.output


def test_config_from_the_environment_yields_to_the_option(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_CONFIG", str(filled.directory))
    assert edge(None, "check").exit_code == 0
    monkeypatch.setenv("EDGE_CONFIG", "/nowhere")
    assert edge(filled, "check").exit_code == 0
    done = edge(None, "check")
    assert done.exit_code == 2
    assert "/nowhere" in done.stderr


def test_a_bad_configuration_is_told_line_by_line(filled: Filled) -> None:
    (filled.directory / "x.toml").write_text('[listen]\nae_titel = "A"\nport = "x"\n')
    for command in (["check"], ["status"], ["queue", "list"]):
        done = edge(filled, *command)
        assert done.exit_code == 2
        assert done.stderr.splitlines()[0].startswith("x.toml:2: listen.ae_titel: unknown key")
        assert done.stderr.splitlines()[1].startswith("x.toml:3: listen.port:")


def test_check_counts_and_warns_of_what_the_catalog_knows(filled: Filled) -> None:
    done = edge(filled, "check")
    assert "is valid: 1 modality, 2 destinations, 2 routes, 0 holds." in done.stdout
    assert "modality.ct1: has never sent" in done.stdout
    filled.db.write(lambda conn: remember_peer(conn, "CT1", "10.10.4.21", Calls("ct1", 1.0, 2.0, 1, 2.0)))
    assert "has never sent" not in edge(filled, "check").stdout


# Status.


def test_status_of_a_running_gateway_is_what_it_says(filled: Filled, daemon: Daemon) -> None:
    filled.receive(3)
    filled.settle("archive", 3)
    found = answer(filled, "status")
    assert found["state"] == "running"
    assert found["destinations"]["archive"]["confirmed"] == 3
    done = edge(filled, "status")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0] == "All is well: 3 images received, nothing left to send."
    assert done.stderr == ""


def test_open_alerts_have_the_numbers_of_the_status(filled: Filled, daemon: Daemon) -> None:
    """The record of an alert has the words of its last change."""
    filled.receive(1, Modality="OT")
    (recorded,) = [each for each in answer(filled, "status", code=1)["alerts"] if each["kind"] == "unroutable"]
    words = {name: recorded[name] for name in ("kind", "subject", "severity", "what", "means", "do")}
    number = filled.db.write(lambda conn: alert_records.keep(conn, notice_new(Alert(since=1.0, **words), 2.0)))
    filled.receive(2, Modality="OT")
    now = "3 images that no route matches"
    assert now in edge(filled, "alerts", "list").stdout
    assert now in edge(filled, "alerts", "show", str(number)).stdout
    assert answer(filled, "alerts", "list")[0]["what"].startswith(now)
    over = replace(filled.db.read(lambda conn: alert_records.read_alert(conn, number)), cleared_at=1_800_000_000.0)
    filled.db.write(lambda conn: alert_records.keep(conn, over))
    assert "(its cause is gone since 2027-01-15" in edge(filled, "alerts", "list").stdout


def test_files_that_the_gateway_has_not_read_are_named(filled: Filled, daemon: Daemon) -> None:
    assert "reload" not in edge(filled, "check").stdout
    assert edge(filled, "status").stderr == ""
    (filled.directory / "more.toml").write_text("# a change\n")
    assert "`systemctl reload edge`" in edge(filled, "check").stdout
    assert "`systemctl reload edge`" in edge(filled, "status").stderr


def test_status_of_a_gateway_that_is_down(filled: Filled) -> None:
    filled.receive(2)
    filled.execute("INSERT INTO gateway VALUES ('alive_at', ?)", str(time.time() - 7200))
    done = edge(filled, "status")
    assert done.exit_code == 1
    first = done.stdout.splitlines()[0]
    assert first.startswith("The gateway is down since ")
    assert "(2 h)" in first
    assert "the 2 images still to be sent are safe" in first
    assert "systemctl start edge" in first
    assert "is down" in done.stderr
    assert answer(filled, "status", code=1)["state"] == "down"


def test_status_where_the_gateway_has_never_run(tmp_path: Path) -> None:
    directory = tmp_path / "conf.d"
    directory.mkdir()
    (directory / "site.toml").write_text(CONFIG)
    done = CliRunner().invoke(cli, ["--config", str(directory), "status", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout)["instances"]["received"] == 0
    assert "never run" in done.stderr
    assert not (tmp_path / "data").exists()


def test_the_first_line_names_the_worst_since_when_and_what_to_type(filled: Filled, daemon: Daemon) -> None:
    filled.receive(4)
    filled.settle("archive", 2, Outcome.HOLD, "no common transfer syntax")
    filled.receive(1, Modality="OT")
    done = edge(filled, "status")
    assert done.exit_code == 1
    first = done.stdout.splitlines()[0]
    assert first.startswith("Alert since ")
    assert "2 images for archive held" in first
    assert "safe on disk" in first
    assert "`edge queue retry --destination archive`" in first
    assert "(1 more alert below)" in first
    assert done.stdout.count("major: unroutable since") == 1


def test_watch_is_not_for_programs(filled: Filled) -> None:
    assert edge(filled, "status", "--watch", "--json").exit_code == 2


QUIET: dict[str, Any] = {
    "state": "running",
    "since": None,
    "instances": {"received": 1000},
    "queue": {"pending": 0, "active": 0, "deferred": 0, "held": 0, "bytes": 0, "oldest_seconds": None},
    "destinations": {},
    "alerts": [],
}
WAITING = {"pending": 500, "active": 4, "deferred": 0, "held": 0, "bytes": 2_000_000, "oldest_seconds": 3.0}
MINOR = {"severity": "minor", "since": "2026-11-21T20:11:23Z", "text": "A stranger called."}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "All is well: 1,000 images received, nothing left to send."),
        ({"queue": WAITING}, "All is well: 1,000 images received, 504 to send (2 MB)."),
        (
            {"queue": WAITING, "destinations": {"a": {"drain_seconds": 90.0}, "b": {"drain_seconds": None}}},
            "All is well: 1,000 images received, 504 to send (2 MB), sent in about 1 min 30 s.",
        ),
        ({"alerts": [MINOR]}, "Working, with 1 notice below: 1,000 images received, nothing left to send."),
        ({"state": "draining"}, "The gateway is draining: 1,000 images received, nothing left to send."),
    ],
)
def test_the_sentence(changes: dict[str, Any], expected: str) -> None:
    assert status.status_sentence(QUIET | changes, time.time()) == expected


# Studies and instances.


def test_studies_are_listed_and_found(filled: Filled) -> None:
    first = filled.receive(3, PatientName="Adams^Ann", PatientID="P1", **STROKE)
    second = filled.receive(1, PatientName="Brown^Bob", PatientID="P2")
    filled.settle("archive", 2)
    found = answer(filled, "studies", "list")
    assert {each["study_uid"] for each in found} == {first, second}
    (study,) = answer(filled, "studies", "list", "--search", "adams")
    assert (study["instances"], study["patient_id"]) == (3, "P1")
    assert study["deliveries"] == {"archive": {"confirmed": 2, "pending": 1}, "teleread": {"pending": 3}}
    assert answer(filled, "studies", "list", "--search", "100%") == []
    assert len(answer(filled, "studies", "list", "--limit", "1")) == 1
    assert len(answer(filled, "studies", "list", "--since", "1h")) == 2
    assert answer(filled, "studies", "list", "--since", "2100-01-01") == []
    assert edge(filled, "studies", "list", "--since", "soon").exit_code == 2
    text = edge(filled, "studies", "list").stdout
    assert "archive: 2 confirmed, 1 pending; teleread: 3 pending" in text


def test_a_study_is_shown_image_by_image(filled: Filled) -> None:
    uid = filled.receive(2)
    filled.settle("archive", 1)
    filled.settle("archive", 1, Outcome.HOLD, "0xA900: mismatch")
    found = answer(filled, "studies", "show", uid)
    assert [each["deliveries"]["archive"]["state"] for each in found["instances"]] == ["confirmed", "held"]
    assert found["instances"][0]["deliveries"]["archive"]["confirmed_at"].endswith("Z")
    assert len(found["instances"][0]["sha256"]) == 64
    text = edge(filled, "studies", "show", uid).stdout
    assert "0xA900: mismatch" in text
    assert "CT Image Storage" in text
    missing = edge(filled, "studies", "show", "1.2.3")
    assert missing.exit_code == 1
    assert "1.2.3" in missing.stderr


def test_quarantined_images_are_listed_with_reason_and_file(filled: Filled, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "one", 1, size=1024)
    filled.accept(path.read_bytes()[:400])
    (found,) = answer(filled, "instances", "list", "--state", "quarantined")
    assert found["state"] == "quarantined"
    assert found["reason"]
    text = edge(filled, "instances", "list", "--state", "quarantined").stdout
    assert str(filled.data_dir / "spool" / found["path"]) in text
    assert edge(filled, "instances", "list", "--state", "stored").exit_code == 2


# The queue.


def test_the_queue_lists_first_what_needs_a_person(filled: Filled) -> None:
    uid = filled.receive(3, **STROKE)
    filled.receive(1, Modality="OT")
    filled.settle("archive", 1, Outcome.HOLD, "no")
    filled.settle("archive", 1, Outcome.DEFER, "busy")
    found = answer(filled, "queue", "list")
    assert [each["state"] for each in found] == ["held", "held", "deferred", "pending", "pending", "pending", "pending"]
    assert answer(filled, "queue", "list", "--limit", "2") == found[:2]
    assert [e["reason"] for e in answer(filled, "queue", "list", "--state", "deferred")] == ["busy"]
    assert {e["priority"] for e in answer(filled, "queue", "list", "--destination", "teleread")} == {"stat"}
    (unroutable,) = answer(filled, "queue", "list", "--unroutable")
    assert unroutable["destination"] == ""
    assert len(answer(filled, "queue", "list", "--study", uid, "--destination", "archive")) == 3
    assert answer(filled, "queue", "list", "--study", "1.2.3") == []
    assert "(no route)" in edge(filled, "queue", "list").stdout


def test_the_queue_lists_whose_study_waits_since_when_and_why(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    first = filled.receive(20, PatientID="P1", PatientName="DOE^JANE")
    second = filled.receive(19, PatientID="P2", PatientName="ROE^RICHARD")
    filled.receive(1, PatientID="P3", PatientName="POE^EDGAR", Modality="OT")
    filled.execute("UPDATE delivery SET queued_at = queued_at - 7200")
    why = "127.0.0.1:104 refuses the connection, nothing listens there"
    filled.execute("INSERT INTO destination (name, state, since, last_error) VALUES ('archive', 'down', 5.0, ?)", why)
    out = Console(file=StringIO(), force_terminal=True, color_system=None, width=80)
    monkeypatch.setattr(tables, "console", lambda: out)

    def listed(*options: str) -> list[str]:
        out.file = StringIO()
        assert edge(filled, "queue", "list", *options).exit_code == 0
        return [line.rstrip() for line in out.file.getvalue().splitlines()]

    lines = listed()
    assert max(map(len, lines)) <= 80
    at = lines.index("archive, pending: the destination is down: 127.0.0.1:104 refuses the connection,")
    assert lines[at + 1 : at + 7] == [
        "nothing listens there",
        "age  images  priority  next try  patient ID  name",
        "2 h      20  routine   -         P1          DOE^JANE",
        f"  study UID {first}",
        "2 h      19  routine   -         P2          ROE^RICHARD",
        f"  study UID {second}",
    ]
    assert lines[0].startswith("(no route), held: ")
    assert len(lines) < 20
    assert filled.one("SELECT count(*) FROM ledger WHERE event = 'viewed'") == 3
    each = listed("--study", first, "--limit", "2")
    assert each[2:5] == [
        "id  instance  priority  tries  age  next try",
        "1   1         routine       0  2 h  -",
        "2   2         routine       0  2 h  -",
    ]
    filled.execute("UPDATE destination SET refuses = 1, last_error = 'rejected'")
    assert "archive, pending: the destination refuses images: rejected" in listed()
    monkeypatch.setattr("edge.cli.queue.MOST_READ", 5)
    assert "The list has the first 5 images of each state; --destination shows more of it." in listed()


def test_one_delivery_is_shown_with_what_comes_next(filled: Filled) -> None:
    filled.receive(1)
    filled.settle("archive", 1, Outcome.HOLD, "no")
    assert answer(filled, "queue", "show", "1")["state"] == "held"
    assert "`edge queue retry 1` tries again" in edge(filled, "queue", "show", "1").stdout
    assert edge(filled, "queue", "show", "99").exit_code == 1


def test_what_waits_for_a_removed_destination_is_not_said_to_be_sent(filled: Filled) -> None:
    filled.receive(1, **STROKE)
    text = CONFIG.replace("[destination.teleread]", "[destination.other]").replace('"teleread"', '"other"')
    (filled.directory / "site.toml").write_text(text)
    (gone,) = [each for each in answer(filled, "queue", "list") if each["destination"] == "teleread"]
    assert gone["reason"] == "the destination is not configured any more"
    shown = edge(filled, "queue", "show", str(gone["id"])).stdout
    assert "sent when [destination.teleread] is back; or `edge destination rename teleread NEW`" in shown
    (other,) = [each for each in answer(filled, "queue", "list") if each["destination"] == "archive"]
    assert "sent in its order, when the destination answers" in edge(filled, "queue", "show", str(other["id"])).stdout


@pytest.mark.parametrize("running", [False, True])
def test_hold_release_and_retry(filled: Filled, running: bool, request: pytest.FixtureRequest) -> None:
    daemon: Daemon | None = request.getfixturevalue("daemon") if running else None
    filled.receive(3)
    done = edge(filled, "queue", "hold", "1", "2", "--reason", "wrong patient")
    assert (done.exit_code, done.stdout) == (0, "2 deliveries held.\n")
    assert states(filled) == ["held", "held", "pending"]
    assert answer(filled, "queue", "show", "1")["reason"].endswith(': "wrong patient"')
    released = edge(filled, "queue", "release", "1", "--reason", "it is the right one")
    assert released.stdout == "1 delivery queued to be sent.\n"
    retried = edge(filled, "queue", "retry", "--destination", "archive")
    assert retried.exit_code == 1
    assert "1 left for a person to decide (person; instance 2): `edge queue release ID`" in retried.stdout
    assert ("archive is tried now." in retried.stdout) == running
    assert states(filled) == ["pending", "held", "pending"]
    filled.settle("archive", 2, Outcome.HOLD, "refused")
    assert edge(filled, "queue", "retry", "1").exit_code == 0
    assert states(filled) == ["pending", "held", "held"]
    events = [(row["event"], row["words"]) for row in rows_of_ledger(filled)]
    assert (("overridden", "tried at once: edge queue retry") in events) == running
    events = [each for each in events if each[0] != "overridden"]
    assert [event for event, _ in events[-5:]] == ["held", "held", "released", "held", "retried"]
    assert ("released", "it is the right one") in events
    assert all(row["who"] for row in rows_of_ledger(filled))
    if daemon is not None:
        asked = [told["command"] for told in daemon.asked]
        assert asked == ["queue-hold", "queue-release", "queue-retry", "queue-retry"]


def rows_of_ledger(filled: Filled) -> list[dict[str, Any]]:
    with filled.db.reading() as conn:
        sql = "SELECT *, words(event, detail, payload) AS words FROM ledger ORDER BY seq"
        return [dict(row) for row in with_words(conn).execute(sql)]


def test_large_selections_go_in_short_transactions(
    filled: Filled, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.cli.deciding._BATCH", 2)
    uid = filled.receive(5)
    assert edge(filled, "queue", "hold", "--study", uid).exit_code == 0
    assert [len(told["ids"]) for told in daemon.asked] == [2, 2, 1]
    assert states(filled) == ["held"] * 5


def test_what_could_not_be_moved_is_said(filled: Filled) -> None:
    filled.receive(2)
    filled.settle("archive", 1)
    done = edge(filled, "queue", "hold", "1", "2", "77")
    assert done.exit_code == 1
    assert "1 delivery held." in done.stdout
    assert "2 left unchanged" in done.stdout
    assert edge(filled, "queue", "retry", "--destination", "teleread").stdout == "0 deliveries queued to be sent.\n"


@pytest.mark.parametrize("select", [["--destination", "archive"], ["--all"]])
def test_a_retry_says_what_is_queued_already(filled: Filled, select: list[str]) -> None:
    filled.receive(3)
    already = "deliveries are queued already, and are sent as soon as the destination takes them.\n"
    done = edge(filled, "queue", "retry", *select)
    assert (done.exit_code, done.stdout) == (0, f"3 {already}")
    filled.settle("archive", 1, Outcome.DEFER, "busy")
    assert edge(filled, "queue", "retry", *select).stdout == f"1 delivery queued to be sent.\n2 {already}"


@pytest.mark.parametrize(
    "args", [["retry"], ["retry", "1", "--all"], ["hold", "1", "--study", "1.2"], ["release", "--all", "--unroutable"]]
)
def test_which_ones_must_be_clear(filled: Filled, args: list[str]) -> None:
    assert edge(filled, "queue", *args).exit_code == 2


def test_unroutable_work_is_routed_again_by_a_release(filled: Filled) -> None:
    filled.receive(2, Modality="OT")
    done = edge(filled, "queue", "retry", "--unroutable")
    assert done.exit_code == 1
    assert "2 left for a person to decide (unroutable; instance 1, 2): `edge instances release ID`" in done.stdout
    done = edge(filled, "instances", "release", "--unroutable", "--reason", "x")
    assert done.exit_code == 1
    assert "no route matches it" in done.stdout
    serving = Daemon(filled)
    serving.control.start()
    assert edge(filled, "instances", "release", "--unroutable", "--reason", "the route is there").exit_code == 0
    serving.control.stop()
    (told,) = serving.asked
    assert (told["command"], told["ids"], told["named"]) == ("instance-release", [1, 2], False)


def test_no_change_while_another_process_has_the_catalog(filled: Filled) -> None:
    filled.receive(1)
    with (filled.data_dir / "edge.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        done = edge(filled, "queue", "hold", "1")
    assert done.exit_code == 1
    assert "try again" in done.stderr
    assert states(filled) == ["pending"]


# Routes.


def test_explain_says_what_matches_and_why_not(filled: Filled, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "one", 1, size=1024, **STROKE)
    done = edge(filled, "route", "explain", str(path))
    assert done.exit_code == 0
    assert "route everything matches: to archive" in done.stdout
    assert "route stroke does not match: to teleread" in done.stdout
    assert 'yes StudyDescription: expected "*STROKE*", found "STROKE PROTOCOL"' in done.stdout
    assert 'NO  CallingAETitle: expected "CT1", found "ANY-SCU"' in done.stdout
    assert "--calling-ae" in done.stdout
    found = answer(filled, "route", "explain", str(path), "--calling-ae", "CT1")
    assert [sent["destination"] for sent in found[0]["sent_to"]] == ["teleread", "archive"]
    assert [route["matched"] for route in found[0]["routes"]] == [True, True]


def test_explain_ends_with_1_where_nothing_matches(filled: Filled, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "one", 1, size=1024, Modality="OT")
    done = edge(filled, "route", "explain", str(path))
    assert done.exit_code == 1
    assert "no route matches: it would be held" in done.stdout


def test_a_study_of_the_spool_is_explained_by_its_own_origin(filled: Filled) -> None:
    uid = filled.receive(3, origin=Origin("CT1", "EDGE", "10.10.4.21", 0.0), **STROKE)
    done = edge(filled, "route", "explain", "--study", uid)
    assert done.exit_code == 0, done.output
    assert "and 2 more with the same result" in done.stdout
    assert "from CT1 at 10.10.4.21 to EDGE" in done.stdout
    assert "would be sent to teleread, stat, by route stroke" in done.stdout


def test_what_is_no_dicom_file_is_said_in_a_line(filled: Filled, tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("hello")
    done = edge(filled, "route", "explain", str(tmp_path / "x.txt"))
    assert done.exit_code == 1
    assert "not a DICOM Part 10 file" in done.stderr
    assert edge(filled, "route", "explain").exit_code == 2


# Echo.


def configure_archive(filled: Filled, ae_title: str, port: int) -> None:
    text = CONFIG.replace('ae_title = "ARCHIVE"', f'ae_title = "{ae_title}"').replace("port = 104", f"port = {port}")
    (filled.directory / "site.toml").write_text(text)


def test_echo_reaches_a_real_archive_and_lists_what_it_takes(filled: Filled, archive: StoreScp) -> None:
    configure_archive(filled, archive.ae_title, archive.port)
    found = answer(filled, "echo", "archive")
    assert found["reachable"] is True
    assert found["echo_seconds"] < 5
    assert {"CT Image Storage"} <= {each["sop_class"] for each in found["contexts"] if each["accepted"]}
    text = edge(filled, "echo", "archive").stdout
    assert text.startswith(f"archive (ARCHIVE at 127.0.0.1:{archive.port}) answers")
    assert "Explicit VR Little Endian" in text


def test_echo_asks_about_what_has_been_received(filled: Filled, archive: StoreScp) -> None:
    configure_archive(filled, archive.ae_title, archive.port)
    kinds = [(f"1.2.3.{number}", "1.2.840.10008.1.2.4.80") for number in range(150)]
    filled.db.write(
        lambda conn: (
            conn.executemany("INSERT INTO kind (sop_class_uid, transfer_syntax_uid) VALUES (?, ?)", kinds).rowcount
        )
    )
    found = answer(filled, "echo", "archive")
    assert len({(each["sop_class_uid"], each["transfer_syntax_uid"]) for each in found["contexts"]}) == 3 * 150


def test_echo_to_another_of_our_kind_shows_a_refusal(filled: Filled, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with Receiving(tmp_path / "other", CONFIG.replace('"../data"', '"data"').replace('"CT1"', '"NOBODY"')) as other:
        configure_archive(filled, "EDGE", other.port)
        done = edge(filled, "echo", "archive")
    assert done.exit_code == 1
    assert f"archive (EDGE at 127.0.0.1:{other.port}) answers, but refuses this gateway: the association" in done.stdout
    assert "calling AE title not recognized" in done.stdout
    assert "check the network" not in done.stdout


def test_echo_to_nobody_says_what_to_look_at(filled: Filled) -> None:
    configure_archive(filled, "ARCHIVE", free_port())
    done = edge(filled, "echo", "archive")
    assert done.exit_code == 1
    assert "is not reachable: " in done.stdout
    assert "nothing listens there" in done.stdout
    assert "destination.archive" in done.stdout
    assert answer(filled, "echo", "archive", code=1)["reachable"] is False
    assert edge(filled, "echo", "nowhere").exit_code == 2


# Proof.


def test_a_study_is_proved_only_when_every_image_is_confirmed_everywhere(filled: Filled) -> None:
    uid = filled.receive(2, **STROKE)
    assert answer(filled, "prove", uid, code=1)["proved"] is False
    filled.settle("archive", 2)
    filled.settle("teleread", 2, proved=False)
    found = answer(filled, "prove", uid, code=1)
    assert [each["destinations"]["archive"]["proved"] for each in found["instances"]] == [True, True]
    assert [each["destinations"]["teleread"]["proved"] for each in found["instances"]] == [False, False]
    filled.db.write(confirm_all)
    done = edge(filled, "prove", uid)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"Proved: every one of 2 images of study {uid} is confirmed at archive, teleread.")
    found = answer(filled, "prove", uid)
    assert found["chain"]["whole"]
    assert [event["event"] for event in found["events"]] == ["received"] * 2 + [
        "sent",
        "confirmed",
        "sent",
        "confirmed",
    ]


def confirm_all(conn: Transaction) -> None:
    commitments.confirm(
        conn, "teleread", commitments.list_unconfirmed(conn, "teleread", 100), time.time(), "storage commitment"
    )


def test_the_queues_word_alone_proves_nothing(filled: Filled) -> None:
    uid = filled.receive(1)
    filled.execute("UPDATE delivery SET state = 'confirmed', confirmed_at = 1.0")
    found = answer(filled, "prove", uid, code=1)
    assert "ledger has no row" in found["instances"][0]["destinations"]["archive"]["text"]


def test_a_later_denial_counts(filled: Filled) -> None:
    uid = filled.receive(1)
    filled.settle("archive", 1)
    study = filled.one("SELECT id FROM study")
    filled.db.write(
        lambda conn: ledger.append(conn, 1.0, ledger.DENIED, "archive", [1], study_id=study, destination="archive")
    )
    assert not answer(filled, "prove", uid, code=1)["proved"]


def test_an_instance_that_came_back_must_be_proved_again(filled: Filled, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "one", 1, size=1024)
    filled.accept(path.read_bytes())
    uid = filled.one("SELECT study_uid FROM study")
    filled.settle("archive", 1)
    assert answer(filled, "prove", uid)["proved"]
    filled.execute("UPDATE instance SET state = 'evicted'")
    filled.accept(path.read_bytes())
    filled.execute("UPDATE delivery SET state = 'confirmed', confirmed_at = 1.0")
    assert not answer(filled, "prove", uid, code=1)["proved"]


def test_a_ledger_that_was_changed_proves_nothing(filled: Filled) -> None:
    filled.receive(1)
    uid = filled.receive(1)
    filled.receive(1)
    filled.settle("archive", 3)
    assert answer(filled, "prove", uid)["proved"]
    filled.execute("DROP TRIGGER ledger_is_append_only_update")
    filled.execute("UPDATE ledger SET who = 'nobody' WHERE seq = 3")  # a later study's row
    found = answer(filled, "prove", uid, code=1)
    assert (found["chain"]["whole"], found["chain"]["broken"]) == (False, 3)
    assert "altered at row 3" in edge(filled, "prove", uid).stdout


def test_a_row_that_was_taken_away_shows(filled: Filled) -> None:
    uid = filled.receive(1)
    filled.settle("archive", 1)
    filled.execute("DROP TRIGGER ledger_is_append_only_delete")
    filled.execute("DELETE FROM ledger WHERE seq = 2")
    assert answer(filled, "prove", uid, code=1)["chain"]["broken"] == 3


def test_an_unknown_study_is_not_proved(filled: Filled) -> None:
    done = edge(filled, "prove", "1.2.3")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "no study 1.2.3" in done.stderr


# On a terminal and in a pipe; as a program of its own.


def test_on_a_terminal_tables_are_coloured_and_in_a_pipe_plain(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    tables.print_table(["a", "number"], [["up", 1000], ["\x1b[31mx", None]])
    assert capsys.readouterr().out == "a       number\nup      1,000\n?[31mx  -\n"
    monkeypatch.setattr(tables, "console", lambda: Console(force_terminal=True, width=80))
    monkeypatch.delenv("NO_COLOR", raising=False)
    tables.print_table(["a", "number"], [["up", 1000]])
    assert "\x1b[32mup" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    tables.print_table(["a", "number"], [["up", 1000]])
    assert "\x1b[32m" not in capsys.readouterr().out


def run(*args: str, directory: Path, **env: str) -> subprocess.CompletedProcess[str]:
    surroundings = {**os.environ, "PYTHONPATH": str(REPOSITORY), "EDGE_CONFIG": str(directory), **env}
    return subprocess.run(
        [sys.executable, "-m", "edge", *args], capture_output=True, text=True, timeout=60, env=surroundings, check=False
    )


def test_as_a_program(filled: Filled) -> None:
    filled.receive(2, CT1)
    filled.close()
    done = run("version", directory=filled.directory)
    assert done.stdout.startswith("edge ")
    done = run("status", directory=filled.directory)
    assert (done.returncode, done.stdout.isascii()) == (1, True), done.stderr
    assert done.stdout.startswith("The gateway is down")
    done = run("status", "--json", directory=filled.directory)
    assert json.loads(done.stdout)["instances"]["received"] == 2
    done = run("prove", "1.2", directory=filled.directory)
    assert (done.returncode, done.stderr.count("\n")) == (1, 2), done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_catalog_is_one_line(filled: Filled) -> None:
    filled.close()
    for name in ("catalog.db", "catalog.db-wal", "catalog.db-shm"):
        (filled.data_dir / name).unlink(missing_ok=True)
    (filled.data_dir / "catalog.db").write_bytes(b"not a database at all" * 100)
    done = run("studies", "list", directory=filled.directory)
    assert done.returncode == 1
    assert "cannot be read" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_status_waits_for_no_dicom_library() -> None:
    """It is asked for often, and by people: what takes half a second to load is not loaded for it."""
    heavy = "{'pydicom', 'numpy', 'pynetdicom', 'starlette'}"
    program = f"import sys, edge.cli.status; print(*{heavy} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == ""


def test_an_answer_says_where_images_still_wait_in_the_journal(filled: Filled) -> None:
    is_settled = iter([False, True])
    handlers = {"ping": lambda _: {}, "viewed": lambda _: {}, "settle": lambda _: {"settled": next(is_settled)}}
    control = Control(filled.data_dir, handlers)
    control.start()
    try:
        assert "still wait in the journal" in edge(filled, "studies", "list").stderr
        assert "still wait in the journal" not in edge(filled, "studies", "list").stderr
    finally:
        control.stop()


def test_a_month_that_is_none_is_wrong_usage(filled: Filled) -> None:
    done = edge(filled, "report", "--month", "2026-13")
    assert (done.exit_code, "expected a month" in done.stderr) == (2, True)


def test_a_table_wraps_between_words_and_breaks_no_number() -> None:
    columns = ["destination", "state", "pending", "last success"]
    rows = [["archive", "not tried yet", "1,234,567", "2026-11-28 08:47 UTC"]]
    texts = list(zip(columns, *rows, strict=True))
    assert tables.fit_widths(texts, 80) == [11, 13, 9, 20]
    assert tables.fit_widths(texts, 40) == [11, 8, 9, 12]
    assert tables.fit_widths(texts, 36) == [11, 6, 9, 10]
    assert tables.fit_widths(texts, 30) is None
    assert tables.fit_widths([("a-very-long-name",)], 13) == [13]


def test_what_people_copy_stands_whole_where_a_table_is_too_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    uid = new_uid()
    columns, rows = ["patient ID", "destinations", "study UID"], [["P1", "archive: 1 confirmed", uid]] * 2

    def printed(width: int) -> list[str]:
        out = Console(file=StringIO(), force_terminal=True, color_system=None, width=width)
        monkeypatch.setattr(tables, "console", lambda: out)
        tables.print_table(columns, rows)
        return [line.rstrip() for line in out.file.getvalue().splitlines()]

    assert printed(100)[1] == f"P1          archive: 1 confirmed  {uid}"
    assert printed(80) == [
        "patient ID  destinations",
        "P1          archive: 1 confirmed",
        f"  study UID {uid}",
        "P1          archive: 1 confirmed",
        f"  study UID {uid}",
    ]


def test_in_a_narrow_terminal_long_texts_stand_below_their_row(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(tables, "console", lambda: Console(force_terminal=True, width=40, color_system=None))
    reason = "the destination does not answer: 192.0.2.1:104 refuses the connection, nothing listens there"
    rows = [["1", "pending", reason, "1.2.826.0.1.3680043.8"], ["2", "held", "", ""]]
    tables.print_table(["id", "state", "reason", "study UID"], rows)
    assert [line.rstrip() for line in capsys.readouterr().out.splitlines()] == [
        "id  state",
        "1   pending",
        "  reason the destination does not",
        "  answer: 192.0.2.1:104 refuses the",
        "  connection, nothing listens there",
        "  study UID 1.2.826.0.1.3680043.8",
        "2   held",
    ]


def test_a_message_is_told_by_keywords_with_the_items_of_its_sequences() -> None:
    scheduled = item({0x0020000D: "1.2.3", 0x00080050: "A1"})
    message = item({0x00400252: "COMPLETED", 0x00400270: [scheduled], 0x00400340: [], 0x00091001: "7"})
    assert list(attribute_lines(message)) == [
        "  (0009,1001): 7",
        "  PerformedProcedureStepStatus: COMPLETED",
        "  ScheduledStepAttributesSequence:",
        "    item 1",
        "      AccessionNumber: A1",
        "      StudyInstanceUID: 1.2.3",
        "  PerformedSeriesSequence: no items",
    ]
