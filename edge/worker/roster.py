"""Named workers that are replaced when their configuration changes. Nobody waits for a peer here but at the very end.

Promise: `want` returns at once. What has changed or gone is stopped by a thread of its own, and only then is its
successor started, made of the newest wish: there are never two of one name. What cannot be started is logged, once, and
`start_missing` tries it again. `close` waits for all, each within the bound of its own `stop`.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from edge.errors import Cause, EdgeError, hindrance, place_of

log = logging.getLogger(__name__)


class Runner(Protocol):
    """Something with threads of its own. `stop` may wait for a peer, within a bound."""

    def start(self) -> None: ...

    def stop(self) -> None: ...


R = TypeVar("R", bound=Runner)
#: What one is made of that has started in part.
_HALF_STARTED = object()


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
        self._faults: dict[str, str] = {}  # why one is not as it is wanted, as logged
        self._closed = False

    def want(self, wanted: Mapping[str, Wish[R]]) -> None:
        """Have exactly these run."""
        with self._lock:
            self._wanted = dict(wanted)
            self._faults.clear()
            self._bring_about()

    def start_missing(self) -> None:
        """Try again what could not be started. Cheap where all run; to be called now and then."""
        with self._lock:
            if not self._closed:
                self._bring_about()

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
            stops = [runner.stop for _, runner in self._running.values()]
            self._running.clear()
            threads = list(self._ending.values())
        run_side_by_side(stops)
        for thread in threads:
            thread.join()

    def _bring_about(self) -> None:
        """End what is not wanted as it is; start what is wanted and not there, unless a predecessor ends first."""
        for name in [*self._running]:
            wish = self._wanted.get(name)
            if wish is None or wish.made_of != self._running[name][0]:
                self._end(name)
        for name in self._wanted:
            if name not in self._running and name not in self._ending:
                self._begin(name)

    def _begin(self, name: str) -> None:
        try:
            self._start(name, self._wanted[name])
        except Exception as error:  # noqa: BLE001 - it must stop no other, and may have passed the next time
            why = str(error) if isinstance(error, EdgeError | OSError) else place_of(error)
            self._note(name, f"cannot be started, and is tried again: {why}")
        else:
            if self._faults.pop(name, None) is not None:
                log.info("%s has been started", name)

    def _start(self, name: str, wish: Wish[R]) -> None:
        runner = wish.make()
        # A part of it may start. Where the rest does not, the next try ends it, as one that is not wanted so.
        self._running[name] = (_HALF_STARTED, runner)
        runner.start()
        self._running[name] = (wish.made_of, runner)

    def _end(self, name: str) -> None:
        """Have one stopped and replaced. Where the system gives no thread for that, it goes on until the next try."""
        _, runner = self._running[name]
        thread = threading.Thread(target=self._replace, args=(name, runner), name=f"end {name}", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._note(name, f"goes on as it was: the gateway is {hindrance.words_of(Cause.THREADS)}")
            return
        del self._running[name]
        self._ending[name] = thread

    def _note(self, name: str, fault: str) -> None:
        """Log a fault once, however often it is met."""
        if self._faults.get(name) != fault:
            log.error("%s %s", name, fault)
        self._faults[name] = fault

    def _replace(self, name: str, runner: R) -> None:
        try:
            runner.stop()
        finally:
            with self._lock:
                del self._ending[name]
                if name in self._wanted and not self._closed:
                    self._begin(name)


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
