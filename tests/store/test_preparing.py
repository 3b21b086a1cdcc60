"""Apply prepares long objects beside one another: their receive buffers are kept for it, and no failure passes it."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edge.errors import Cause, StorageFull
from edge.intake import apply
from edge.journal import service
from edge.journal.holding import HeldRecord, HeldRecords
from edge.spool import Spool, Stored
from tests.store.test_large_objects import accept
from tests.support.gateway import Receiving
from tests.support.objects import ct_files, dataset
from tests.support.slots import count_used

LENGTH = 200_000
put = Spool.put


@pytest.fixture
def edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiving]:
    monkeypatch.setattr(apply, "HELPERS", 2)
    with Receiving(tmp_path) as receiving:
        receiving.spool.helpers = ThreadPoolExecutor(2)
        yield receiving


def hold_until(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Nothing is applied before there are so many records."""

    def hold_back(held: HeldRecords, read: Callable[[float], bool], _: Callable[[], bool]) -> None:
        while len(held) < count:
            read(0.01)

    monkeypatch.setattr(service, "hold_back", hold_back)


def assert_all_stored(edge: Receiving, paths: list[Path]) -> None:
    stored = {row[0] for row in edge.rows("SELECT sha256 FROM instance WHERE state = 'stored'")}
    assert stored == {hashlib.sha256(dataset(path)).digest() for path in paths}
    assert sorted(dataset(each) for each in edge.files()) == sorted(dataset(path) for path in paths)


def test_two_are_written_at_the_same_time(edge: Receiving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hold_until(monkeypatch, 4)
    together = threading.Barrier(2)

    def put_together(*arguments: Any) -> Stored:
        together.wait(60)
        return put(*arguments)

    monkeypatch.setattr(Spool, "put", put_together)
    paths = ct_files(tmp_path / "ct", 4, LENGTH)
    assert [accept(edge, path) for path in paths] == [0] * 4
    assert_all_stored(edge, paths)


def test_a_buffer_is_kept_until_its_object_is_written(
    edge: Receiving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events, owed, given_back, held = list[str](), list[int](), threading.Event(), edge.journal._held
    let_go = held.let_go

    def put_late(*arguments: Any) -> Stored:
        given_back.wait(0.5)  # it should not be so soon
        owed.append(edge.journal.owed_to_spool.files)
        stored = put(*arguments)
        events.append("written")
        return stored

    def note_let_go(record: HeldRecord) -> None:
        events.append("given back")
        given_back.set()
        let_go(record)

    monkeypatch.setattr(Spool, "put", put_late)
    monkeypatch.setattr(held, "let_go", note_let_go)
    (path,) = ct_files(tmp_path / "ct", 1, LENGTH)
    assert accept(edge, path) == 0
    assert_all_stored(edge, [path])
    assert events == ["written", "given back"]
    assert owed == [1], "the disk guard counts it until then"
    assert edge.journal.owed_to_spool == (0, 0)
    assert count_used(edge.journal_door.slots) == 0


def test_what_fails_is_made_again_once_no_other_is_under_way(
    edge: Receiving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold_until(monkeypatch, 3)
    calls, under_way, left = list[str](), set[str](), list[set[str]]()
    raised = threading.Event()

    def put_badly(spool: Spool, name: str, *arguments: Any) -> Stored:
        calls.append(name)
        if len(calls) == 1:
            raise StorageFull("no room")
        under_way.add(name)
        if not left:
            raised.wait(0.5)  # it should not be so soon
        stored = put(spool, name, *arguments)
        under_way.discard(name)
        return stored

    def note_cause(cause: Cause | None) -> None:
        if cause is not None:
            left.append(set(under_way))
            raised.set()

    monkeypatch.setattr(Spool, "put", put_badly)
    monkeypatch.setattr(edge.journal.ring.control, "set_cause", note_cause)
    monkeypatch.setattr(edge.journal._batches, "_most_records", 3)
    paths = ct_files(tmp_path / "ct", 3, LENGTH)
    assert [accept(edge, path) for path in paths] == [0] * 3
    assert_all_stored(edge, paths)
    assert left == [set()]
    assert len(calls) == 6, "nothing of the failed batch counts"
