"""What a person does to a gateway that runs: change its configuration, ask it, decide. The daemon is a process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pydicom
import pytest

from edge.dicom.scu import Association, plan_contexts
from edge.errors import AssociationRejected
from edge.model import ContextKey
from tests.support.objects import ct_files, dataset, sop_instance_uid
from tests.support.peers import Edge, StoreScp, echoscu, free_port, listens, routes_to, storescu, wait_until

CT = ContextKey("1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.1.2.1")
READ_AGAIN = "the configuration has been read again"
KEPT = "the configuration is bad, the running one stays active"


@contextmanager
def scanner(edge: Edge, calling: str = "CT1") -> Iterator[Association]:
    """An association of ours that stays open."""
    association = Association.open("127.0.0.1", edge.port, calling, "EDGE", plan_contexts([CT]).contexts)
    try:
        yield association
    finally:
        association.abort()


def store(association: Association, path: Path) -> int:
    """The status of one C-STORE."""
    context = association.context_for(CT.sop_class_uid)
    assert context is not None
    blob = path.read_bytes()
    size = len(dataset(blob))
    with path.open("rb") as file:
        uid, offset = sop_instance_uid(path), len(blob) - size
        return association.store(context, CT.sop_class_uid, uid, file.fileno(), offset, size, None, 0)[0]


def study_of(path: Path) -> str:
    return str(pydicom.dcmread(path, stop_before_pixels=True).StudyInstanceUID)


def reload(edge: Edge, config: str, says: str = READ_AGAIN) -> None:
    """Change the test's part of the configuration, SIGHUP, and wait for what the log says of it."""
    before = log_of(edge).count(says)
    edge.configure(config)
    edge.reload()
    wait_until(lambda: log_of(edge).count(says) > before, 20, f"the log says: {says}")


def log_of(edge: Edge) -> str:
    return edge.log.read_text("utf-8", "replace")


def alert(edge: Edge, kind: str) -> dict[str, str] | None:
    return next((each for each in edge.api_status()["alerts"] if each["kind"] == kind), None)


# -- reload ------------------------------------------------------------------------------------------------------------


def test_a_reload_takes_effect_while_an_association_goes_on(tmp_path: Path, running: ExitStack) -> None:
    archive = running.enter_context(StoreScp(tmp_path / "archive"))
    reader = running.enter_context(StoreScp(tmp_path / "reader", "READER"))
    ct1 = '[modality.ct1]\nae_title = "CT1"\n'
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive) + ct1, unknown="refuse"))
    sent = ct_files(tmp_path / "ct", 3, 4096)
    with scanner(edge) as ct:
        assert store(ct, sent[0]) == 0
        with pytest.raises(AssociationRejected), scanner(edge, "MR1"):
            pass
        wait_until(lambda: len(archive.uids()) == 1, 20, "the first is routed")
        reload(edge, routes_to(archive, reader) + ct1 + '[modality.mr1]\nae_title = "MR1"\n')
        assert store(ct, sent[1]) == 0
        with scanner(edge, "MR1") as mr:
            assert store(mr, sent[2]) == 0
    wait_until(lambda: archive.uids() == set(map(sop_instance_uid, sent)), 20, "all are at the archive")
    wait_until(lambda: reader.uids() == set(map(sop_instance_uid, sent[1:])), 20, "the new ones at the reader too")


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ('[route.bad]\nto = ["archive"]\nwen = {}\n', 'route.bad.wen: unknown key; did you mean "when"?'),
        ('[route.bad]\nto = ["archive"]\nwhen = { RemoteAddress = "10.0.0.0/99" }\n', '"10.0.0.0/99" is not a network'),
        ("[route.bad\n", "10-test.toml:"),
    ],
    ids=["typo", "only the rules' compiler sees it", "no TOML"],
)
def test_a_bad_reload_keeps_the_running_configuration_and_says_so(
    tmp_path: Path, archive: StoreScp, running: ExitStack, fault: str, named: str
) -> None:
    good = routes_to(archive)
    edge = running.enter_context(Edge(tmp_path / "edge", good))
    reload(edge, good + fault, says=KEPT)
    assert named in log_of(edge).partition(KEPT)[2]
    assert alert(edge, "configuration-rejected") is not None
    assert edge.cli("check").returncode == 2
    sent = ct_files(tmp_path / "ct", 2, 4096)
    storescu(sent, edge.port)
    wait_until(lambda: len(archive.files()) == 2, 20, "the running configuration still forwards")
    reload(edge, good)
    assert alert(edge, "configuration-rejected") is None


