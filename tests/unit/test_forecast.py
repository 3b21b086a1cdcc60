"""Forecasts: on replayed days of traffic, and over a line whose rate is known."""

from __future__ import annotations

import itertools
import math
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edge.monitor.forecast import drain_seconds, full_in_seconds
from edge.outbound.pace import Throughput
from edge.store.samples import DAY, HOUR
from tests.support.objects import ct_files
from tests.support.peers import Edge, StoreScp, routes_to, storescu, wait_until

MINUTE = 60.0
GB = 1e9

#: GB an hour of a clinic's working day, from midnight on: a few night studies, two peaks.
WORKING = [0.1, 0.1, 0, 0, 0, 0.2, 0.5, 2, 5, 7, 8, 6, 4, 5, 7, 7, 5, 3, 1.5, 0.8, 0.4, 0.3, 0.2, 0.1]
DAY_OFF = [0.1, 0.05, 0, 0, 0, 0, 0.1, 0.3, 0.5, 0.6, 0.5, 0.4, 0.4, 0.3, 0.4, 0.4, 0.3, 0.2, 0.2, 0.1, 0.1, 0.1, 0, 0]

Usage = list[tuple[float, float]]


def clinic(days: int, seed: int, week: bool = False) -> Usage:
    """The disk's use each minute; no two days are alike, studies come in lumps. With `week`, days 5 and 6 are quiet."""
    chance, used, usage = random.Random(seed), 0.0, []
    for minute in range(days * 1440):
        day, hour = divmod(minute // 60, 24)
        if minute % 60 == 0:
            lumps = chance.uniform(0.9, 1.1) * (DAY_OFF if week and day % 7 >= 5 else WORKING)[hour] * GB
        used += lumps / 60 * 2 * (chance.random() < 0.5)
        usage.append((minute * MINUTE, used))
    return usage


def forecasts(usage: Usage, limit: float, first: float, last: float, keep: float) -> list[tuple[float, float, float]]:
    """(time, forecast, truth) for each hour from `first` on, as the gateway sees its last `keep` seconds then."""
    full_at = next(at for at, used in usage if used >= limit)
    found = []
    for hour in range(int(first / HOUR), int(min(last, full_at - HOUR) / HOUR)):
        now = hour * HOUR
        seen = usage[max(0, int((now - keep) / MINUTE)) : int(now / MINUTE) + 1]
        told = full_in_seconds(seen, limit)
        assert told is not None
        found.append((now, told, full_at - now))
    return found


def worst(found: list[tuple[float, float, float]]) -> float:
    return max(abs(told - truth) / truth for _, told, truth in found)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("days_left", [1.5, 2.4, 5.0])
def test_full_in_is_within_15_percent_on_a_replayed_day(seed: int, days_left: float) -> None:
    """Known is a day, and then every hour of the next is asked."""
    usage = clinic(8, seed)
    limit = usage[int((2 + days_left) * 1440)][1]
    assert worst(forecasts(usage, limit, DAY, 2 * DAY, 2 * DAY)) < 0.15


def test_a_week_that_is_known_knows_its_weekend() -> None:
    """Asked each hour of a Thursday and a Friday, when the disk fills after the weekend."""
    usage = clinic(20, 7, week=True)
    limit = usage[int(14.5 * 1440)][1]
    assert worst(forecasts(usage, limit, 10 * DAY, 12 * DAY, 7 * DAY + 2 * HOUR)) < 0.15


def test_within_the_first_hours_the_present_rate_counts() -> None:
    usage = clinic(1, 3)
    morning = [each for each in usage if 8 * HOUR <= each[0] <= 11 * HOUR]
    told = full_in_seconds(morning, morning[-1][1] + 5 * GB)
    assert told == pytest.approx(next(at for at, used in usage if used >= morning[-1][1] + 5 * GB) - 11 * HOUR, rel=0.3)


def test_a_migration_is_seen_within_hours() -> None:
    """After quiet days something pours in at a constant rate."""
    usage = clinic(3, 4)
    begin, used = usage[-1]
    poured = [(begin + n * MINUTE, used + n * GB) for n in range(1, 241)]
    told = full_in_seconds([*usage, *poured], used + 240 * GB + 600 * GB)
    assert told == pytest.approx(600 * MINUTE, rel=0.35)


def test_a_disk_that_retention_keeps_level_never_fills() -> None:
    usage = [(n * HOUR, 50 * GB + 5 * GB * math.sin(n / 24 * 2 * math.pi)) for n in range(24 * 8)]
    assert full_in_seconds(usage, 60 * GB) is None


def test_what_rests_by_night_is_no_pause_of_the_forecast() -> None:
    usage = clinic(2, 5)
    night = usage[: 1440 + 4 * 60]
    assert full_in_seconds(night, night[-1][1] + 1 * GB) == pytest.approx(4 * HOUR, rel=0.3)  # at eight it is busy


# Drains.


def test_the_busy_rate_does_not_count_pauses() -> None:
    meter, now = Throughput(), 1000.0
    assert meter.rate is None
    for _ in range(100):
        now += 0.5
        meter.add(now, 0.5, 100_000)
    assert meter.rate == pytest.approx(200_000, rel=0.01)
    meter.add(now + 3600, 0.5, 100_000)  # an hour of rest between
    assert meter.rate == pytest.approx(200_000, rel=0.02)


def test_the_busy_rate_counts_associations_together_and_follows_the_line() -> None:
    meter, now = Throughput(), 1000.0
    for _ in range(400):  # four at once, one ends each 0.25 s, each takes a second
        now += 0.25
        meter.add(now, 1.0, 100_000)
    assert meter.rate == pytest.approx(400_000, rel=0.02)
    for _ in range(600):  # the line becomes four times slower
        now += 1.0
        meter.add(now, 4.0, 100_000)
    assert meter.rate == pytest.approx(100_000, rel=0.05)


class Narrow:
    """A TCP relay to `port` that lets `rate` bytes a second through, over all connections together."""

    def __init__(self, port: int, rate: float) -> None:
        self._to, self._rate, self._lock = port, rate, threading.Lock()
        self._free_at = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._to))
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
            for source, sink, pace in ((near, far, self._pace), (far, near, lambda _: None)):
                threading.Thread(target=self._carry, args=(source, sink, pace), daemon=True).start()

    def _pace(self, count: int) -> None:
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic()) + count / self._rate
            wait = self._free_at - time.monotonic()
        time.sleep(max(0.0, wait))

    @staticmethod
    def _carry(source: socket.socket, sink: socket.socket, pace: Callable[[int], None]) -> None:
        with source, sink:
            try:
                while data := source.recv(8192):
                    pace(len(data))
                    sink.sendall(data)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@contextmanager
