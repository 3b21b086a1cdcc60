"""Threads that work in steps: one class for how they start, wait, outlive faults and stop.

Promise: a worker outlives a fault of ours. The log names each new fault once, by its place: the words of an exception
could quote an object. After faults in a row the pauses grow, and nothing shortens them but `stop`. `stop` ends a pause
at once and waits for the step that is under way, within a bound.

Each worker is declared as a `ThreadSpec`; docs/design.md lists all of them (edge/daemon/threads.py).
"""

from __future__ import annotations

import logging
import math
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass

from edge.errors import EdgeError, place_of
from edge.worker.backoff import backoff

log = logging.getLogger(__name__)

#: A step returns this when there is nothing left to do: the thread ends.
DONE = math.inf
#: Seconds of pause after the first fault, and at most after faults in a row.
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class ThreadSpec:
    """What a thread is called, which module owns it, what it may write, how it stops.

    `each`: there is one for each of these, whose name follows the thread's.
    """

    name: str
    owner: str
    writes: str
    stops: str
    each: str = ""

    def name_for(self, subject: str = "") -> str:
        return f"{self.name} {subject}" if subject else self.name


class Worker:
    """A thread that calls `step` again and again until `stop`. Thread-safe."""

    def __init__(
        self,
        spec: ThreadSpec,
        step: Callable[[], float],
        subject: str = "",
        *,
        breath_seconds: float = 0.0,
        longest_pause_seconds: float = LONGEST_PAUSE_SECONDS,
        drains: bool = False,
    ) -> None:
        """`step` returns the seconds until it is due again, or DONE.

        `breath_seconds` pass between two steps, however often `wake` is called. With `drains`, steps go on after `stop`
        until one returns DONE, or the second one in a row fails.
        """
        self.name = spec.name_for(subject)
        self._step, self._breath, self._longest_pause, self._drains = (
            step,
            breath_seconds,
            longest_pause_seconds,
            drains,
        )
        self._stopping, self._woken = threading.Event(), threading.Event()
        self._faults, self._fault = 0, ""  # in a row; the last one, as logged
        self._thread = threading.Thread(target=self._run, name=self.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """Have the next step soon. Cheap."""
        self._woken.set()

    def stop(self, seconds: float | None = 10.0) -> bool:
        """Let no step begin, and wait `seconds` (None: as long as it takes) for the thread. Has it ended?"""
        self._stopping.set()
        self._woken.set()
        if self._thread.is_alive():
            self._thread.join(seconds)
        return not self._thread.is_alive()

    @property
    def is_stopping(self) -> bool:
        """Has `stop` been called? For steps that take long."""
        return self._stopping.is_set()

    def pause(self, seconds: float) -> bool:
        """Wait inside a step. Returns True when the worker is to stop."""
        return self._stopping.wait(seconds)

    def _run(self) -> None:
        while self._drains or not self._stopping.is_set():
            self._woken.clear()
            try:
                wait = self._step()
            except Exception as error:  # noqa: BLE001 - the thread must outlive a fault of ours, and say so
                if not self._note_fault(error):
                    return
                continue
            if self._faults:
                log.info("%s works again after %d faults", self.name, self._faults)
                self._faults, self._fault = 0, ""
            if wait == DONE:
                return
            if self._breath:
                self._stopping.wait(self._breath)
            if wait > self._breath and not self._stopping.is_set():
                self._woken.wait(wait - self._breath)

    def _note_fault(self, error: Exception) -> bool:
        """Log a fault and pause. Returns whether there is to be another step."""
        self._faults += 1
        fault = str(error) if isinstance(error, EdgeError | OSError) else place_of(error)
        if fault != self._fault:
            log.error("%s: %s", self.name, fault)
        self._fault = fault
        self._stopping.wait(backoff(self._faults, FIRST_PAUSE_SECONDS, self._longest_pause, random.random()))
        return not self._stopping.is_set() or (self._drains and self._faults < 2)
