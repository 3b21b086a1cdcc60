"""Named workers that are replaced when their configuration changes. Nobody waits for a peer here but at the very end.

Promise: `want` returns at once. What has changed or gone is stopped by a thread of its own, and only then is its
successor started, made of the newest wish: there are never two of one name. `close` waits for all, each within the
bound of its own `stop`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from edge.errors import EdgeError

log = logging.getLogger(__name__)


class Runner(Protocol):
    """Something with threads of its own. `stop` may wait for a peer, within a bound."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


R = TypeVar("R", bound=Runner)


@dataclass(frozen=True, slots=True)
class Wish(Generic[R]):
    """What shall run under a name: made again when `made_of` is no longer equal."""

    made_of: object
    make: Callable[[], R]


class Roster(Generic[R]):
    """See the module's promise. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._wanted: Mapping[str, Wish[R]] = {}
        self._running: dict[str, tuple[object, R]] = {}
        self._ending: dict[str, threading.Thread] = {}
        self._closed = False

    def want(self, wanted: Mapping[str, Wish[R]]) -> None:
        """Have exactly these run. What `make` or `start` raises reaches the caller, unless a predecessor ends first."""
        with self._lock:
            self._wanted = dict(wanted)
            for name, (made_of, _) in list(self._running.items()):
                if name not in wanted or wanted[name].made_of != made_of:
                    self._end(name)
            for name in wanted:
                if name not in self._running and name not in self._ending:
                    self._begin(name)

    def get(self, name: str) -> R | None:
        """The one that runs under a name now."""
        found = self._running.get(name)
        return found[1] if found else None

    def all(self) -> dict[str, R]:
        """All that run now."""
        with self._lock:
            return {name: runner for name, (_, runner) in self._running.items()}

    def close(self) -> None:
        """Stop all, side by side, and wait for them."""
        with self._lock:
            self._closed = True
            for name in list(self._running):
                self._end(name)
            threads = list(self._ending.values())
        for thread in threads:
            thread.join()

    def _begin(self, name: str) -> None:
        wish = self._wanted[name]
        runner = wish.make()
        self._running[name] = (wish.made_of, runner)
        runner.start()

    def _end(self, name: str) -> None:
        _, runner = self._running.pop(name)
        thread = threading.Thread(target=self._replace, args=(name, runner), name=f"end {name}", daemon=True)
        self._ending[name] = thread
        thread.start()

    def _replace(self, name: str, runner: R) -> None:
        try:
            runner.stop()
        finally:
            with self._lock:
                del self._ending[name]
                if name in self._wanted and not self._closed:
                    try:
                        self._begin(name)
                    except EdgeError as error:
                        log.error("%s could not be started with its new configuration: %s", name, error)


def run_side_by_side(work: Iterable[Callable[[], None]]) -> None:
    """Run all at once, each in a thread of its own, and wait for them."""
    threads = [threading.Thread(target=each, name="stop") for each in work]
    started = []
    for thread in threads:
        try:
            thread.start()
            started.append(thread)
        except RuntimeError:  # the system gives no more threads
            thread.run()
    for thread in started:
        thread.join()
