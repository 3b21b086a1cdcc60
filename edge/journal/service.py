"""The journal as a running process has it: receive buffers, writers, and the thread that applies what they append.

Promise: what an earlier run has left is applied first, in its order; then what doors append, in batches. A batch that
fails for a passing reason comes again until it succeeds; after a failure of the disk nothing more is applied, and the
next start replays. `stop` applies everything: then the journal is empty. What a door has appended that ends without
a word is read from its segments.

Another thread recycles and lays out segments.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from edge.errors import Cause, EdgeError, Hindered, Shortage, StorageUnhealthy, place_of
from edge.errors.hindrance import CauseClass, cause_of, classify_cause
from edge.journal import body_file
from edge.journal.apply import Applier, Batches
from edge.journal.control import Owed
from edge.journal.door import DoorPlan, JournalDoor
from edge.journal.holding import HELD_QUIET_SECONDS, HeldRecord, HeldRecords, hold_back
from edge.journal.notices import Notices
from edge.journal.record import BLOCK, MAX_HEAD_BYTES, RecordHead
from edge.journal.replay import BodyDamaged, DamagedPart, Item, JournalRecord, RecordDamage, Replay, read_segment
from edge.journal.ring import JOURNAL_FOLDER, Ring, RingUsage
from edge.journal.segment import RingSize
from edge.journal.slots import SlotPool
from edge.network.sockets import wait_readable
from edge.text import MIB

T = TypeVar("T")

log = logging.getLogger(__name__)

#: Receive buffers: more than there may be associations, so that slow senders cannot use them up.
SLOTS = 352
SLOT_BYTES = MIB
#: Numbers of pools.
POOLS = 256
#: Free segments that are kept ready, and that a start waits for.
AHEAD, AHEAD_AT_START = 4, 2
#: What a door of few buffers appends meanwhile is of the same batch, until that is so old.
BATCH_SECONDS = 0.1
#: Records are held back only while as many segments are free: the ring is not to stop a sender.
FREE_WHILE_HOLDING = 2
#: Records that are prepared at the same time, and keep their memory for that.
PREPARED_AT_ONCE = 8
#: Between two tries of a batch that failed for a passing reason.
APPLY_PAUSE_SECONDS = 0.5
#: When nothing is to be applied the ring grows to this number of free segments, so that a burst finds them ready:
#: one after the other, once the gateway has run for a while.
AHEAD_AT_REST, GROW_AFTER_SECONDS, GROW_SECONDS = 24, 15.0, 0.5
#: A start waits this long for what an earlier run has left.
REPLAY_SECONDS = 20.0


class _Ending(Exception):
    """The gateway ends while a batch waits."""


class JournalService:
    """See the module's docstring."""

    def __init__(
        self,
        data_dir: Path,
        size: RingSize,
        applier: Applier,
        failed: Callable[[str], None],
    ) -> None:
        """`failed` is called with the reason when nothing more can be applied until a restart."""
        self._applier, self._failed = applier, failed
        floor = max(applier.read_applied(), default=0)
        self.ring = Ring(data_dir / JOURNAL_FOLDER, size, floor, ahead=AHEAD, has_file=False)
        self._files_at_start = body_file.list_files(self.ring.folder)
        self.notices = Notices()
        # Several records fit each segment; a longer object has a file of its own.
        self._body_bytes = min(SLOT_BYTES, size.segment_bytes // 4 - 2 * BLOCK - MAX_HEAD_BYTES)
        self._pools: dict[int, SlotPool] = {}
        self._held = HeldRecords(self.ring.folder, self._pools)
        self._under_way: deque[HeldRecord] = deque()
        self._next_pool = 0
        self._numbering = threading.Lock()
        self._count_replayed = 0
        self._wants_segments = False
        self._replayed, self._ending = threading.Event(), threading.Event()
        self._hurry = threading.Event()  # somebody waits for what is recorded
        self._prepare, self._wake = threading.Event(), os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._applying = threading.Thread(target=self._apply, name="apply", daemon=True)
        self._preparing = threading.Thread(target=self._prepare_segments, name="segments", daemon=True)

    def start(self) -> int:
        """Replay what an earlier run has left, and have segments ready. What hinders that, goes on behind.

        Returns how many records were replayed.
        """
        self.ring.control.set_waiting_since(time.monotonic())
        self._applying.start()
        self._replayed.wait(REPLAY_SECONDS)
        try:
            for _ in range(AHEAD_AT_START):
                self.ring.prepare()
        except Hindered as error:
            log.error("the journal gets no new segment: %s", error)
        except StorageUnhealthy as error:
            self._failed(str(error))
        self._prepare.set()
        self._preparing.start()
        return self._count_replayed

    def stop(self, seconds: float = 10.0) -> bool:
        """Apply everything, then end. True: the journal is empty. The doors are closed before."""
        is_empty = not self._applying.is_alive() or self.settle(seconds)
        self._ending.set()
        os.eventfd_write(self._wake, 1)
        self._prepare.set()
        for thread in (self._applying, self._preparing):
            if thread.ident is not None:
                thread.join(seconds)
        if not self._applying.is_alive():
            self._close_descriptors()
        return is_empty and not self.pending

    def _close_descriptors(self) -> None:
        """Close the descriptors of doors that have ended. What is mapped can be read on."""
        for pool in self._pools.values():
            pool.close()
        self._pools.clear()
        self.notices.close()
        self.ring.control.close_descriptor()
        os.close(self._wake)

    # -- doors --------------------------------------------------------------------------------------------------------

    def open_door(self, slots: int = SLOTS) -> JournalDoor:
        """A new door, with its own receive buffers. Thread-safe. Raises OSError, Shortage."""
        pool = SlotPool(slots, self._body_bytes)
        number = self._number_pool(pool)
        return JournalDoor(
            DoorPlan(self.ring.folder, number, slots, self._body_bytes), self.ring.control, self.notices, pool
        )

    def _number_pool(self, pool: SlotPool) -> int:
        """The next number that no door has: one may live as long as the gateway, while others are replaced often."""
        with self._numbering:
            for step in range(POOLS):
                number = (self._next_pool + step) % POOLS
                if number not in self._pools:
                    self._pools[number], self._next_pool = pool, number + 1
                    return number
        pool.close()
        raise Shortage("as many doors as there may be have records that are not applied", Cause.BUSY)

    def close_door(self, door: JournalDoor) -> None:
        """End a door whose process is no more, in whatever way. What it has appended is applied."""
        self.notices.send_end(door.plan.pool)

    def refuse(self) -> None:
        """Refuse all writes from now on: doors accept nothing."""
        self.ring.control.fail()

    # -- what others may ask ------------------------------------------------------------------------------------------

    @property
    def is_replayed(self) -> bool:
        """Is all that an earlier run has left applied?"""
        return self._replayed.is_set()

    @property
    def pending(self) -> bool:
        """Is anything recorded that is not applied?"""
        return not self._replayed.is_set() or self.ring.control.has_unapplied

    @property
    def owed_to_spool(self) -> Owed:
        return self.ring.control.owed_to_spool()

    @property
    def most_owed(self) -> Owed:
        return self.ring.control.most_owed

    @property
    def lag_seconds(self) -> float:
        """How long the oldest record waits to be applied; 0: none does."""
        oldest = self.ring.control.waiting_since
        if not self.pending:
            return 0.0
        return max(time.monotonic() - oldest, 0.001) if oldest is not None else 0.001

    def usage(self) -> RingUsage:
        return self.ring.usage()

    def settle(self, seconds: float) -> bool:
        """Wait until everything is applied that is recorded now."""
        end, control = time.monotonic() + seconds, self.ring.control
        recorded = [(each, control.generation(each), control.written_count(each)) for each in range(control.segments)]

        def is_applied(number: int, generation: int, records: int) -> bool:
            return control.generation(number) != generation or control.applied_count(number) >= records

        while not (self.is_replayed and all(is_applied(*each) for each in recorded)):
            if time.monotonic() > end or not self._applying.is_alive():
                return False
            self._hurry.set()
            time.sleep(0.002)
        return True

    # -- applying -----------------------------------------------------------------------------------------------------

    def _apply(self) -> None:
        try:
            ring = self.ring
            self._batches = Batches(self._applier, ring.mark_applied, ring.mark_spooled, ring.has_generation)
            self._replay()
            while not self._ending.is_set():
                ready = wait_readable(self.notices.reader, self._wake)
                if self.notices.reader in ready:
                    self._take_all()
                    self._flush()
                    self._hurry.clear()
        except _Ending:
            log.warning("the gateway ends before the journal is applied: the next start goes on")
        except StorageUnhealthy as error:
            self._failed(str(error))
        except Exception as error:  # noqa: BLE001 - else objects would be answered that go nowhere
            log.critical("the journal is not applied any more: %s", place_of(error))
            self._failed("the journal could not be applied: a fault of the gateway, see its log")

    def _replay(self) -> None:
        replay = Replay(self.ring.folder, self._applier.read_applied())
        has_damage = False
        for item in replay:
            self._count_replayed += 1
            has_damage |= isinstance(item, RecordDamage)
            self._add(item)
        self._flush()
        if (count := self._count_replayed) or replay.left.torn:
            log.warning("the journal held %d records of the run before, and %d unfinished", count, replay.left.torn)
        body_file.drop_unanswered(self._files_at_start, keep=has_damage)
        for number in range(self.ring.control.segments):
            self.ring.mark_replayed(number)
        self.ring.control.set_waiting_since(None)
        self._replayed.set()
        self._prepare.set()

    def _take_all(self) -> None:
        """What doors have appended, and what they append meanwhile: few syncs and commits serve for all of it."""
        end = time.monotonic() + BATCH_SECONDS
        while self._read_notices(0.0):
            hold_back(self._held, self._read_notices, self._is_urgent)
            goes_on = self._held.has_thin_door and time.monotonic() < end
            while self._held:
                self._take(self._held.take())
                self._read_notices(0.0)
            self._release_records()
            if not goes_on or not wait_readable(self.notices.reader, self._wake, seconds=HELD_QUIET_SECONDS):
                return

    def _read_notices(self, seconds: float) -> bool:
        """Keep what is there after some seconds; False: nothing is."""
        if seconds and self._ending.wait(seconds):
            return False
        if not wait_readable(self.notices.reader, seconds=0.0):
            return False
        for notice in self.notices.read():
            self._held.add(notice)
            if not notice.is_last and notice.identity.index == 0:  # its writer has a new segment, and has left one
                self._wants_segments = True
                self._prepare.set()
        if self.ring.control.waiting_since is None:
            self.ring.control.set_waiting_since(self._held.oldest_at)
        return True

    def _is_urgent(self) -> bool:
        """Does somebody wait for what is held, or may a door soon have no segment?"""
        return self._hurry.is_set() or self._ending.is_set() or self.ring.free_segments < FREE_WHILE_HOLDING

    def _take(self, held: HeldRecord) -> None:
        notice = held.notice
        if notice.is_last:
            self._read_rest(notice.pool)
            return
        try:
            item: Item = self._read(lambda: notice.record(self.ring.folder, self._held.memory_of(held)))
        except BodyDamaged:
            try:
                item = self._read(lambda: notice.record(self.ring.folder, None))
            except BodyDamaged as error:
                log.critical("%s", error)
                item = RecordDamage(notice.identity, self.ring.path_of(notice.segment), notice.offset, DamagedPart.HEAD)
        self._add(item)
        self._under_way.append(held)
        self._release_records(PREPARED_AT_ONCE)

    def _release_records(self, most: int = 0) -> None:
        """Give back the memory of the oldest records, until that of `most` is left."""
        while len(self._under_way) > most:
            held = self._under_way.popleft()
            self._batches.await_prepared(held.notice.identity, held.end)
            self._held.let_go(held)

    def _read_rest(self, pool: int) -> None:
        """Read what a door that has ended left unannounced: it is in its segments, up to "written"."""
        control = self.ring.control
        self._flush()
        self._release_records()
        has_damage = False
        while (number := self._read(self.ring.close_abandoned)) is not None:
            self._wants_segments = True
            path, first, upto = self.ring.path_of(number), control.applied_count(number), control.written_count(number)
            for found in self._read(partial(_list_records, path, first, upto)):
                has_damage |= isinstance(found, RecordDamage)
                self._add(found if isinstance(found, RecordDamage) else JournalRecord(self.ring.folder, found))
        self._flush()
        if not control.has_failed:
            files = self._read(lambda: body_file.list_files(self.ring.folder, pool))
            body_file.drop_unanswered(files, keep=has_damage)
        self._pools.pop(pool).close()

    def _read(self, read: Callable[[], T]) -> T:
        """Read of the journal; a shortage is waited for."""
        while True:
            try:
                return read()
            except OSError as error:
                if classify_cause(cause_of(error)) is not CauseClass.HEALS:
                    raise
                if self._ending.wait(APPLY_PAUSE_SECONDS):
                    raise _Ending from error

    def _add(self, item: Item) -> None:
        self._until_done(lambda: self._batches.add(item), self._batches.flush)

    def _flush(self) -> None:
        self._until_done(self._batches.flush, self._batches.flush)

    def _until_done(self, first: Callable[[], None], again: Callable[[], None]) -> None:
        """Do what may apply a batch; after a passing failure the batch is applied again, from the segments."""
        work = first
        while True:
            try:
                work()
                break
            except (Hindered, MemoryError) as error:
                log.error("what was received waits in the journal: %s", str(error) or "the gateway is short of memory")
                self.ring.control.set_cause(cause_of(error))
                work = again
                if self._ending.wait(APPLY_PAUSE_SECONDS):
                    raise _Ending from error
        self.ring.control.set_cause(None)
        if self._batches.is_empty:
            self.ring.control.set_waiting_since(self._held.oldest_at)
            if self._wants_segments:
                self._wants_segments = False
                self._prepare.set()

    # -- segments -----------------------------------------------------------------------------------------------------

    def _prepare_segments(self) -> None:
        at_rest = min(AHEAD_AT_REST, self.ring.size.segments // 4)
        grow_at = time.monotonic() + GROW_AFTER_SECONDS
        while True:
            is_asked = self._prepare.wait(GROW_SECONDS if self.ring.free_segments < at_rest else None)
            self._prepare.clear()
            if self._ending.is_set():
                return
            try:
                if not is_asked and time.monotonic() > grow_at and not self.pending:
                    self.ring.prepare(at_rest)
                while not self._ending.is_set() and self.ring.prepare():
                    pass
            except StorageUnhealthy as error:
                self._failed(str(error))
                return
            except (EdgeError, OSError, MemoryError) as error:
                log.error("the journal gets no new segment: %s", error)
                self._ending.wait(APPLY_PAUSE_SECONDS)
                self._prepare.set()


def _list_records(path: Path, first: int, upto: int) -> list[RecordHead | RecordDamage]:
    return list(read_segment(path, first, upto)) if first < upto else []