def test_a_changed_address_wants_a_restart_and_says_so(tmp_path: Path, archive: StoreScp, running: ExitStack) -> None:
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive)))
    base = edge.config_dir / "00-base.toml"
    moved = free_port()
    base.write_text(base.read_text().replace(f"port = {edge.port}", f"port = {moved}"))
    reload(edge, routes_to(archive), says="listen.port changed: restart to use it")
    echoscu(edge.port)
    edge.stop()
    edge.start()
    echoscu(moved)
    assert listens(edge.pid, moved)
    assert not listens(edge.pid, edge.port)


def test_a_corrected_port_drains_the_backlog(tmp_path: Path, archive: StoreScp, running: ExitStack) -> None:
    right = routes_to(archive)
    edge = running.enter_context(Edge(tmp_path / "edge", right.replace(str(archive.port), str(free_port()))))
    storescu(ct_files(tmp_path / "ct", 20, 4096), edge.port)
    wait_until(lambda: alert(edge, "destination-down"), 20, "the destination is down")
    reload(edge, right)
    wait_until(lambda: edge.api_status()["destinations"]["archive"]["confirmed"] == 20, 20, "all have arrived")
    assert alert(edge, "destination-down") is None
    assert len(archive.files()) == 20


def test_a_destination_that_is_removed_keeps_its_work_and_is_told(
    tmp_path: Path, archive: StoreScp, running: ExitStack
) -> None:
    away = StoreScp(tmp_path / "away", "AWAY")
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive, away)))
    storescu(ct_files(tmp_path / "ct", 5, 4096), edge.port)
    wait_until(lambda: len(archive.files()) == 5, 20, "the archive has them")
    reload(edge, routes_to(archive))
    told = alert(edge, "destination-removed")
    assert told is not None
    assert told["subject"] == "away"
    left = edge.api_status()["destinations"]["away"]
    assert (left["state"], left["pending"] + left["deferred"]) == ("paused", 5)
    running.enter_context(away)
    reload(edge, routes_to(archive, away))
    wait_until(lambda: len(away.files()) == 5, 20, "put back, it gets what waited for it")
    wait_until(lambda: alert(edge, "destination-removed") is None, 10, "and the alert is over")


def test_prove_says_no_then_yes_when_another_proof_is_asked_for(
    tmp_path: Path, archive: StoreScp, running: ExitStack
) -> None:
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive, confirm="commitment")))
    sent = ct_files(tmp_path / "ct", 3, 4096)
    storescu(sent, edge.port)
    wait_until(lambda: edge.api_status()["destinations"]["archive"]["sent"] == 3, 20, "all are sent")
    assert edge.api_status()["destinations"]["archive"]["confirmed"] == 0  # storescp commits nothing
    assert edge.cli("prove", study_of(sent[0])).returncode == 1
    reload(edge, routes_to(archive, confirm="status"))
    wait_until(lambda: edge.api_status()["destinations"]["archive"]["confirmed"] == 3, 20, "the status is the proof")
    assert edge.cli("prove", study_of(sent[0])).returncode == 0


# -- check -------------------------------------------------------------------------------------------------------------


def test_check_warns_of_what_is_legal_but_strange(tmp_path: Path, archive: StoreScp, running: ExitStack) -> None:
    config = (
        routes_to(archive)
        + '[modality.ct1]\nae_title = "CT1"\n[modality.quiet]\nae_title = "QUIET"\n'
        + '[destination.spare]\nae_title = "SPARE"\nhost = "127.0.0.1"\nport = 1104\n'
        + '[route.nobody]\nto = ["archive"]\nwhen = { CallingAETitle = "XA*" }\n'
    )
    edge = running.enter_context(Edge(tmp_path / "edge", config, unknown="refuse"))
    storescu(ct_files(tmp_path / "ct", 1, 4096), edge.port)
    done = wait_until(lambda: known(edge, "ct1"), 20, "the gateway knows that ct1 has sent")
    assert "warning: 10-test.toml" in done
    for warned in ("modality.quiet: has never sent", "destination.spare: no route sends there", "route.nobody.when"):
        assert warned in done
    assert edge.cli("check").returncode == 0


