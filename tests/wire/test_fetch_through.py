"""What only an archive has, on its way to the one who wants it: which ends of an exchange cost objects, which none."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from edge.dicom.items import decode_items
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from edge.errors import PeerError
from edge.query.asking import AnswerBatch, AskedQuery
from edge.query.levels import tag_of
from edge.query.located import ALL_HERE, Located
from edge.scp import fetch_through
from edge.scp.fetch_through import FETCH_CHUNK, Carrier, ThroughFetch
from edge.scp.services import retrieving
from tests.support.gateway import CONFIG, configuration

CT, STUDY = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
THERE = [Located(f"{STUDY}.{n}", CT, "", archive="vna", study_uid=STUDY, series_uid="1") for n in range(40)]
ARCHIVE = '[query]\n[destination.vna]\nae_title = "VNA"\nhost = "127.0.0.1"\nport = 104\n'


class Archive:
    """Gives objects back: for each request of each exchange as many as its script says, and then it ends that."""

    def __init__(self, *script: Sequence[int]) -> None:
        self._script, self.here = deque(script), set[str]()
        self.exchanges = self.aborted = 0

    def open(self, *_: Any) -> Exchange:
        self.exchanges += 1
        return Exchange(self, self._script.popleft() if self._script else ())

    def ask(self, asked: AskedQuery, identifier: bytes) -> Iterator[AnswerBatch]:
        """Find what is here by now, as the process that answers does."""
        wanted = decode_items(identifier, asked.syntax)[tag_of("SOPInstanceUID")].values
        found = [Located(each, CT, EXPLICIT_VR_LITTLE_ENDIAN, path=each) for each in wanted if each in self.here]
        yield AnswerBatch([each.encode() for each in found], 0)


class Exchange:
    """See edge.query.fetching.Fetcher."""

    is_recorded_by_door = True

    def __init__(self, archive: Archive, script: Sequence[int]) -> None:
        self._archive, self._script = archive, deque(script)

    def fetch(self, instances: Sequence[Located], _take: object) -> int:
        count = self._script.popleft() if self._script else 0
        self._archive.here |= {each.sop_instance_uid for each in instances[:count]}
        if count < len(instances):
            raise PeerError("the peer closed the connection without releasing the association")
        return count

    def close(self) -> None: ...

    def abort(self) -> None:
        self._archive.aborted += 1


class Retrieval:
    """See edge.scp.fetch_through.FetchProgress. `patience`: objects after which who wants them has gone.

    `most`: objects after which nothing more gets there.
    """

    def __init__(self, patience: int = 1000, most: int = 1000) -> None:
        self.carried, self.failed, self._patience, self._most = list[str](), list[str](), patience, most

    @property
    def is_over(self) -> bool:
        return len(self.carried) >= self._most

    def carry_all(self, wanted: list[Located], _carrier: Carrier) -> None:
        self.carried += [each.sop_instance_uid for each in wanted]
        if len(self.carried) > self._patience:
            raise PeerError("the peer aborted the association (its user, reason 0)")

    def fail(self, instances: deque[Located] | list[Located]) -> None:
        self.failed += [each.sop_instance_uid for each in instances]

    def tell(self) -> None: ...


def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, archive: Archive, retrieval: Retrieval) -> None:
    monkeypatch.setattr(fetch_through, "open_fetcher", archive.open)
    door = MagicMock(config=configuration(tmp_path, CONFIG + ARCHIVE), called_ae="EDGE", asker=archive)
    ThroughFetch(door).run(list(THERE), MagicMock(), retrieval)


def test_an_archive_that_ends_an_idle_association_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was idle while what had come was carried to a slow receiver."""
    archive, retrieval = Archive([FETCH_CHUNK], [FETCH_CHUNK, 3], [5]), Retrieval()
    fetch(tmp_path, monkeypatch, archive, retrieval)
    assert (archive.exchanges, sorted(retrieval.carried)) == (3, sorted(each.sop_instance_uid for each in THERE))
    assert retrieval.failed == []


def test_what_came_before_an_archive_broke_is_carried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    archive, retrieval = Archive([3], [FETCH_CHUNK] * 3), Retrieval()
    fetch(tmp_path, monkeypatch, archive, retrieval)
    assert (archive.exchanges, archive.aborted) == (1, 1), "a new one that fails is not tried again"
    assert retrieval.carried == [each.sop_instance_uid for each in THERE[:3]]
    assert retrieval.failed == [each.sop_instance_uid for each in THERE[3:]]
    assert "vna does not give back what a retrieval wants" in caplog.text


def test_who_wanted_it_and_has_gone_is_no_fault_of_the_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    archive, retrieval = Archive([FETCH_CHUNK] * 3), Retrieval(patience=0)
    with pytest.raises(PeerError, match="its user"):
        fetch(tmp_path, monkeypatch, archive, retrieval)
    assert (archive.exchanges, archive.aborted) == (1, 1)
    assert "does not give back" not in caplog.text


def test_nothing_is_fetched_for_a_receiver_that_is_out_of_reach(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the line nor the one who waits is to bear that."""
    archive, retrieval = Archive([FETCH_CHUNK] * 3), Retrieval(most=1)
    fetch(tmp_path, monkeypatch, archive, retrieval)
    assert len(archive.here) == FETCH_CHUNK
    assert retrieval.failed == [each.sop_instance_uid for each in THERE[FETCH_CHUNK:]]


def test_a_receiver_that_is_out_of_reach_ends_a_retrieval() -> None:
    here, there = THERE[:2], THERE[2:]
    answers = [*(each.encode() for each in here), ALL_HERE, *(each.encode() for each in there)]
    responder, carrier, bring = MagicMock(), MagicMock(), MagicMock()
    responder.asker.ask = lambda *_: (each for each in [AnswerBatch(answers, 0)])
    responder.dialogue.is_cancelled.return_value = responder.dialogue.wire.is_closed = False
    carrier.carry.side_effect = PeerError("127.0.0.1:104 refuses the connection")
    asked = AskedQuery("retrieve", "STUDY", EXPLICIT_VR_LITTLE_ENDIAN, "EDGE")
    retrieval = retrieving.Retrieval(MagicMock(), responder, asked, b"", "DEST")
    retrieval.run(carrier, bring)
    assert not bring.called
    assert carrier.carry.call_count == 1
    assert sorted(retrieval.progress.failed) == sorted(each.sop_instance_uid for each in THERE)
    assert responder.dialogue.respond.call_args.args[1] == 0xA702
