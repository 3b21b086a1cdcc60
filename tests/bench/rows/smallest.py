"""The smallest machine that a site may have: one core, 768 MB, everything at once."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.bench.peers import EDGE, STORESCU, Gateway, Storescp, archive_at, arrived, family, send
from tests.bench.row import SECONDS, Figures, Target
from tests.bench.rows.resources import MB, peak_bytes
from tests.bench.stage import KIB, Stage

MEMORY = 768 << 20
PEAK = "MB, most, of all processes"


@dataclass(frozen=True)
class Limits:
    """A control group of our own, of whichever version is mounted (cgroups(7))."""

    group: Path

    @property
    def is_new(self) -> bool:
        return (self.group / "cgroup.controllers").exists()

    def killed(self) -> int:
        """How many of its processes the kernel has killed, for want of memory."""
        text = (self.group / ("memory.events" if self.is_new else "memory.oom_control")).read_text()
        return int(dict(line.split() for line in text.splitlines()).get("oom_kill", 0))


@contextmanager
def limits(memory: int) -> Iterator[Limits]:
    """Raises OSError where no control group can be made: the row is not measured there."""
    root = Path("/sys/fs/cgroup")
    old = root / "memory"
    found = Limits((old if old.is_dir() else root) / f"edge-bench-{os.getpid()}")
    found.group.mkdir()
    try:
        (found.group / ("memory.max" if found.is_new else "memory.limit_in_bytes")).write_text(str(memory))
        yield found
    finally:
        found.group.rmdir()


class SmallGateway(Gateway):
    """On one core, within limits."""

    limits: Limits

    def command(self) -> list[str]:
        enter = 'echo $$ >"$1" && shift && exec taskset --cpu-list 0 "$@"'
        return ["sh", "-c", enter, "sh", str(self.limits.group / "cgroup.procs"), *super().command()]


@dataclass(frozen=True)
class Smallest:
    """600 CT and 2,000 small objects come in on two associations, and go out meanwhile."""

    name: str = "smallest"
    what: str = "one core, 768 MB: 600 CT of 512 KiB and 2,000 of 10 KB, in and out at once"
    peers: tuple[str, ...] = (EDGE,)
    targets: tuple[Target, ...] = (Target(PEAK, at_least=400),)

    def measure(self, peer: str, stage: Stage) -> Figures:
        large, small = stage.objects(stage.few(600, 60), 512 * KIB), stage.objects(stage.few(2000, 200), 10 * KIB)
        with stage.directory() as directory, limits(MEMORY) as limit, Storescp(directory / "archive") as archive:
            gateway = SmallGateway(directory / "gateway", archive_at(archive.port))
            gateway.limits = limit
            with gateway:
                assert len([each for each in family(gateway.pid) if each.name() == "edge-receiver"]) == 1
                began = time.time()
                senders = [
                    threading.Thread(target=send, args=(STORESCU, each.folders, gateway.port, gateway.ae_title))
                    for each in (large, small)
                ]
                for each in senders:
                    each.start()
                for each in senders:
                    each.join()
                seconds = arrived(archive, large.count + small.count, since=began)
                assert not limit.killed(), "the kernel has killed a process for want of memory"
                assert gateway.stored() == large.count + small.count, "an object was refused or lost"
                return {SECONDS: seconds, PEAK: peak_bytes(gateway.pid) / MB}


ROWS = (Smallest(),)
