"""`Transcoder`: conversions in worker processes, for the daemon's threads."""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path
from queue import LifoQueue
from typing import Any

from edge import hindrance
from edge.errors import TransformError, Transient
from edge.transform.syntaxes import MIB, Converted, possible


class Transcoder:
    """`transcode` in worker processes: for many threads, which wait for their turn and for the answer.

    A worker starts with the first object, stops after `idle` seconds without one, and is replaced when it crashed, took
    longer than `timeout` seconds for an object, or has converted many. It dies with this process, even by SIGKILL.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        timeout: float = 300.0,
        idle: float = 60.0,
        memory: int = 4096 * MIB,  # address space of a worker, in bytes
        largest: int = 1024 * MIB,  # decoded or inflated, in bytes
    ) -> None:
        self._largest = largest
        self._workers = [_Worker(timeout, idle, memory) for _ in range(workers)]
        self._free: LifoQueue[_Worker] = LifoQueue()
        for worker in self._workers:
            self._free.put(worker)

    def convert(
        self, source: Path, dataset_offset: int, source_syntax: str, target_syntax: str, target: Path
    ) -> Converted:
        """As `transcode`. Raises TransformError also when the worker crashes, hangs or runs out of memory;
        FileNotFoundError without `source`; Hindered or another Transient when the disk fails, and after `close`."""
        if reason := possible(source_syntax, target_syntax):
            raise TransformError(reason)
        request = {
            "source": str(source.absolute()),
            "dataset_offset": dataset_offset,
            "source_syntax": source_syntax,
            "target_syntax": target_syntax,
            "target": str(target.absolute()),
            "largest": self._largest,
        }
        worker = self._free.get()
        try:
            answer = worker.ask(request)
        except BaseException:
            target.unlink(missing_ok=True)  # what a lost worker left
            raise
        finally:
            self._free.put(worker)
        return _result(answer, source, target)

    def close(self) -> None:
        """Stop the workers; whoever waits for one gets a Transient error. There is no way back."""
        for worker in self._workers:
            worker.close()


class _Worker:
    """One worker process and the pipes to it."""

    _ENOUGH = 500  # objects; then a fresh one, for what codecs leak

    def __init__(self, timeout: float, idle: float, memory: int) -> None:
        self._timeout, self._idle, self._memory = timeout, idle, memory
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._lifeline = -1
        self._served = 0
        self._retire: threading.Timer | None = None
        self._closed = False

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._lock:
            if self._retire:
                self._retire.cancel()
            try:
                line = self._exchange(json.dumps(request).encode() + b"\n")
            except BaseException:
                self._stop()
                raise
            self._served += 1
            answer: dict[str, Any] = json.loads(line)
            if self._served >= self._ENOUGH or "exhausted" in answer:
                self._stop()
            else:
                self._retire = threading.Timer(self._idle, self._rest)
                self._retire.daemon = True
                self._retire.start()
            return answer

    def close(self) -> None:
        self._closed = True
        if process := self._process:
            process.kill()  # wakes `ask`
        self._rest()

    def _rest(self) -> None:
        with self._lock:
            self._stop()

    def _exchange(self, line: bytes) -> bytes:
        process = self._running()
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):  # it is gone: no answer comes either
            process.stdin.write(line)
        waiting = select.poll()
        waiting.register(process.stdout, select.POLLIN)
        if not waiting.poll(self._timeout * 1000):
            raise TransformError(f"cannot convert: it takes longer than {self._timeout:g} s")
        if answer := process.stdout.readline():
            return answer
        if self._closed:
            raise Transient("the conversion has been stopped")
        raise TransformError(f"cannot convert: the converter crashed ({_ending(process.wait())})")

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process and self._process.poll() is not None:
            self._stop()
        if not self._process and not self._closed:
            self._start()
        if not self._process or self._closed:  # perhaps just now
            raise Transient("conversions have stopped")
        return self._process

    def _start(self) -> None:
        theirs, lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "edge.transform.worker", str(theirs), str(self._memory)],
                cwd=Path(__file__).resolve().parents[2],  # where `-m` finds the package
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"},
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # libraries print values there
                pass_fds=(theirs,),
                start_new_session=True,  # signals to our process group are not for it
            )
        except BaseException:
            os.close(lifeline)
            raise
        finally:
            os.close(theirs)
        self._lifeline = lifeline

    def _stop(self) -> None:
        if self._retire:
            self._retire.cancel()
        if process := self._process:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe
                pipe.close()
            os.close(self._lifeline)
        self._process, self._served = None, 0


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _result(answer: dict[str, Any], source: Path, target: Path) -> Converted:
    if "size" in answer:
        return Converted(target, answer["dataset_offset"], answer["size"])
    if "refused" in answer:
        raise TransformError(answer["refused"])
    number, about = answer["errno"], answer["about"]
    if number == errno.ENOENT and about == str(source.absolute()):
        raise FileNotFoundError(number, os.strerror(number), str(source))
    cause = hindrance.cause_of_errno(number)
    if hindrance.verdict_of(cause) is not hindrance.Verdict.BROKEN:
        raise hindrance.error_for(cause, "an object cannot be converted now")
    raise Transient(f"cannot convert now: {os.strerror(number)}")
