"""What a stranger, or a site that has gone mad, sends to the centre: nothing comes in, and nobody else waits."""

from __future__ import annotations

import asyncio
import itertools
import json
import logging
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.util import await_only

from edge.central import heartbeat, intake, receive
from edge.central.heartbeat import ReceivedHeartbeat
from edge.central.receive import MAX_BYTES, HeartbeatEndpoint, HeartbeatResponse
from edge.monitor.heartbeat import sign
from edge.store.engine import EngineStore, rows
from tests.support.central_office import MORNING, OpenDatabase, document, status

T = TypeVar("T")
KEY = b"the key of the first site"
KEYS = {"1": (KEY,), "2": (b"the key of another site",)}


@pytest.fixture
def store(database: str) -> Iterator[OpenDatabase]:
    store = OpenDatabase(database)
    yield store
    store.close()


def served(database: OpenDatabase, work: Callable[[HeartbeatEndpoint], Awaitable[T]]) -> T:
    """What `work` finds at a reception whose writer runs."""

    async def life(store: EngineStore) -> T:
        reception = HeartbeatEndpoint(store, KEYS, lambda: MORNING)
        writer = asyncio.create_task(reception.run())
        try:
            return await asyncio.wait_for(work(reception), 200)
        finally:
            writer.cancel()

    return database.on_loop(life)


async def post(reception: HeartbeatEndpoint, body: bytes, site: str = "1", key: bytes = KEY) -> HeartbeatResponse:
    return await asyncio.wait_for(reception.take(site, sign(key, body), body), 60)


def plain(site: str, number: int = 1, **more: Any) -> bytes:
    return json.dumps({**document(site, number, MORNING), **more}).encode()


# -- who is not known --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", [b"\0" * 32, b"", b"\0", b"\0" * 64, b"nobody"])
def test_an_unknown_site_comes_in_with_no_key_at_all(store: OpenDatabase, key: bytes) -> None:
    body = plain("evil")
    answer = served(store, lambda reception: post(reception, body, "evil", key))
    known = served(store, lambda reception: post(reception, plain("1"), "1", b"a wrong key, of any length"))
    assert (answer.status, answer.body()) == (401, known.body()), "the same answer as for a wrong key"
    with store.reading() as conn:
        assert not rows(conn, "SELECT * FROM site")


def test_a_site_whose_key_is_empty_or_short_is_refused_before_anything_is_compared(store: OpenDatabase) -> None:
    for key in (b"", b"\0" * 32, b"short"):
        with pytest.raises(ValueError, match="key"):
            HeartbeatEndpoint(EngineStore(store.url), {"1": (key,)})


def test_a_refusal_does_not_wait_for_the_database(store: OpenDatabase) -> None:
    async def nobody_writes(opened: EngineStore) -> list[int]:
        reception = HeartbeatEndpoint(opened, KEYS, lambda: MORNING)  # its writer does not run
        bodies = [(plain(site), site) for site in ("1", "evil")] * 50
        return [(await post(reception, body, site, b"wrong")).status for body, site in bodies]

    assert store.on_loop(nobody_writes) == [401] * 100, "known and unknown sites are refused alike, and at once"


# -- documents ---------------------------------------------------------------------------------------------------------


def replaced(key: str, text: str) -> bytes:
    """A heartbeat with one value written as it stands in `text`."""
    made = document("1", 7, MORNING, status=status(), notices=[notice()])
    place: Any = made
    *path, last = key.split("/")
    for part in path:
        place = place[int(part)] if part.isdigit() else place[part]
    place[last] = "@@"
    return json.dumps(made).replace('"@@"', text).encode()


def notice() -> dict[str, Any]:
    told = {"notice": 1, "event": "opened", "kind": "lost", "subject": "x", "severity": "major", "text": "t"}
    return {**told, "since": "2026-01-05T09:00:00Z", "at": "2026-01-05T09:00:00Z"}