def known(edge: Edge, modality: str) -> str:
    """What `edge check` prints, once it does not warn of a modality any more."""
    told = edge.cli("check").stdout
    return "" if f"modality.{modality}: has never sent" in told else told


def test_typos_of_several_files_are_told_at_once(tmp_path: Path) -> None:
    edge = Edge(tmp_path / "edge", '[modality.ct1]\nae_titel = "CT1"\n')
    (edge.config_dir / "20-where.toml").write_text('[destination.a]\nae_title = "A"\nhost = "h"\nprt = 104\n')
    (edge.config_dir / "30-how.toml").write_text('[route.r]\nto = ["archiv"]\npriority = "asap"\n')
    done = edge.cli("check")
    assert done.returncode == 2
    for place in ("10-test.toml:2: ", "20-where.toml:4: ", "30-how.toml:2: ", "30-how.toml:3: "):
        assert place in done.stderr, done.stderr
    assert edge.cli("run").returncode == 2


# -- a person decides --------------------------------------------------------------------------------------------------


def test_explain_tells_of_a_file_and_of_a_study(tmp_path: Path, archive: StoreScp, running: ExitStack) -> None:
    config = routes_to(archive) + '[route.mr]\nto = ["archive"]\nwhen = { Modality = "MR" }\n'
    edge = running.enter_context(Edge(tmp_path / "edge", config))
    sent = ct_files(tmp_path / "ct", 2, 4096)
    storescu(sent, edge.port, calling="CT7")
    for asked in ([str(sent[0])], ["--study", study_of(sent[0])]):
        done = edge.cli("route", "explain", *asked)
        assert done.returncode == 0, done.stderr
        assert "route everything matches" in done.stdout
        assert 'route mr does not match: to archive\n    NO  Modality: expected "MR", found "CT"' in done.stdout
    assert "from CT7 at 127.0.0.1" in done.stdout


def test_held_by_a_person_it_stays_until_released(tmp_path: Path, running: ExitStack) -> None:
    archive = StoreScp(tmp_path / "archive")
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive)))
    wrong, right = ct_files(tmp_path / "wrong", 2, 4096), ct_files(tmp_path / "right", 2, 4096)
    storescu([*wrong, *right], edge.port)
    wait_until(lambda: alert(edge, "destination-down"), 20, "nothing can be sent yet")
    wait_until(lambda: edge.api_status()["queue"]["active"] == 0, 20, "nothing is under way")
    assert "the destination is down: 127.0.0.1" in edge.cli("queue", "list", "--state", "pending").stdout
    assert edge.cli("queue", "hold", "--destination", "archvie").returncode == 2  # no such destination
    assert edge.cli("queue", "hold", "--study", study_of(wrong[0]), "--reason", "wrong patient").returncode == 0
    running.enter_context(archive)
    assert edge.cli("queue", "retry", "--study", study_of(right[0])).returncode in (0, 1)  # 1: none was deferred
    wait_until(lambda: edge.api_status()["destinations"]["archive"]["sent"] == 2, 90, "the others are sent")
    assert archive.uids() == set(map(sop_instance_uid, right))
    assert edge.api_status()["queue"]["held"] == 2
    assert edge.cli("queue", "release", "--study", study_of(wrong[0]), "--reason", "checked").returncode == 0
    wait_until(lambda: len(archive.files()) == 4, 20, "released, they are sent")


def test_unroutable_then_a_route_then_release(tmp_path: Path, archive: StoreScp, running: ExitStack) -> None:
    only_mr = routes_to(archive) + 'when = { Modality = "MR" }\n'
    edge = running.enter_context(Edge(tmp_path / "edge", only_mr))
    sent = ct_files(tmp_path / "ct", 3, 4096)
    storescu(sent, edge.port)
    assert edge.cli("route", "explain", str(sent[0])).returncode == 1
    assert alert(edge, "unroutable") is not None
    listed = json.loads(edge.cli("queue", "list", "--unroutable", "--json").stdout)
    assert len(listed) == 3
    release = ("instances", "release", "--unroutable", "--reason", "the route is there")
    assert edge.cli(*release).returncode == 1  # still no route
    reload(edge, routes_to(archive))
    assert edge.cli("queue", "retry", "--unroutable").returncode == 1  # never by a retry
    assert edge.cli(*release).returncode == 0
    wait_until(lambda: len(archive.files()) == 3, 20, "all are sent")
    assert alert(edge, "unroutable") is None
