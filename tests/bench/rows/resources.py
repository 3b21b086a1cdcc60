"""What Edge takes while it does little, while one object is huge, and while many are connected."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pydicom
from pydicom.uid import MultiFrameGrayscaleWordSecondaryCaptureImageStorage as MULTI_FRAME

from tests.bench.crowd import answer_times
from tests.bench.peers import (
    EDGE,
    FORKING,
    STORESCU,
    Gateway,
    Storescp,
    archive_at,
    arrived,
    cpu_seconds,
    family,
    receiver,
    send,
)
from tests.bench.row import Figures, Target
from tests.bench.rows.inward import at_rest
from tests.bench.stage import KIB, MIB, Stage
from tests.support.objects import new_uid, part10
from tests.support.peers import wait_until

GROWTH, PSS, PERCENT, ANSWER = "MB more", "MB PSS", "% of a core", "ms, p99 answer"
MB = 1_000_000


@dataclass(frozen=True)
class Huge:
    """Two multi-frame objects through the gateway, the second in while the first goes out."""

    name: str = "huge"
    what: str = "a 2 GB multi-frame in and out at once"
    peers: tuple[str, ...] = (EDGE,)
    targets: tuple[Target, ...] = (Target(GROWTH, at_least=64, aim=16),)

    def measure(self, peer: str, stage: Stage) -> Figures:
        size = stage.few(2000, 64) * MB
        with stage.directory() as directory, ExitStack() as stack:
            archive, gateway = _pair(stack, directory)
            _warm_up(gateway, archive, stage)
            folders = [directory / "first", directory / "second"]
            for folder in folders:
                multi_frame(folder / "object.dcm", size)
            before = peak_bytes(gateway.pid, anew=True)
            for folder in folders:
                send(STORESCU, [folder], gateway.port, gateway.ae_title)
            arrived(archive, WARM_UP + 2)
            return {GROWTH: (peak_bytes(gateway.pid) - before) / MB}


@dataclass(frozen=True)
class Idle:
    """Nothing to do, after some work; the archive is there."""

    name: str = "idle"
    what: str = "idle for a minute"
    peers: tuple[str, ...] = (EDGE,)
    targets: tuple[Target, ...] = (Target(PSS, at_least=90, aim=50), Target(PERCENT, at_least=0.5))

    def measure(self, peer: str, stage: Stage) -> Figures:
        with stage.directory() as directory, ExitStack() as stack:
            archive, gateway = _pair(stack, directory)
            _warm_up(gateway, archive, stage)
            at_rest(gateway, stage)
            time.sleep(stage.few(10, 1))
            before, began = cpu_seconds(gateway.pid), time.monotonic()
            time.sleep(stage.few(60, 5))
            share = (cpu_seconds(gateway.pid) - before) / (time.monotonic() - began)
            return {PSS: _share_of_memory(gateway.pid) / MB, PERCENT: 100 * share}


@dataclass(frozen=True)
class Crowd:
    """Many associations that stay open, each with a slice a second. `storescp`: what the machine allows."""

    name: str = "crowd"
    what: str = "200 associations, a slice of 512 KiB a second each"
    peers: tuple[str, ...] = (EDGE, FORKING)
    targets: tuple[Target, ...] = (Target(ANSWER, at_least=100, aim=20),)

    def measure(self, peer: str, stage: Stage) -> Figures:
        slice_ = stage.objects(1, 512 * KIB).files()[0]
        with stage.directory() as directory, receiver(peer, directory) as server:
            times = answer_times(server.port, slice_, stage.few(200, 20), stage.few(30, 3))
            assert server.stored() == len(times), "an answered slice was not stored"
            return {ANSWER: 1000 * percentile(times, 0.99)}


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that so large a share of them does not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


WARM_UP = 16


def _pair(stack: ExitStack, directory: Path) -> tuple[Storescp, Gateway]:
    archive = stack.enter_context(Storescp(directory / "archive"))
    gateway = stack.enter_context(Gateway(directory / "gateway", archive_at(archive.port)))
    return archive, gateway


def _warm_up(gateway: Gateway, archive: Storescp, stage: Stage) -> None:
    """Some slices through: what is loaded at first use is not growth."""
    send(STORESCU, stage.objects(WARM_UP, 512 * KIB).folders, gateway.port, gateway.ae_title)
    arrived(archive, WARM_UP)
    wait_until(lambda: gateway.api_status()["destinations"]["archive"]["confirmed"] == WARM_UP, 20, "all is settled")


def _share_of_memory(pid: int) -> int:
    """Bytes of a process and its descendants; of what several share, to each its part (PSS)."""
    return sum(process.memory_full_info().pss for process in family(pid))


def peak_bytes(pid: int, *, anew: bool = False) -> int:
    """The most that they have had resident since the last `anew`, which begins again with what there is (proc(5))."""
    total = 0
    for process in family(pid):
        if anew:
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")
        status = Path(f"/proc/{process.pid}/status").read_text()
        total += next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) * KIB
    return total


def multi_frame(path: Path, size: int) -> None:
    """An object whose pixel data has `size` bytes, written a piece at a time."""
    rows = columns = 1000
    ds = pydicom.Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID = MULTI_FRAME, new_uid()
    ds.StudyInstanceUID, ds.SeriesInstanceUID = new_uid(), new_uid()
    ds.PatientID, ds.PatientName, ds.Modality = "P0001", "Test^Patient", "OT"
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.Rows, ds.Columns = 1, "MONOCHROME2", rows, columns
    ds.NumberOfFrames = size // (rows * columns * 2)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 16, 15, 0
    ds.add_new(0x7FE00010, "OW", b"")
    piece = random.Random(size).randbytes(MIB)
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.write(part10(ds)[:-4] + size.to_bytes(4, "little"))  # the length of the last element (PS3.5 section 7.1.2)
        for at in range(0, size, MIB):
            file.write(piece[: size - at])


ROWS = (Huge(), Idle(), Crowd())
