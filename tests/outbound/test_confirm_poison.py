"""One instance with which each exchange breaks that asks for its proof: all others are proved, and it is named."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.dicom import commitment
from edge.outbound.confirm import Confirmer
from edge.outbound.confirm.doubts import ASK_AGAIN_LONGEST
from edge.store import tallies
from tests.outbound.test_confirm import Archive, Clock, Gateway, confirmer, settled

SILENT_SECONDS = 0.5
BREAKS = 8  # edge.outbound.confirm.doubts.BREAKS, as the manual says it
#: Between two polls of the queue, in tests of many hours: no pause of theirs is shorter.
POLL = 30.0
GOOD = 60


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gateway(tmp_path: Path, clock: Clock) -> Iterator[Gateway]:
    made = Gateway(tmp_path, clock)
    yield made
    made.db.close()


def abort(association: Any) -> None:
    association.abort()


def reset(association: Any) -> None:
    association.dul.socket.socket.close()


def nonsense(association: Any) -> None:
    association.dul.socket.socket.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    reset(association)


def silence(association: Any) -> None:
    time.sleep(SILENT_SECONDS + 0.1)


MISDEEDS: dict[str, Callable[[Any], None] | int] = {
    "abort": abort,
    "reset": reset,
    "nonsense": nonsense,
    "silence": silence,
    "processing failure": 0x0110,
    "no such instance": 0x0112,
    "identifier does not match": 0xA900,
    "unable to process": 0xC001,
}


class Moody(Archive):
    """An archive that has everything, and misbehaves where a request names one of `poison`."""

    def __init__(self, misdeed: Callable[[Any], None] | int) -> None:
        self.poison: set[str] = set()
        self.broken: list[list[str]] = []
        self.misdeed = misdeed
        super().__init__()

    def spoil(self, event: Any, named: list[str]) -> int | None:
        """The status, where the request is not to be answered as usual."""
        if not self.poison.intersection(named):
            return None
        self.broken.append(named)
        if isinstance(self.misdeed, int):
            return self.misdeed
        self.misdeed(event.assoc)
        return 0x0110

    def _action(self, event: Any) -> tuple[int, None]:
        request = event.action_information
        self.requests.append(request)
        status = self.spoil(event, [str(item.ReferencedSOPInstanceUID) for item in request.ReferencedSOPSequence])
        if status is not None:
            return status, None
        self.report_soon(event.assoc, request)
        return 0x0000, None

    def _find(self, event: Any) -> Iterator[tuple[int, Any]]:
        listed = event.identifier.get("SOPInstanceUID") or []
        named = [listed] if isinstance(listed, str) else [str(each) for each in listed]
        if (status := self.spoil(event, named or sorted(self.has))) is not None:
            yield status, None
            return
        yield from super()._find(event)


def go(gateway: Gateway, asking: Confirmer, until: Callable[[], bool], seconds: float) -> None:
    """Step, with the clock moved by what each step asks for, until it holds; fails after so many seconds of it."""
    end = gateway.clock.now + seconds
    while not until():
        assert gateway.clock.now < end, "it takes too long"
        gateway.clock.now += asking.step()


def proved(gateway: Gateway, uids: list[str]) -> Callable[[], bool]:
    return lambda: set(gateway.states(uids)) == {"confirmed"}


@pytest.mark.parametrize("confirm", ["commitment", "query"])
@pytest.mark.parametrize("misdeed", MISDEEDS)
def test_whatever_an_instance_does_to_its_exchange_the_others_are_proved(
    gateway: Gateway, confirm: str, misdeed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if misdeed == "silence":
        monkeypatch.setattr(commitment, "STEP_SECONDS", SILENT_SECONDS)
        monkeypatch.setattr(commitment, "FIND_SECONDS", SILENT_SECONDS)
    with Moody(MISDEEDS[misdeed]) as archive:
        uids = gateway.send(20)
        archive.has, archive.poison = set(uids), {uids[7]}
        good = [uid for uid in uids if uid not in archive.poison]
        settled(gateway)
        asking = confirmer(gateway, archive.port, confirm)
        go(gateway, asking, proved(gateway, good), 60.0)
        go(gateway, asking, lambda: gateway.rows("reason_code")[uids[7]] != "", 60.0)
        assert gateway.states([uids[7]]) == ["sent"], "it stays here"
        assert gateway.rows("reason_code")[uids[7]] == "breaks-proof"


@pytest.mark.parametrize("confirm", ["commitment", "query"])
def test_many_of_them_before_the_others_change_nothing(gateway: Gateway, confirm: str) -> None:
    with Moody(abort) as archive:
        poison = [uid for _ in range(20) for uid in gateway.send(1)]  # each a series of its own
        good = gateway.send(GOOD)
        chosen = random.Random(9).sample(good, 5)
        archive.has, archive.poison = {*poison, *good}, {*poison, *chosen}
        settled(gateway)
        innocent = [uid for uid in good if uid not in archive.poison]
        asking = confirmer(gateway, archive.port, confirm)
        go(gateway, asking, proved(gateway, innocent), 900.0)


@pytest.mark.parametrize("confirm", ["commitment", "query"])
def test_it_is_asked_about_alone_a_bounded_number_of_times_then_stays_by_name(gateway: Gateway, confirm: str) -> None:
    with Moody(abort) as archive:
        uids = gateway.send(4)
        archive.has, archive.poison = set(uids), {uids[2]}
        settled(gateway)
        asking = confirmer(gateway, archive.port, confirm)
        for _ in range(40):
            end = gateway.clock.now + 3600
            while gateway.clock.now < end:
                gateway.clock.now += max(asking.step(), POLL)
        alone = [named for named in archive.broken if named == [uids[2]] or confirm == "query"]
        assert BREAKS <= len(alone) <= BREAKS + 1
        assert gateway.states(uids) == ["confirmed", "confirmed", "sent", "confirmed"]
        assert "until the gateway is restarted" in gateway.rows("reason")[uids[2]]
        with gateway.db.reading() as conn:
            assert tallies.unprovable(conn, "archive") == (1, [gateway.rows("id")[uids[2]]])


def test_a_new_run_asks_again_and_alone(gateway: Gateway) -> None:
    with Moody(abort) as archive:
        uids = gateway.send(4)
        archive.has, archive.poison = set(uids), {uids[2]}
        settled(gateway)
        go(gateway, confirmer(gateway, archive.port), lambda: gateway.rows("reason_code")[uids[2]] != "", 60.0)
        more = gateway.send(4)
        settled(gateway)
        archive.poison = set()
        again = confirmer(gateway, archive.port)
        again.remember()
        go(gateway, again, proved(gateway, [*uids, *more]), 60.0)
        assert [uids[2]] in [archive.named(number) for number in range(len(archive.requests))]


@pytest.mark.parametrize("confirm", ["commitment", "query"])
def test_an_archive_that_breaks_every_exchange_blames_no_instance_when_it_is_well_again(
    gateway: Gateway, confirm: str
) -> None:
    with Moody(abort) as archive:
        uids = [uid for _ in range(8) for uid in gateway.send(2)]
        archive.has = archive.poison = set(uids)
        settled(gateway)
        asking, end = confirmer(gateway, archive.port, confirm, poll=POLL), gateway.clock.now + 6 * 3600
        while gateway.clock.now < end:
            gateway.clock.now += max(asking.step(), 1.0)
        assert len(archive.broken) < 6 * 3600 / 60, "it is given pauses"
        archive.poison = set()
        go(gateway, asking, proved(gateway, uids), 1.2 * ASK_AGAIN_LONGEST + 600.0)  # the longest wait, with its spread
        assert set(gateway.rows("reason_code").values()) == {""}


def test_one_that_silences_the_report_of_its_request_does_not_silence_the_others(gateway: Gateway) -> None:
    class Mute(Moody):
        def _action(self, event: Any) -> tuple[int, None]:
            request = event.action_information
            self.requests.append(request)
            if not self.poison.intersection(self.named()):
                self.report_soon(event.assoc, request)
            return 0x0000, None

    with Mute(0) as archive:
        uids = gateway.send(16)
        archive.poison = {uids[5]}
        good = [uid for uid in uids if uid != uids[5]]
        settled(gateway)
        asking = confirmer(gateway, archive.port, linger=0.4, poll=POLL)
        go(gateway, asking, proved(gateway, good), 12 * 3600.0)
        go(gateway, asking, lambda: gateway.rows("reason_code")[uids[5]] == "breaks-proof", 12 * 3600.0)
