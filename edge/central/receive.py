"""POST /heartbeat: who is it, is it whole, and one transaction for all that wait.

Answers: 200 taken (also when we have it already), 401 not signed by a site that we know, 408 too slow, 503 the database
is away: the site keeps it and tries again, and a wrong key is mended here without a loss. 400 and 422 not a heartbeat,
409 its number was used by another, 413 too long: the site puts it aside.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from edge.central import intake
from edge.central.beat import Beat, BeatError, parse
from edge.central.judge import Verdict
from edge.central.store import Connection, Store, StoreError
from edge.ops import heartbeat

log = logging.getLogger(__name__)

#: The longest document: a site with a thousand modalities and all its notices of a week.
MAX_BYTES = 2 << 20
#: So many heartbeats share a transaction at most.
GROUP = 200
#: Nobody has a key like this; a site that we do not know costs as much time as one that we know.
_NO_KEY = b"\0" * 32


@dataclass(frozen=True, slots=True)
class Answer:
    """What the site is told."""

    status: int
    told: Mapping[str, object]

    def body(self) -> bytes:
        return json.dumps(self.told).encode()


@dataclass(slots=True)
class _Waiting:
    work: Callable[[Connection], Verdict | None]
    done: asyncio.Future[Verdict | None] = field(default_factory=asyncio.Future)


class Reception:
    """Checks heartbeats and writes them, many in one transaction."""

    def __init__(self, store: Store, keys: Mapping[str, bytes], clock: Callable[[], float] = time.time) -> None:
        self._store, self._keys, self._clock = store, keys, clock
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue(maxsize=10 * GROUP)

    async def take(self, site: str, signature: str, body: bytes) -> Answer:
        """One POST."""
        now = self._clock()
        if not heartbeat.verify(self._keys.get(site, _NO_KEY), body, signature):
            return await self._refuse(site, now)
        try:
            beat = parse(body)
        except BeatError as error:
            return Answer(400 if str(error) == "not JSON" else 422, {"error": str(error)})
        if beat.site != site:
            return Answer(422, {"error": "Edge-Site and $.site.id name different sites"})
        try:
            found = await self._write(lambda conn: intake.record(conn, beat, now))
        except StoreError as error:
            log.error("a heartbeat could not be kept, the site will try again: %s", error)
            return Answer(503, {"error": "the database is away; try again"})
        return _answer(beat, found)

    async def _refuse(self, site: str, now: float) -> Answer:
        if site in self._keys:
            try:
                await self._write(lambda conn: intake.refuse_signature(conn, site, now))
            except StoreError as error:
                log.error("a refused signature could not be noted: %s", error)
        return Answer(401, {"error": "not signed by a site that is known here"})

    async def _write(self, work: Callable[[Connection], Verdict | None]) -> Verdict | None:
        waiting = _Waiting(work)
        await self._waiting.put(waiting)
        return await waiting.done

    async def run(self) -> None:
        """The one writer, until cancelled."""
        while True:
            group = [await self._waiting.get()]
            while len(group) < GROUP and not self._waiting.empty():
                group.append(self._waiting.get_nowait())
            results = await asyncio.to_thread(self._commit, [each.work for each in group])
            for each, result in zip(group, results, strict=True):
                if isinstance(result, Exception):
                    each.done.set_exception(result)
                elif not each.done.done():
                    each.done.set_result(result)

    def _commit(self, works: Sequence[Callable[[Connection], Verdict | None]]) -> Sequence[Verdict | StoreError | None]:
        """All in one transaction; where that fails, each in its own, so that one cannot spoil the others."""
        try:
            with self._store.writing() as conn:
                return [work(conn) for work in works]
        except StoreError as error:
            if len(works) == 1:
                return [error]
        return [result for work in works for result in self._commit([work])]


def _answer(beat: Beat, found: Verdict | None) -> Answer:
    if found is Verdict.REUSED:
        return Answer(409, {"error": f"another heartbeat has number {beat.number}"})
    return Answer(200, {"number": beat.number, "taken": found})
