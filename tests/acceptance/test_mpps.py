"""Performed procedure steps with dcmjs-dimse as scanner and as RIS, through outages, crashes and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.certificates import Authority
from tests.support.objects import ct_files, sop_instance_uid
from tests.support.peers import Edge, StoreScp, free_port, routes_to, storescu, wait_until
from tests.support.performing import CREATED, Ris, ended, perform, send_step

CONFIG = """
[modality.ct1]
ae_title = "CT1"
services = ["echo", "store", "mpps"]
[destination.ris]
ae_title = "RIS"
host = "127.0.0.1"
port = {ris}
[mpps]
to = ["ris"]
{more}
"""


TLS = 'tls = true\ntls_name = "ris.test"'


def configured(ris: int, more: str = "") -> str:
    return CONFIG.format(ris=ris, more=more)


def listed(edge: Edge) -> list[dict[str, Any]]:
    done = edge.cli("mpps", "list", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, list)
    return found


def is_done(edge: Edge) -> bool:
    owed = edge.api_status()["mpps"]
    return not owed["open"] and not owed["held"]


@pytest.mark.slow
def test_steps_reach_the_ris_in_order_after_an_outage_and_a_kill(tmp_path: Path) -> None:
    """The RIS is down, the gateway is killed, and the first acknowledgement is lost."""
    port = free_port()
    with Edge(tmp_path / "edge", configured(port)) as edge:
        answers = perform(edge.port, "--uid", "1.2.7", "--steps", "create,progress")
        answers += perform(edge.port, "--uid", "1.2.8", "--state", "DISCONTINUED")
        assert [each["status"] for each in answers] == ["0000"] * 4
        edge.kill()
        edge.start()
        assert perform(edge.port, "--uid", "1.2.7", "--steps", "final")[0]["status"] == "0000"
        assert perform(edge.port, "--uid", "1.2.7", "--steps", "final")[0]["status"] == "0110", "final is final"
        assert perform(edge.port, "--uid", "1.2.9", "--steps", "final")[0]["status"] == "0112"
        assert edge.api_status()["mpps"]["open"] == 5
        with Ris(tmp_path / "ris", port, "--drop", "1") as ris:
            wait_until(lambda: is_done(edge), 60, "the RIS has all")
            assert ris.of("1.2.7") == [
                ("N-CREATE", "IN PROGRESS", "0000"),  # its acknowledgement was lost
                ("N-CREATE", "IN PROGRESS", "0111"),
                ("N-SET", "IN PROGRESS", "0000"),
                ("N-SET", "COMPLETED", "0000"),
            ]
            assert ris.of("1.2.8") == [("N-CREATE", "IN PROGRESS", "0000"), ("N-SET", "DISCONTINUED", "0000")]
            created = ris.messages()[0]["data"]
            assert created["PatientName"] == [{"Alphabetic": "Doe^Jane"}]
            assert created["PerformedProcedureStepStartTime"] == "101500", "the original time"
        assert edge.api_status()["mpps"]["open"] == 0


@pytest.mark.slow
def test_a_refused_step_is_parked_with_all_its_messages_and_others_go_on(tmp_path: Path) -> None:
    port = free_port()
    with Edge(tmp_path / "edge", configured(port)) as edge:
        with Ris(tmp_path / "refuses", port, "--refuse", "a777"):
            perform(edge.port, "--uid", "1.2.7")
            wait_until(lambda: edge.api_status()["mpps"]["held"], 30, "it is held")
        with Ris(tmp_path / "takes", port) as ris:
            perform(edge.port, "--uid", "1.2.8")
            wait_until(lambda: len(ris.of("1.2.8")) == 2, 60, "the other step is there")
            assert ris.of("1.2.7") == [], "no N-SET passes its N-CREATE"
            (held,) = [each for each in listed(edge) if each["held"]]
            assert (held["sop_instance_uid"], held["open"], held["held"]) == ("1.2.7", 1, 1)
            assert "A777" in held["last_error"]
            number = str(held["id"])
            shown = json.loads(edge.cli("mpps", "show", number, "--json").stdout)
            assert [each["state"] for each in shown["messages"]] == ["held", "pending"]
            assert shown["messages"][0]["data_set"]["00400252"]["Value"] == ["IN PROGRESS"], "both data sets are there"
            assert shown["messages"][1]["data_set"]["00400252"]["Value"] == ["COMPLETED"]
            told = edge.cli("mpps", "show", number).stdout
            assert "\nset:\n" in told
            assert "\n  PerformedProcedureStepStatus: COMPLETED\n" in told
            alerts = [each for each in edge.api_status()["alerts"] if each["subject"] == "performed steps for ris"]
            assert [each["kind"] for each in alerts] == ["work-held"]
            assert edge.cli("mpps", "retry", number, "--reason", "the RIS knows the patient now").returncode == 0
            wait_until(lambda: len(ris.of("1.2.7")) == 2, 60, "it is there as well")
            wait_until(lambda: is_done(edge), 20, "it is on record")
            perform(edge.port, "--uid", "1.2.10", "--steps", "create")
            wait_until(lambda: is_done(edge), 20, "it is on record")
        perform(edge.port, "--uid", "1.2.10", "--steps", "final")
        number = str(next(each["id"] for each in listed(edge) if each["open"]))
        assert edge.cli("mpps", "cancel", number).returncode == 2, "it wants a reason"
        assert edge.cli("mpps", "cancel", number, "--reason", "the RIS is retired").returncode == 0
        assert is_done(edge)
        assert "discontinued" not in edge.cli("mpps", "list").stdout


@pytest.mark.slow
def test_what_was_performed_and_what_arrived(tmp_path: Path) -> None:
    """Availability is notified after proof alone; what does not come is an alert without the patient's name."""
    port = free_port()
    files = ct_files(tmp_path / "ct", 3, 20_000)
    uids = [sop_instance_uid(each) for each in files]
    with StoreScp(tmp_path / "archive") as archive, Ris(tmp_path / "ris", port) as ris:
        text = routes_to(archive) + configured(port, 'ian = ["ris"]\nmissing_after = "3s"')
        with Edge(tmp_path / "edge", text) as edge:
            assert send_step(edge.port, "1.2.7", CREATED).status == 0
            storescu(files[:2], edge.port)
            assert send_step(edge.port, "1.2.7", ended(uids), is_set=True).status == 0
            (alert,) = wait_until(lambda: missing(edge), 60, "the alert", interval=0.5)
            assert "1 of 3 images" in alert["text"]
            assert "study" in alert["subject"]
            assert "Doe" not in json.dumps(alert)
            storescu(files[2:], edge.port)
            wait_until(lambda: not missing(edge), 60, "it is over", interval=0.5)
            wait_until(lambda: len(ris.messages()) >= 3, 60, "the notification")
            available = ris.messages()[2]
            assert available["message"] == "N-CREATE"
            (step,) = available["data"]["ReferencedPerformedProcedureStepSequence"]
            assert step["ReferencedSOPInstanceUID"] == "1.2.7"
            (series,) = available["data"]["ReferencedSeriesSequence"]
            named = {each["ReferencedSOPInstanceUID"]: each for each in series["ReferencedSOPSequence"]}
            assert set(named) <= set(uids)
            assert {each["InstanceAvailability"] for each in named.values()} == {"ONLINE"}
            assert {each["RetrieveAETitle"] for each in named.values()} == {"ARCHIVE"}