NUMBERS = ("1000000000000000000000000000000", "NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 5000)
TEXTS = ('"\\ud800"', '"a\\u0000b"', '"' + "x" * 100_000 + '"', "true", "[]", "{}", "[" * 5000 + "]" * 5000)
PLACES = ("number", "every_seconds", "ledger/seq", "status/uptime_seconds", "status/queue/bytes", "notices/0/notice",
          "status/instances/received", "status/storage/used_fraction", "status/storage/full_in_seconds",
          "notices/0/duration_seconds", "status/queue/oldest_seconds")  # fmt: skip
WORDS = (
    "boot",
    "version",
    "site/name",
    "notices/0/text",
    "notices/0/subject",
    "notices/0/since",
    "at",
    "notices/0/kind",
)
HOSTILE = [(place, text) for place in PLACES for text in NUMBERS + TEXTS]
HOSTILE += [(place, text) for place in WORDS for text in TEXTS]


def test_a_hostile_document_is_refused_and_the_next_site_is_served(store: OpenDatabase) -> None:
    async def work(reception: HeartbeatEndpoint) -> dict[tuple[str, str], int]:
        found = {}
        for number, (place, text) in enumerate(HOSTILE, 1):
            found[place, text[:40]] = (await post(reception, replaced(place, text))).status
            other = await post(reception, plain("2", number), "2", KEYS["2"][0])
            assert other.status == 200, (place, text[:40])
        return found

    found = served(store, work)
    assert {key: code for key, code in found.items() if code not in (400, 422)} == {}


@pytest.mark.parametrize(
    "body",
    [
        plain("1").replace(b'"number": 1', b'"number": 1, "number": 2'),
        plain("1").decode().encode("utf-16"),
        plain("1").replace(b"Site 1", b"Site \xed\xa0\x80"),
        b"\xef\xbb\xbf" + plain("1"),
        plain("1")[:-1] + b', "more": ' + b"[" * 200_000 + b"]" * 200_000 + b"}",
        plain("1", at="2026-13-45T09:00:00Z"),
        plain("1", at="2026-01-05T09:00:00Z\n"),
        plain("1", at="9999-12-31T23:59:59Z"),
        b"null",
        b"",
    ],
    ids=["twice", "utf-16", "surrogate", "mark", "deep", "no-day", "line-end", "far", "null", "empty"],
)
def test_what_is_no_heartbeat_is_refused(store: OpenDatabase, body: bytes) -> None:
    assert served(store, lambda reception: post(reception, body)).status in (400, 422)


def test_what_nobody_knows_is_passed_over_and_not_kept(store: OpenDatabase) -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    body = plain("1", status=status(later={"x": deep, "y": 10**400}), later=[deep])
    assert served(store, lambda reception: post(reception, body)).status == 200
    with store.reading() as conn:
        assert "later" not in rows(conn, "SELECT status FROM site")[0]["status"]


_ANY = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from([10**30, -(10**30), 2**63, -0.0, "\ud800", "\0", "x" * 5000, "0001-01-01T00:00:00Z"]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)),
    max_leaves=8,
)


def _spots(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield from _spots(each, (*path, key))


FULL = document(
    "1",
    7,
    MORNING,
    covers=[5, 7],
    notices=[notice()],
    status=status(
        destinations={"archive": {"state": "up", "since": None, "pending": 1}},
        alerts=[{"kind": "lost", "subject": "x", "severity": "minor", "since": "2026-01-05T09:00:00Z", "text": "t"}],
        downtimes=[{"from": "2026-01-05T08:00:00Z", "to": "2026-01-05T08:10:00Z", "why": "power"}],
    ),
)
SPOTS = [path for path in _spots(FULL) if path]


@pytest.fixture(scope="module")
def one_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OpenDatabase]:
    store = OpenDatabase(f"sqlite:///{tmp_path_factory.mktemp('any')}/central.db")
    yield store
    store.close()


NUMBERED = itertools.count(1)


def changed(number: int, changes: list[tuple[tuple[Any, ...], Any]]) -> bytes:
    """A heartbeat with other values in some places."""
    made = json.loads(json.dumps({**FULL, "number": 10 * number, "covers": [10 * number - 2, 10 * number]}))
    for path, value in changes:
        place = made
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]] = value
        except (TypeError, KeyError, IndexError):
            continue  # an earlier change has removed it
    return json.dumps(made).encode()


_CHANGES = st.lists(st.tuples(st.sampled_from(SPOTS), _ANY), min_size=1, max_size=3)


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(st.lists(_CHANGES, min_size=10, max_size=10))
def test_whatever_one_site_sends_another_is_answered(one_store: OpenDatabase, documents: list[Any]) -> None:
    """Ten heartbeats at a time: to open the store costs more than what is sent to it."""

    async def work(reception: HeartbeatEndpoint) -> None:
        for changes in documents:
            number = next(NUMBERED)
            mine = await post(reception, changed(number, changes))
            assert mine.status in (200, 400, 409, 422)
            other = await post(reception, plain("2", number), "2", KEYS["2"][0])
            assert other.status == 200

    served(one_store, work)


GREAT = {
    "numbers": b'{"x": [' + b"1," * 1_000_000 + b"1]}",
    "lists": b"[" * 900 + b"[]," * 650_000 + b"[]" + b"]" * 900,
    "objects": b'{"a":{"b":' * 400 + b"[" + b'{"k":"v"},' * 190_000 + b"1]" + b"}}" * 400,
    "words": b'["' + b'\\u00e9","' * 220_000 + b'"]',
    "notices": replaced("notices/0/text", '"t"').replace(b'"notices": [', b'"notices": [' + b"{}," * 600_000),
    "halves": b'["' + b'x","' * 400_000 + b'\\ud800"]',
    "as many numbers as may be": b'{"x": [' + b"1,      " * 199_999 + b"1]}",
    "as many words as may be": b'["' + b'\\u00e9","' * 199_999 + b'"]',
    "as many halves as may be": b'["' + b'xxxxxx","' * 199_999 + b'\\ud800"]',
}


