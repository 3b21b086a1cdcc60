"""The harness itself: the peers do what the other tests take for granted."""

from __future__ import annotations

import queue
from pathlib import Path

import pydicom
import pytest
from pynetdicom import AE, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, StorageCommitmentPushModelInstance

from tests.support import peers
from tests.support.objects import ct_files, dataset, real_files, sop_instance_uid
from tests.support.peers import (
    Edge,
    Orthanc,
    StoreScp,
    dcmsend,
    echoscu,
    free_port,
    routes_to,
    run,
    storescu,
    wait_until,
)


def test_made_slices_are_valid_and_unique(tmp_path: Path) -> None:
    paths = ct_files(tmp_path / "ct", 5, PatientID="CANARY")
    made = [pydicom.dcmread(path) for path in paths]
    assert len({ds.SOPInstanceUID for ds in made}) == 5
    assert len({ds.StudyInstanceUID for ds in made}) == 1
    assert made[0].PatientID == "CANARY"
    assert made[0].pixel_array.shape == (512, 512)
    assert all(ds.SOPInstanceUID == ds.file_meta.MediaStorageSOPInstanceUID for ds in made)


@pytest.mark.parametrize("send", [storescu, dcmsend])
def test_storescp_keeps_the_data_set_as_sent(tmp_path: Path, archive: StoreScp, send) -> None:
    sent = {sop_instance_uid(path): dataset(path) for path in ct_files(tmp_path / "ct", 5)}
    send(sorted((tmp_path / "ct").iterdir()), archive.port, called="ARCHIVE")
    assert {sop_instance_uid(path): dataset(path) for path in archive.files()} == sent
    assert archive.uids() == set(sent)
    assert archive.stores() == 5


def test_storescp_faults_reach_the_sender(tmp_path: Path) -> None:
    with StoreScp(tmp_path / "aborting", args=["--abort-after"]) as peer:
        assert storescu(ct_files(tmp_path / "ct", 1), peer.port, check=False).returncode != 0
        echoscu(peer.port)


def test_a_peer_that_cannot_start_says_why(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="no-such-option"):
        StoreScp(tmp_path / "broken", args=["--no-such-option"]).start()


def test_a_stopped_peer_frees_its_port_and_starts_again(tmp_path: Path) -> None:
    peer = StoreScp(tmp_path / "archive").start()
    for end in (peer.stop, peer.kill):
        end()
        assert echoscu(peer.port, check=False).returncode != 0
        peer.start()
        echoscu(peer.port)
    peer.kill()


def test_orthanc_keeps_the_data_set_as_sent(tmp_path: Path, orthanc: Orthanc) -> None:
    paths = ct_files(tmp_path / "ct", 3)
    storescu(paths, orthanc.port, called="ORTHANC")
    held = orthanc.instances()
    assert {uid: dataset(orthanc.file(key)) for uid, key in held.items()} == {
        sop_instance_uid(path): dataset(path) for path in paths
    }
    orthanc.delete(next(iter(held.values())))
    assert orthanc.count() == 2


def test_orthanc_reports_storage_commitment_to_us(tmp_path: Path) -> None:
    """Orthanc answers an N-ACTION with an N-EVENT-REPORT on an association of its own (PS3.4 section J.3.3)."""
    reports: queue.Queue[tuple[int, pydicom.Dataset]] = queue.Queue()

    def on_report(event: evt.Event) -> tuple[int, None]:
        reports.put((event.event_type, event.event_information))
        return 0x0000, None

    ae = AE(ae_title="EDGE")
    ae.add_supported_context(StorageCommitmentPushModel, scu_role=False, scp_role=True)
    ae.add_requested_context(StorageCommitmentPushModel)
    port = free_port()
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_N_EVENT_REPORT, on_report)])
    try:
        with Orthanc(tmp_path / "orthanc", edge_port=port) as orthanc:
            paths = ct_files(tmp_path / "ct", 2)
            storescu(paths[:1], orthanc.port, called="ORTHANC")
            association = ae.associate("127.0.0.1", orthanc.port, ae_title="ORTHANC")
            assert association.is_established
            status, _ = association.send_n_action(
                _transaction(paths), 1, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            association.release()
            assert status.Status == 0x0000
            event_type, report = reports.get(timeout=60)
    finally:
        server.shutdown()
    assert event_type == 2  # complete, failures exist
    assert [item.ReferencedSOPInstanceUID for item in report.ReferencedSOPSequence] == [sop_instance_uid(paths[0])]
    assert [item.ReferencedSOPInstanceUID for item in report.FailedSOPSequence] == [sop_instance_uid(paths[1])]
    assert report.FailedSOPSequence[0].FailureReason == 0x0112  # no such object instance


def _transaction(paths: list[Path]) -> pydicom.Dataset:
    ds = pydicom.Dataset()
    ds.TransactionUID = pydicom.uid.generate_uid()
    ds.ReferencedSOPSequence = []
    for path in paths:
        item = pydicom.Dataset()
        item.ReferencedSOPClassUID = pydicom.uid.CTImageStorage
        item.ReferencedSOPInstanceUID = sop_instance_uid(path)
        ds.ReferencedSOPSequence.append(item)
    return ds


def test_real_files_are_those_of_the_manifest() -> None:
    files = real_files()
    assert len(files) > 300
    assert all(file.path.stat().st_size == int(file.row["size"]) for file in files)


def test_waiting_in_vain_says_for_what(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "PATIENCE", 0.0)
    with pytest.raises(AssertionError, match=r"waited 0\.01 s in vain for: the moon \(last: 0\)"):
        wait_until(lambda: 0, 0.01, "the moon", interval=0.001)


def test_a_failing_program_is_quoted() -> None:
    with pytest.raises(AssertionError, match=r"(?s)sh ended with 3:.*oops"):
        run(["/bin/sh", "-c", "echo oops; exit 3"])


def test_edge_lives_dies_and_says_why(tmp_path: Path, archive: StoreScp) -> None:
    with Edge(tmp_path / "edge", routes_to(archive)) as edge:
        echoscu(edge.port)
        assert edge.status()["state"] == edge.api_status()["state"] == "running"
        edge.kill()
        assert edge.status()["state"] == "down"
        edge.start()
        assert edge.stop() == 0
        edge.configure("[nonsense]\n")
        with pytest.raises(AssertionError, match=r"edge ended with 2 (?s:.*) nonsense: unknown table"):
            edge.start()


def test_a_forked_command_answers_as_one_that_is_started(tmp_path: Path) -> None:
    edge, answers = Edge(tmp_path / "edge", "[listen]\nae_titel = 'x'\n"), []
    for edge.forked in (True, False):
        done = edge.cli("check")
        answers.append((done.returncode, done.stdout, done.stderr))
    assert answers[0] == answers[1]
    assert answers[0][0] == 2
    assert "ae_title" in answers[0][2]