@pytest.mark.slow
def test_a_ris_by_tls_gets_steps_and_hears_of_a_study_without_one(tmp_path: Path) -> None:
    """Both certificates are checked. A study that no modality reports is announced once it rests and is proved."""
    port, clinic = free_port(), Authority(tmp_path / "ca")
    own, theirs = clinic.issue("edge.test", "127.0.0.1"), clinic.issue("ris.test", "ris.test", file="ris")
    tls = f'[tls]\nport = {free_port()}\ncertificate = "{own.certificate}"\nkey = "{own.key}"\nca = "{clinic.ca}"\n'
    secured = ("--key", str(theirs.key), "--cert", str(theirs.certificate), "--ca", str(clinic.ca))
    files = ct_files(tmp_path / "ct", 3, 20_000, StudyInstanceUID="1.2.55")
    with StoreScp(tmp_path / "archive") as archive, Ris(tmp_path / "ris", port, *secured) as ris:
        more = configured(port, 'ian = ["ris"]\nian_after = "2s"').replace(f"port = {port}", f"port = {port}\n{TLS}")
        with Edge(tmp_path / "edge", routes_to(archive) + more + tls) as edge:
            storescu(files, edge.port)
            assert send_step(edge.port, "1.2.7", CREATED).status == 0
            wait_until(lambda: len(ris.messages()) >= 2, 60, "the step and the announcement")
            (step,) = [each for each in ris.messages() if each["uid"] == "1.2.7"]
            assert (step["message"], step["status"]) == ("N-CREATE", "0000")
            (available,) = [each for each in ris.messages() if each["uid"] != "1.2.7"]
            assert available["data"]["ReferencedPerformedProcedureStepSequence"] == []
            (series,) = available["data"]["ReferencedSeriesSequence"]
            named = {each["ReferencedSOPInstanceUID"] for each in series["ReferencedSOPSequence"]}
            assert named == {sop_instance_uid(each) for each in files}
            assert [each["is_reported"] for each in listed(edge) if each["study_uid"] == "1.2.55"] == [False]
            late = ct_files(tmp_path / "late", 1, 20_000, StudyInstanceUID="1.2.55")
            storescu(late, edge.port)
            wait_until(lambda: len(ris.messages()) == 3, 60, "what came later is announced alone")
            (series,) = ris.messages()[2]["data"]["ReferencedSeriesSequence"]
            (only,) = series["ReferencedSOPSequence"]
            assert only["ReferencedSOPInstanceUID"] == sop_instance_uid(late[0])


def missing(edge: Edge) -> list[dict[str, Any]]:
    return [each for each in edge.api_status()["alerts"] if each["kind"] == "images-missing"]