@pytest.mark.parametrize("name", GREAT)
def test_the_greatest_documents_of_one_site_keep_no_other_waiting(
    store: OpenDatabase, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another site is answered, again and again, while the first of a flood is still being read: one is at a time."""
    body = GREAT[name]
    assert 1_000_000 < len(body) <= MAX_BYTES
    signature, begun, go_on = sign(KEY, body), list[bytes](), threading.Event()

    def slowly(document: bytes) -> ReceivedHeartbeat:
        if document == body:
            begun.append(document)
            assert go_on.wait(100)
        return heartbeat.parse(document)

    async def work(reception: HeartbeatEndpoint) -> tuple[list[int], int, set[int]]:
        flood = [asyncio.create_task(reception.take("1", signature, body)) for _ in range(12)]
        try:
            while not begun:
                await asyncio.sleep(0.001)
            others = [(await post(reception, plain("2", number), "2", KEYS["2"][0])).status for number in range(1, 6)]
            meanwhile = len(begun)
        finally:
            go_on.set()
        return others, meanwhile, {each.status for each in await asyncio.gather(*flood)}

    monkeypatch.setattr(receive, "parse", slowly)
    others, meanwhile, statuses = served(store, work)
    assert others == [200] * 5
    assert meanwhile == 1
    assert statuses <= {400, 422}


def values_of(content: Any) -> int:
    """How many values a document holds, itself among them."""
    inner = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return 1 + sum(map(values_of, inner))


@pytest.mark.parametrize("name", GREAT)
def test_what_is_made_of_the_greatest_documents_is_bounded(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """While JSON is read nothing else happens in the process, so that what takes long to read is not read at all."""
    made, loads = list[int](), json.loads

    def counted(text: str, **more: Any) -> Any:
        content = loads(text, **more)
        made.append(values_of(content))
        return content

    monkeypatch.setattr(heartbeat.json, "loads", counted)
    with pytest.raises(heartbeat.HeartbeatError):
        heartbeat.parse(GREAT[name])
    assert sum(made) <= heartbeat.MOST_PARTS + heartbeat.MOST_VALUES + 1


def test_the_greatest_heartbeat_of_a_site_is_taken() -> None:
    """What the schema allows at its densest: the shortest names, the shortest values."""
    entry = {"stored": 1, "silent": None, "admitted": None, "usual": None, "model": None, "name": None}
    entry |= dict.fromkeys(("first_seen", "last_seen", "manufacturer", "last_stored"))
    body = json.dumps(document("1", 1, MORNING, status=status(modalities=[entry] * 10_000)), separators=(",", ":"))
    assert 1_500_000 < len(body) <= MAX_BYTES
    assert len(heartbeat.parse(body.encode()).status["modalities"]) == 10_000


# -- faults of ours ----------------------------------------------------------------------------------------------------


def test_a_fault_of_ours_in_one_document_refuses_that_one_alone(
    store: OpenDatabase, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    record = intake.record_heartbeat

    def faulty(conn: Any, beat: Any, now: float) -> Any:
        if beat.site == "1":
            raise ZeroDivisionError("Miller^" + "Anna")
        return record(conn, beat, now)

    monkeypatch.setattr(intake, "record_heartbeat", faulty)

    async def work(reception: HeartbeatEndpoint) -> list[int]:
        both = [post(reception, plain("1")), post(reception, plain("2"), "2", KEYS["2"][0])]
        return [each.status for each in await asyncio.gather(*both)]

    with caplog.at_level(logging.ERROR):
        assert served(store, work) == [422, 200]
    assert "ZeroDivisionError" in caplog.text, "its place is in the log"
    assert "Miller^Anna" not in caplog.text, "its words are not"


def test_a_caller_that_goes_away_does_not_end_the_writer(store: OpenDatabase, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, release = asyncio.Event(), asyncio.Event()

    def faulty(_conn: Any, _beat: Any, _now: float) -> Any:
        begun.set()
        await_only(asyncio.wait_for(release.wait(), 60))  # as for an answer of the database
        raise ZeroDivisionError

    async def work(reception: HeartbeatEndpoint) -> int:
        with monkeypatch.context() as patched:
            patched.setattr(intake, "record_heartbeat", faulty)
            gone = asyncio.create_task(post(reception, plain("1")))
            await asyncio.wait_for(begun.wait(), 60)
            gone.cancel()
            await asyncio.gather(gone, return_exceptions=True)
            release.set()
            await asyncio.wait_for(reception.tick(), 60)
        return (await post(reception, plain("2"), "2", KEYS["2"][0])).status

    assert served(store, work) == 200


def test_liveness_is_measured_through_the_writer(store: OpenDatabase) -> None:
    now = [0.0]

    async def work(opened: EngineStore) -> list[str]:
        reception = HeartbeatEndpoint(opened, KEYS, lambda: MORNING, monotonic=lambda: now[0])
        found = [reception.trouble()]
        writer = asyncio.create_task(reception.run())
        await reception.tick()
        now[0] = 100.0
        found.append(reception.trouble())
        await reception.tick()
        found.append(reception.trouble())
        writer.cancel()
        await asyncio.gather(writer, return_exceptions=True)
        found.append(reception.trouble())
        now[0] = 200.0
        found.append(reception.trouble())
        return found

    begun, stalled, well, _, ended = store.on_loop(work)
    assert (begun, well) == ("", "")
    assert "100 s" in stalled
    assert ended
