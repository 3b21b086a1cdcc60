"""What the tests of the journal share: a small ring, and a process that appends and says what it was answered.

python -m tests.support.journaling FOLDER SEED [SECONDS]    one line for each answer: generation index sha256
"""

from __future__ import annotations

import hashlib
import os
import random
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from edge.errors import Hindered, StorageFull
from edge.journal import segment
from edge.journal.apply import Batches
from edge.journal.body_file import BodyFile
from edge.journal.record import RecordIdentity
from edge.journal.replay import BodyDamaged, DamagedPart, Item, JournalRecord, RecordDamage, Replay
from edge.journal.ring import Claims, Ring
from edge.journal.segment import RingSize
from edge.journal.slots import SlotPool
from edge.journal.writer import Appended, Draft, SegmentWriter

SMALL = RingSize(4, 256 << 10)


class Bench:
    """A ring of a few small segments, and what appends to it."""

    def __init__(self, folder: Path, size: RingSize = SMALL, patience: float = 0.0, ahead: int | None = None) -> None:
        """`ahead`: this number of segments is kept free; None, all are laid out."""
        self.folder = folder
        self.ring = Ring(folder, size, ahead=ahead)
        while self.ring.prepare():
            pass
        self.claims = Claims(folder, patience)
        self.slots = SlotPool(2, 128 << 10)
        self.heard: list[Appended] = []
        self.writer = self.new_writer()

    def new_writer(self) -> SegmentWriter:
        return SegmentWriter(self.claims, self.heard.append)

    def append(self, body: bytes, writer: SegmentWriter | None = None, prefix: bytes = b"DICM") -> Appended:
        return append(writer or self.writer, self.slots, body, prefix)

    def append_long(self, *bodies: bytes) -> Appended:
        """An object in a file of its own."""
        return append_long(self.writer, self.slots, self.folder, *bodies)

    def close(self) -> None:
        """As a crash leaves it: nothing is closed in order."""
        if self.writer._claimed is not None:
            os.close(self.writer._claimed.fd)
            self.writer._claimed = None
        self.ring.close()
        self.claims.close()


def append(writer: SegmentWriter, slots: SlotPool, body: bytes, prefix: bytes = b"DICM") -> Appended:
    slot = slots.take(1.0)
    slot.body[: len(body)] = body
    try:
        return writer.append(slot, len(body), Draft(1, b'{"n":1}', prefix))
    finally:
        slots.give_back(slot.number)


def append_long(writer: SegmentWriter, slots: SlotPool, folder: Path, *bodies: bytes) -> Appended:
    file = BodyFile(folder, b"DICM")
    slot = slots.take(1.0)
    try:
        for body in bodies:
            file.write(memoryview(body))
        file.seal()
        return writer.append(slot, 0, Draft(1, b'{"n":2}', b"DICM"), file)
    finally:
        file.discard()
        slots.give_back(slot.number)


class Kept:
    """An Applier that keeps what it is given in memory; `fails` times it raises first."""

    def __init__(self, upto: Mapping[int, int] | None = None) -> None:
        self.upto, self.bodies, self.damage, self.fails = dict(upto or {}), {}, [], 0  # type: ignore[var-annotated]

    def read_applied(self) -> Mapping[int, int]:
        return self.upto

    def prepare(self, item: Item) -> None:
        pass

    def await_prepared(self, identity: RecordIdentity) -> None:
        pass

    def apply(self, batch: Sequence[Item], upto: Mapping[int, int]) -> None:
        if self.fails:
            self.fails -= 1
            raise StorageFull("no room")
        for item in batch:
            if isinstance(item, RecordDamage):
                self._note_damage(item)
                continue
            try:
                self.bodies[item.identity] = b"".join(bytes(view) for view in item.bodies())
            except BodyDamaged:
                self._note_damage(damage_of(item))
        self.upto.update(upto)

    def _note_damage(self, item: RecordDamage) -> None:
        self.damage.append(item)
        segment.keep_damaged(item.segment)


def damage_of(item: JournalRecord) -> RecordDamage:
    return RecordDamage(item.identity, item.segment, item.head.offset, DamagedPart.BODY, item.head)


def found(
    folder: Path, applied: Mapping[int, int] | None = None
) -> tuple[dict[RecordIdentity, bytes], list[RecordDamage], Replay]:
    """What a replay yields: bodies by identity, damage, and the replay itself."""
    replay, bodies, damage = Replay(folder, applied or {}), {}, []
    for item in replay:
        if isinstance(item, RecordDamage):
            damage.append(item)
            continue
        try:
            bodies[item.identity] = b"".join(bytes(view) for view in item.bodies())
        except BodyDamaged:
            damage.append(damage_of(item))
    return bodies, damage, replay


def replay_into(ring: Ring, kept: Kept) -> Replay:
    """As the daemon does at its start: apply what is left, put damaged segments aside, let the rest be recycled."""
    replay, batches = Replay(ring.folder, kept.read_applied()), Batches(kept, ring.mark_applied)
    for item in replay:
        batches.add(item)
    batches.flush()
    for number in range(ring.control.segments):
        ring.mark_replayed(number)
    return replay


def main(folder: Path, seed: int, seconds: float) -> None:
    chance, end = random.Random(seed), time.monotonic() + seconds
    slots, writer = SlotPool(2, 128 << 10), SegmentWriter(Claims(folder, 0.0))
    while time.monotonic() < end:
        bodies = [chance.randbytes(chance.randint(1, 100_000)) for _ in range(chance.choice((1, 1, 1, 3)))]
        try:
            is_long = len(bodies) > 1
            appended = append_long(writer, slots, folder, *bodies) if is_long else append(writer, slots, *bodies)
        except Hindered:
            break
        identity = appended.head.identity
        digest = hashlib.sha256(b"".join(bodies)).hexdigest()
        sys.stdout.write(f"{identity.generation} {identity.index} {digest}\n")
        sys.stdout.flush()
    print("done", flush=True)
    time.sleep(seconds)


def go_the_way(way: str) -> None:
    """Change this process: what it writes goes through the page cache, or is not synced either."""
    if way != "direct":
        os.O_DIRECT = 0  # type: ignore[misc]
    if way == "unsynced":
        os.RWF_DSYNC = 0  # type: ignore[misc]


if __name__ == "__main__":
    go_the_way(sys.argv[4] if len(sys.argv) > 4 else "direct")
    main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]) if len(sys.argv) > 3 else 60.0)
