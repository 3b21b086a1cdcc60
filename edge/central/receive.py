"""POST /heartbeat: who is it, is it whole, and one transaction for all that wait.

Answers: 200 taken (also when we have it already), with the head of the site's ledger that is acknowledged; 401 not
signed by a site that we know, 408 too slow, 503 the database is away: the site keeps it and tries again, and a wrong
key is put right here without a loss. 400 and 422 not a heartbeat, 409 its number was used by another, 413 too long:
the site puts it aside.

Signatures and documents are checked beside the event loop, one document of a site at a time. Whatever a document does,
it alone is refused: the writer continues. `tick` goes the way of a heartbeat, and `trouble` says how long none came
through: liveness is that of the writer.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

from edge.central import intake, ledgers
from edge.central.heartbeat import HeartbeatError, NotJson, ReceivedHeartbeat, parse
from edge.central.sequence import SequenceResult
from edge.config import secret
from edge.errors import Permanent, place_of
from edge.monitor.heartbeat import verify
from edge.store.engine import EngineStore, EngineTransaction, StoreError, Unstorable

log = logging.getLogger(__name__)

#: The longest document: a site with a thousand modalities and all its notices of a week.
MAX_BYTES = 2 << 20
#: Heartbeats that share a transaction, at most.
GROUP = 200
#: The most keys of a site at a time: one, and the next one while they are exchanged.
MOST_KEYS = 2
#: Threads that check signatures and documents.
CHECKERS = 2
#: A wrong signature in a known site's name is noted so often at most, in seconds.
NOTE_SECONDS = 60.0
#: How often the way to the database is tried, and how long nothing may come through (seconds).
_TICK_SECONDS, STALLED_SECONDS = 5.0, 30.0

Keys = Mapping[str, Sequence[bytes]]
Work = Callable[[EngineTransaction], Any]


class NotTaken(Permanent):
    """A fault of ours in this one document; its place is in the log."""


@dataclass(frozen=True, slots=True)
class HeartbeatResponse:
    """What the site is answered."""

    status: int
    content: Mapping[str, object]

    def body(self) -> bytes:
        return json.dumps(self.content).encode()


@dataclass(slots=True)
class _Waiting:
    work: Work
    done: asyncio.Future[Any] | None = field(default_factory=asyncio.Future)

    def settle(self, result: object) -> None:
        """Answer, unless the request was given up."""
        if self.done is None or self.done.done():
            return
        if isinstance(result, Exception):
            self.done.set_exception(result)
        else:
            self.done.set_result(result)


class HeartbeatEndpoint:
    """Checks heartbeats and writes them, many in one transaction."""

    def __init__(
        self,
        store: EngineStore,
        keys: Keys,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Raises ValueError for a key that must not sign."""
        self._store, self._clock, self._monotonic = store, clock, monotonic
        self._nobody = os.urandom(32)  # what an unknown site is compared with; no answer depends on it
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue(maxsize=10 * GROUP)
        self._checkers = ThreadPoolExecutor(CHECKERS, thread_name_prefix="check")
        self._turns: dict[str, asyncio.Lock] = {}
        self._noted_at: dict[str, float] = {}
        self._came_through_at, self._away = monotonic(), ""
        self.use(keys)

    def use(self, keys: Keys) -> None:
        """The keys of all sites from now on; any thread may say so. Raises ValueError, then nothing has changed."""
        for site, each in keys.items():
            if not 1 <= len(each) <= MOST_KEYS or any(secret.weakness_of(key) for key in each):
                raise ValueError(f"site {site}: one or two keys, each of {secret.LEAST_KEY_BYTES} bytes or more")
        self._keys = dict(keys)

    async def take(self, site: str, signature: str, body: bytes) -> HeartbeatResponse:
        """One POST."""
        now = self._clock()
        keys, loop = self._keys.get(site, ()), asyncio.get_running_loop()
        if not await loop.run_in_executor(self._checkers, self._is_signed, keys, body, signature):
            return self._refuse(site, now)
        try:
            async with self._turns.setdefault(site, asyncio.Lock()):
                heartbeat = await loop.run_in_executor(self._checkers, parse, body)
        except HeartbeatError as error:
            return HeartbeatResponse(400 if isinstance(error, NotJson) else 422, {"error": str(error)})
        if heartbeat.site != site:
            return HeartbeatResponse(422, {"error": "Edge-Site and $.site.id name different sites"})
        return await self._record(heartbeat, now)

    async def _record(self, heartbeat: ReceivedHeartbeat, now: float) -> HeartbeatResponse:
        def work(conn: EngineTransaction) -> tuple[SequenceResult, Mapping[str, Any] | None]:
            return intake.record_heartbeat(conn, heartbeat, now), ledgers.acknowledged_head(conn, heartbeat.site)

        try:
            found, ledger = await self._write(work)
        except (NotTaken, Unstorable) as error:
            return HeartbeatResponse(422, {"error": str(error)})
        except StoreError as error:
            log.error("a heartbeat could not be kept, the site will try again: %s", error)
            return HeartbeatResponse(503, {"error": "the database is away; try again"})
        if found is SequenceResult.REUSED:
            return HeartbeatResponse(409, {"error": f"another heartbeat has number {heartbeat.number}"})
        return HeartbeatResponse(200, {"number": heartbeat.number, "taken": found, "ledger": ledger})

    # -- who ----------------------------------------------------------------------------------------------------------

    def _is_signed(self, keys: Sequence[bytes], body: bytes, signature: str) -> bool:
        """Is it signed by one of these keys? Without a key no signature is right; the time is the same for all."""
        compared = [*keys, *[self._nobody] * MOST_KEYS][:MOST_KEYS]
        right = [verify(key, body, signature) for key in compared]
        return any(right[: len(keys)])

    def _refuse(self, site: str, now: float) -> HeartbeatResponse:
        """The same to all. That somebody speaks for a known site is noted now and then, and nobody waits for that."""
        at = self._monotonic()
        if site in self._keys and at - self._noted_at.get(site, float("-inf")) >= NOTE_SECONDS:
            self._noted_at[site] = at
            note = _Waiting(lambda conn: intake.refuse_signature(conn, site, now), None)
            try:
                self._waiting.put_nowait(note)
            except asyncio.QueueFull:
                log.warning("a wrong signature for site %s could not be noted", site)
        return HeartbeatResponse(401, {"error": "not signed by a site that is known here"})

    # -- the writer ---------------------------------------------------------------------------------------------------

    async def _write(self, work: Work) -> Any:
        waiting = _Waiting(work)
        await self._waiting.put(waiting)
        return await waiting.done  # type: ignore[misc]

    async def run(self) -> None:
        """The one writer, until cancelled."""
        while True:
            group = [await self._waiting.get()]
            while len(group) < GROUP and not self._waiting.empty():
                group.append(self._waiting.get_nowait())
            results = await self._store.write_together([each.work for each in group])
            for each, result in zip(group, results, strict=True):
                each.settle(_answer_of(result) if isinstance(result, Exception) else result)

    # -- liveness -----------------------------------------------------------------------------------------------------

    async def tick(self) -> None:
        """Go the way of a heartbeat, to the database and back, and note when that was."""
        try:
            await self._write(lambda _conn: None)
            self._away = ""
        except StoreError as error:
            self._away = str(error)
        self._came_through_at = self._monotonic()

    async def keep_ticking(self) -> None:
        """Tick until cancelled."""
        while True:
            await self.tick()
            await asyncio.sleep(_TICK_SECONDS)

    @property
    def is_stalled(self) -> bool:
        """Has nothing come through the writer for too long? A restart may help."""
        return self._monotonic() - self._came_through_at > STALLED_SECONDS

    def trouble(self) -> str:
        """Why no heartbeat can be taken; empty where all is well."""
        if self.is_stalled:
            return f"nothing has been written for {self._monotonic() - self._came_through_at:.0f} s"
        return self._away


def _answer_of(error: Exception) -> Exception:
    """What the sender of a document gets. Of a fault of ours the place is logged, never its words."""
    if isinstance(error, Unstorable):
        log.error("a heartbeat is refused: %s", error)
    elif not isinstance(error, StoreError):
        log.error("a heartbeat is refused for a fault of ours: %s", place_of(error))
        return NotTaken("the centre cannot take it; see its log")
    return error
