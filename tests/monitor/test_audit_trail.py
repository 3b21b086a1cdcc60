"""The audit trail end to end: the gateway as a process, real senders and archives, a real rsyslog as the repository."""

from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge.messaging.audit.channel import GRACE_SECONDS
from tests.support.certificates import Authority
from tests.support.objects import ct_files
from tests.support.peers import Edge, StoreScp, echoscu, free_port, routes_to, storescu, wait_until
from tests.support.repository import Repository
from tests.wire.test_tls import Site

CT = "1.2.840.10008.5.1.4.1.1.2"
KNOWN = '[modality.ct]\nae_title = "CT*"\n'


def kinds(repository: Repository) -> Counter[tuple[str, str | None, int]]:
    return Counter((each.event, each.type, each.outcome) for each in repository.told())


def images(repository: Repository, user: str) -> int:
    """How many images were told of that someone sent: the requestor of transfers."""
    came = repository.has("DICOM Instances Transferred")
    return sum(sum(each.counts.values()) for each in came if each.who[0][0] == f"{user}*")


def told_now(edge: Edge, repository: Repository, stranger: str) -> None:
    """Have the gateway tell what it has: what concerns security does not wait, nor what came before it."""
    echoscu(edge.port, calling=stranger, check=False)
    wait_until(lambda: any(stranger in each.xml for each in repository.told()), 20, f"{stranger} is told of")


def rows(repository: Repository) -> list[int]:
    """The first row of the ledger that each message names."""
    return [int(re.findall(r"rows? (\d+)", each.description)[0]) for each in repository.told()]


def test_a_study_is_reported_over_tls_and_what_an_outage_held_back_comes_later(
    tmp_path: Path, archive: StoreScp, running: ExitStack
) -> None:
    repository = running.enter_context(Repository(tmp_path / "repository"))
    config = KNOWN + routes_to(archive) + repository.section()
    edge = running.enter_context(Edge(tmp_path / "edge", config, unknown="refuse"))
    storescu(ct_files(tmp_path / "ct", 20, 4096, PatientName="Grün^Jürgen", PatientID="PID-7"), edge.port)
    wait_until(lambda: confirmed(edge) == 20, 20, "the study is at the archive")
    told_now(edge, repository, "STRANGER")
    assert kinds(repository) == {
        ("Application Activity", "Application Start", 0): 1,
        ("Network Entry", "Attach", 0): 1,
        ("DICOM Instances Transferred", None, 0): 2,
        ("Begin Transferring DICOM Instances", None, 0): 1,
        ("Security Alert", "Node Authentication", 4): 1,
    }
    came = repository.has("DICOM Instances Transferred")[0]
    assert (came.counts, came.address("CT1")) == ({CT: 20}, "127.0.0.1")
    patient = came.subject("Patient Number")
    assert patient is not None
    assert (patient.get("ParticipantObjectID"), patient.findtext("ParticipantObjectName")) == ("PID-7", "Grün^Jürgen")
    (alert,) = repository.has("Security Alert")
    assert (alert.who[1][0], alert.address("STRANGER")) == ("STRANGER*", "127.0.0.1")
    priorities, times, _, application, _, msgid, _ = zip(*repository.frames(), strict=True)
    assert (set(priorities), set(application), set(msgid)) == ({"85"}, {"edge"}, {"IHE+RFC-3881"})
    assert list(times) == [each.at for each in repository.told()]

    before = len(repository.lines())
    wait_until(lambda: time.time() - repository.store.stat().st_mtime > GRACE_SECONDS + 1.5, 10, "no doubt is left")
    repository.stop()
    for number in range(3):
        storescu(ct_files(tmp_path / f"away{number}", 5, 4096), edge.port)
    wait_until(lambda: confirmed(edge) == 35, 30, "images go on without the repository")
    edge.stop()
    edge.start()
    repository.start()
    wait_until(lambda: images(repository, "edge") == images(repository, "CT1") == 35, 60, "the rest is told")
    wait_until(lambda: len(repository.has("Application Activity")) == 3, 30, "the restart too")
    told = repository.lines()
    assert len(set(told)) == len(told), "a message came twice"
    assert rows(repository)[before:] == sorted(rows(repository)[before:])
    stop = repository.has("Application Activity", "Application Stop")[0]
    start = repository.has("Application Activity", "Application Start")[1]
    assert stop.at < start.at
    assert edge.stop() == 0
    wait_until(lambda: len(repository.has("Network Entry", "Detach")) == 2, 10, "the last farewell is heard at once")


def confirmed(edge: Edge) -> int:
    return int(edge.api_status()["destinations"]["archive"]["confirmed"])


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_other_transports(tmp_path: Path, archive: StoreScp, running: ExitStack, transport: str) -> None:
    repository = running.enter_context(Repository(tmp_path / "repository", transport))
    config = KNOWN + routes_to(archive) + repository.section()
    edge = running.enter_context(Edge(tmp_path / "edge", config, unknown="refuse"))
    storescu(ct_files(tmp_path / "ct", 3, 4096), edge.port)
    wait_until(lambda: confirmed(edge) == 3, 20, "the study is at the archive")
    told_now(edge, repository, "STRANGER")
    assert images(repository, "CT1") == images(repository, "edge") == 3


def test_bad_certificates_and_changed_configurations_are_security_alerts(tmp_path: Path, running: ExitStack) -> None:
    repository = running.enter_context(Repository(tmp_path / "repository", "tcp"))
    site, foreign = Site(tmp_path / "site"), Authority(tmp_path / "foreign").issue("evil.test", "evil.test")
    port = free_port()
    named = '[modality.ct1]\nae_title = "CT1"\ncertificate = "ct1.test"\n[destination.gone]\nae_title = "GONE"\n'
    config = f'{site.table(port)}{named}host = "127.0.0.1"\nport = 9\n{repository.section()}'
    edge = running.enter_context(Edge(tmp_path / "edge", config, unknown="refuse"))
    for shown in (foreign, site.archive):
        assert echoscu(port, *shown.dcmtk(site.ca), check=False).returncode
    edge.configure(config.replace("port = 9\n", "port = 10\n"))
    edge.reload()
    wait_until(lambda: alerts(repository, "Software Configuration"), 20, "a change is told")
    edge.configure(config.replace('certificate = "ct1.test"', 'certificate = "ct*.test"'))
    edge.reload()
    wait_until(lambda: alerts(repository, "Security Configuration"), 20, "a change of who may come in is told")
    edge.configure("[nonsense]\n")
    edge.reload()
    wait_until(lambda: len(alerts(repository, "Software Configuration")) == 2, 20, "a bad one is told")
    first, second = alerts(repository, "Node Authentication")
    assert "no TLS with it" in first
    assert "its certificate" in second
    assert alerts(repository, "Software Configuration")[0] == "changed: destination.gone.port"
    assert alerts(repository, "Software Configuration")[1].startswith("rejected: ")
    assert "modality.ct1.certificate" in alerts(repository, "Security Configuration")[0]


def alerts(repository: Repository, kind: str) -> list[str]:
    return [each.alert for each in repository.has("Security Alert", kind)]
