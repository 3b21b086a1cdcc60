"""A clock that is set back delays no performed step, and hides no study from what is announced."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import MagicMock

import pytest

from edge.config.sections import Destination
from edge.errors import Hindered, PeerError
from edge.outbound.steps import StepForwarding
from edge.outbound.steps.availability import Availability
from edge.store import step_images
from tests.support.gateway import CONFIG, Receiving
from tests.support.peers import wait_until
from tests.support.performing import CREATED, send_step

DAY = 86_400.0
MPPS = '[mpps]\nto = ["archive"]\nian = ["archive"]\nian_after = "10m"\n'


class Clocks:
    """The wall clock, which is set, and the time that has passed."""

    def __init__(self) -> None:
        self.wall, self.passed = 1_800_000_000.0, 1_000.0

    def go_on(self, seconds: float) -> None:
        self.wall += seconds
        self.passed += seconds


@pytest.fixture
def edge(tmp_path: Path) -> Iterator[Receiving]:
    text = CONFIG.replace('ae_title = "*"\n', 'ae_title = "*"\nservices = ["echo", "store", "mpps"]\n')
    with Receiving(tmp_path, text + MPPS) as receiving:
        yield receiving


def test_a_target_that_failed_is_called_again_after_its_pause(edge: Receiving) -> None:
    clocks, called = Clocks(), list[str]()

    def refuse(destination: Destination) -> None:
        called.append(destination.name)
        raise PeerError("it is off")

    assert send_step(edge.port, "1.9", CREATED).status == 0
    forwarding = StepForwarding(edge.db, lambda: edge.config, refuse, lambda: clocks.wall, lambda: clocks.passed)
    for seconds, calls in ((0.0, 1), (0.5, 1), (100.0, 2)):
        clocks.go_on(seconds)
        clocks.wall -= DAY * bool(seconds)
        forwarding.step()
        wait_until(lambda: not forwarding._called, 60, "the call has ended")
        assert len(called) == calls


def test_a_target_for_which_there_was_no_thread_is_called_once_there_is(
    edge: Receiving, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = threading.Event()

    def refuse(destination: Destination) -> None:
        called.set()
        raise PeerError("it is off")

    assert send_step(edge.port, "1.9", CREATED).status == 0
    forwarding = StepForwarding(edge.db, lambda: edge.config, refuse)
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", MagicMock(side_effect=RuntimeError("can't start new thread")))
        with pytest.raises(Hindered):
            forwarding.step()
    forwarding.step()
    assert called.wait(60)
    wait_until(lambda: not forwarding._called, 60, "the call has ended")


def test_studies_are_announced_from_the_new_time_on(edge: Receiving, monkeypatch: pytest.MonkeyPatch) -> None:
    clocks, asked = Clocks(), list[tuple[float, float]]()
    monkeypatch.setattr(
        step_images, "list_unreported_studies", lambda _, after, until: asked.append((after, until)) or []
    )
    availability = Availability(edge.db, lambda: edge.config, lambda: clocks.wall, lambda: clocks.passed)
    availability.step()
    clocks.wall -= DAY
    for _ in range(3):
        clocks.go_on(10.0)
        availability.step()
    assert [until - after for after, until in asked] == [10.0, 20.0]