def narrow(port: int, rate: float) -> Iterator[Narrow]:
    made = Narrow(port, rate)
    try:
        yield made
    finally:
        made.close()


@pytest.mark.parametrize("rate", [0.2e6, 1.5e6, 40e6])
@pytest.mark.parametrize("associations", [1, 2, 8])
def test_drains_in_is_within_15_percent_over_a_narrow_line(rate: float, associations: int) -> None:
    """Objects of several sizes share the line; each is taken when the line has carried it, sooner or later."""
    chance, made = random.Random(1), Throughput()
    sizes = [chance.choice((32, 64, 128)) * 1024 for _ in range(int(rate * 20 / 75_000))]
    begun, now = [1000.0] * associations, 1000.0
    ends = list(itertools.accumulate(sizes))
    told = []
    for number, size in enumerate(sizes):
        now = max(now, 1000.0 + ends[number] / rate + chance.uniform(0.0, 0.05))
        made.add(now, now - begun[number % associations], size)
        begun[number % associations] = now
        told.append((now, drain_seconds(ends[-1] - ends[number], made.rate)))
    asked = [(seconds, now - at) for at, seconds in told if now - at > 3.0 and at > 1003.5]
    assert len(asked) > 30
    off = [abs((seconds or 0.0) - truth) / truth for seconds, truth in asked]
    assert max(off) < 0.15


def test_a_gateway_tells_in_how_long_a_backlog_drains(tmp_path: Path, running: ExitStack) -> None:
    archive = running.enter_context(StoreScp(tmp_path / "archive"))
    line = running.enter_context(narrow(archive.port, 1.5e6))
    real, archive.port = archive.port, line.port
    edge = running.enter_context(Edge(tmp_path / "edge", routes_to(archive)))
    archive.port = real
    storescu(ct_files(tmp_path / "ct", 80, 64 * 1024), edge.port)
    told: list[float | None] = []

    def drained() -> bool:
        status = edge.api_status()["destinations"]["archive"]
        told.append(status["drain_seconds"])
        if status["rate_bytes_per_second"] and status["bytes"]:
            expected = status["bytes"] / status["rate_bytes_per_second"]
            assert status["drain_seconds"] == pytest.approx(expected, rel=0.01, abs=1.0)
        return bool(status["confirmed"] == 80)

    wait_until(drained, 60, "all have gone through", interval=0.1)
    assert any(told[:-1]), "while it drains"
    assert told[-1] == 0


def days_of_growth(days: int, load_day: int, load: float, until: float = 0.0) -> list[tuple[float, float]]:
    """Ten-minute samples of days that each grow by 10 GB between 8 and 18 h; on one, a load of `load` at 20 h."""
    used, found = 100 * GB, []
    for step in range(days * 144 + int(until * 6)):
        at = step * 600.0
        hour = at % DAY / HOUR
        used += 10 * GB / 60 if 8 <= hour < 18 else 0.0
        used += load / 12 if step // 144 == load_day and 20 <= hour < 22 else 0.0
        found.append((at, used))
    return found


def test_a_load_that_is_over_says_nothing_about_the_days_to_come() -> None:
    """At three in the morning after a migration of 500 GB: the forecast is that of the usual days."""
    usual = full_in_seconds(days_of_growth(8, 99, 0.0, 3.0), 1000 * GB)
    loaded = full_in_seconds(days_of_growth(8, 7, 500 * GB, 3.0), 1500 * GB)
    assert usual is not None
    assert loaded is not None
    assert loaded > 0.8 * usual


def test_on_the_first_day_a_load_that_is_over_is_no_forecast() -> None:
    found = [(n * 600.0, 100 * GB + min(n, 12) * 10 * GB) for n in range(40)]
    assert full_in_seconds(found[:13], 300 * GB) is not None
    assert full_in_seconds(found, 300 * GB) is None
