"""Power cuts while doors append to the journal, on a disk of our own; root and loop devices.

    python -m tests.torture.journal_power ext4|xfs ROUNDS [direct|buffered|unsynced]

Two doors append; after a random number of answers they are stopped (or, half the time, killed), the file system dies
without its log, and a replay must find every answered record with its bytes. Between the rounds what was found is
applied and the segments are recycled, so that old generations lie under new ones. "unsynced" is the control: it has to
lose everything. Limit: the disk's own cache survives such a cut; that a flush is asked for, strace alone shows.
"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from edge.journal.record import RecordIdentity
from edge.journal.ring import Ring
from edge.journal.segment import RingSize
from tests.support.journaling import Kept, replay_into
from tests.support.peers import REPOSITORY
from tests.torture.disk import Disk, mounts_of_our_own

SIZE = RingSize(6, 2 << 20)


def play(disk: Disk, rounds: int, way: str, seed: int = 1) -> tuple[int, int, int, int]:
    """Returns answered, lost, with other bytes, damage that was reported."""
    chance, kept = random.Random(seed), Kept()
    answered = lost = other = 0
    folder = disk.path / "journal"
    for number in range(rounds):
        ring = Ring(folder, SIZE, floor=max(kept.upto, default=0))
        replay_into(ring, kept)
        while ring.prepare():
            pass
        told = _cut(disk, folder, way, number, chance)
        ring.close()
        disk.again()
        kept.bodies.clear()
        ring = Ring(folder, SIZE)
        replay_into(ring, kept)
        ring.close()
        found = {identity: hashlib.sha256(body).hexdigest() for identity, body in kept.bodies.items()}
        answered += len(told)
        lost += sum(identity not in found for identity in told)
        other += sum(found.get(identity, digest) != digest for identity, digest in told.items())
    return answered, lost, other, len(kept.damage)


def _cut(disk: Disk, folder: Path, way: str, number: int, chance: random.Random) -> dict[RecordIdentity, str]:
    command = [sys.executable, "-m", "tests.support.journaling", str(folder)]
    doors = [
        subprocess.Popen([*command, str(2 * number + n), "20", way], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
        for n in range(2)
    ]
    lines: list[str] = []
    for door in doors:
        assert door.stdout is not None
        lines += [door.stdout.readline() for _ in range(chance.randint(1, 12))]
    for door in doors:
        door.send_signal(chance.choice((signal.SIGSTOP, signal.SIGKILL)))
    disk.lose_power()
    for door in doors:
        door.kill()
        assert door.stdout is not None
        lines += door.stdout.readlines()
        door.wait()
        door.stdout.close()
    answers = (line.split() for line in lines if line.endswith("\n") and line != "done\n")
    return {RecordIdentity(int(generation), int(index)): digest for generation, index, digest in answers}


def main(kind: str, rounds: int, way: str = "direct") -> int:
    mounts_of_our_own()
    with tempfile.TemporaryDirectory() as place, Disk(Path(place), kind) as disk:
        answered, lost, other, damage = play(disk, rounds, way)
    print(
        f"{kind} {way}: {rounds} cuts, {answered} answered, {lost} lost, {other} with other bytes, {damage} damaged",
        flush=True,
    )
    return int(bool(lost or other or damage) != (way == "unsynced"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
