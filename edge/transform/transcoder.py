"""`Transcoder`: conversions in worker processes, for the daemon's threads."""

from __future__ import annotations

import errno
import json
import logging
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, LifoQueue
from tempfile import TemporaryFile
from typing import Any

from edge.errors import EdgeError, TransformError, Transient, hindrance
from edge.text import MIB
from edge.transform.syntaxes import DEFLATED_EXPLICIT, EXPLICIT_LITTLE, Converted, decodes_frames, possible
from edge.transform.view import AS_IT_IS, RenderedFrame, View

log = logging.getLogger(__name__)

#: What a worker runs: isolated from the environment, with the import path of this process.
BOOT = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from edge.transform.worker import serve; serve({})"
#: A worker keeps some of the memory that a frame took, for the next: each page that is new costs CPU. mallopt(3).
_MALLOC = {"MALLOC_TRIM_THRESHOLD_": str(64 * MIB), "MALLOC_MMAP_THRESHOLD_": str(32 * MIB)}
#: A converted object is at most this many times as large as its source and what was decoded of it.
_GROWTH = 4
#: Seconds that a worker has to start.
_START = 60.0
#: So often an object is tried whose worker was killed: memory ends for other reasons, too, and a worker goes first.
_KILLS = 3
#: The largest answer in bytes, and the longest reason in characters that is taken from a worker.
_ANSWER, _REASON = 65_536, 500


class Transcoder:
    """Conversions in worker processes: for many threads, which wait for their turn and for the answer.

    A worker starts with the first object, stops after `idle` seconds without one, and is replaced when it crashed, took
    longer than `timeout` seconds for an object, or has converted many. It dies with this process, even by SIGKILL.
    A worker gets the descriptors of the files and nothing else (edge.transform.sandbox); its answers are not trusted.
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
        self._killed: Counter[Path] = Counter()  # workers, by the source that they converted
        self._workers = [_Converter(timeout, idle, memory) for _ in range(workers)]
        self._free: LifoQueue[_Converter] = LifoQueue()
        for worker in self._workers:
            self._free.put(worker)

    def convert(
        self, source: Path, dataset_offset: int, source_syntax: str, target_syntax: str, target: Path
    ) -> Converted:
        """Write the object in Part 10 file `source` to the new file `target` (mode 0600) in another transfer syntax.

        Raises TransformError where the object cannot be converted, also when the worker crashes, hangs or runs out of
        memory, or was killed three times with the same `source`; FileNotFoundError without `source`; Hindered or
        another Transient when the disk fails or no worker starts, and after `close`. No `target` is left then.
        """
        if reason := possible(source_syntax, target_syntax):
            raise TransformError(reason)
        request = {
            "dataset_offset": dataset_offset,
            "source_syntax": source_syntax,
            "target_syntax": target_syntax,
            "largest": self._largest,
        }
        with _open_files(source, target, source_syntax == DEFLATED_EXPLICIT) as descriptors:
            most = _GROWTH * (os.fstat(descriptors[0]).st_size + self._largest)
            codecs = decodes_frames(source_syntax, target_syntax)
            answer = self._ask(source, _Conversion(json.dumps(request).encode(), descriptors, codecs, most))
            return _check_answer(answer, target, os.fstat(descriptors[1]).st_size)

    def render(self, source: Path, dataset_offset: int, syntax: str, view: View = AS_IT_IS) -> RenderedFrame:
        """Draw one frame of the object in Part 10 file `source`.

        Raises what `convert` raises: TransformError also where the object has no image.
        """
        form = "jpeg" if view.is_jpeg else "png"
        with self._ask_frame(source, dataset_offset, syntax, {"form": form, **view.as_request()}) as (answer, target):
            return _check_frame(answer, target)

    def recode_frame(
        self, source: Path, dataset_offset: int, syntax: str, frame: int, target_syntax: str = EXPLICIT_LITTLE
    ) -> bytes:
        """One frame as another transfer syntax has it, without (further) loss; the first is 1. Raises as `render`."""
        asked = {"form": "values", "frame": frame, "target_syntax": target_syntax}
        with self._ask_frame(source, dataset_offset, syntax, asked) as (answer, target):
            return _read_checked(answer, target, self._largest)

    @contextmanager
    def _ask_frame(
        self, source: Path, dataset_offset: int, syntax: str, asked: dict[str, Any]
    ) -> Iterator[tuple[dict[str, Any], int]]:
        """The worker's answer, and the open file in which it has put the frame."""
        request = {"dataset_offset": dataset_offset, "source_syntax": syntax, "largest": self._largest, **asked}
        with ExitStack() as stack:
            with _disk(source):
                descriptors = [stack.enter_context(open(source, "rb", buffering=0)).fileno()]
            descriptors.append(os.memfd_create("frame", os.MFD_CLOEXEC))
            stack.callback(os.close, descriptors[1])
            if syntax == DEFLATED_EXPLICIT:
                descriptors.append(os.memfd_create("inflated", os.MFD_CLOEXEC))
                stack.callback(os.close, descriptors[2])
            order = _Conversion(json.dumps(request).encode(), descriptors, True, self._largest)
            yield self._ask(source, order), descriptors[1]

    def warm(self) -> None:
        """Start a worker where none runs, so that the next frame does not wait for it. Waits until it runs."""
        with suppress(Empty, Transient):
            worker = self._free.get_nowait()
            try:
                worker.warm()
            finally:
                self._free.put(worker)

    def _ask(self, source: Path, order: _Conversion) -> dict[str, Any]:
        worker = self._free.get()
        try:
            answer = worker.ask(order)
        except _ConverterKilled as error:
            self._killed[source] += 1
            if self._killed[source] < _KILLS:
                raise
            del self._killed[source]
            raise TransformError(f"cannot convert: {_KILLS} converters were killed while they converted it") from error
        finally:
            self._free.put(worker)
        self._killed.pop(source, None)
        return answer

    def close(self) -> None:
        """Stop the workers for good; a caller that waits for one gets a Transient error."""
        for worker in self._workers:
            worker.close()


@dataclass(frozen=True, slots=True)
class _Conversion:
    """One object for a worker."""

    request: bytes  # edge.transform.recode.ConversionRequest, in JSON
    descriptors: list[int]  # edge.transform.recode.Descriptors, in order
    codecs: bool  # whether it needs them
    most: int  # bytes that may be written to a file


class _ConverterKilled(Transient):
    """Somebody else killed the worker, such as the kernel when memory ended."""


class _Converter:
    """One worker process and the socket to it."""

    _ENOUGH = 500  # objects; then a fresh one, for what codecs leak

    def __init__(self, timeout: float, idle: float, memory: int) -> None:
        self._timeout, self._idle, self._memory = timeout, idle, memory
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: socket.socket | None = None
        self._lifeline = -1
        self._codecs = False
        self._served = 0
        self._retire: threading.Timer | None = None
        self._rests_at = 0.0
        self._closed = False

    def ask(self, order: _Conversion) -> dict[str, Any]:
        with self._lock:
            try:
                answer = self._exchange(order)
            except BaseException:
                self._stop()
                raise
            self._served += 1
            if self._served >= self._ENOUGH or "exhausted" in answer:
                self._stop()
            else:
                self._rest_later()
            return answer

    def warm(self) -> None:
        with self._lock:
            self._running(codecs=True)
            self._rest_later()

    def _rest_later(self) -> None:
        """Stop after `idle` seconds without work; the timer, which is a thread, goes on while objects come."""
        self._rests_at = time.monotonic() + self._idle
        if not self._retire:
            self._start_timer(self._idle)

    def _start_timer(self, seconds: float) -> None:
        self._retire = threading.Timer(seconds, self._rest_if_idle)
        self._retire.name, self._retire.daemon = "converter idle", True
        try:
            self._retire.start()
        except RuntimeError:
            self._stop()  # no thread is to be had that would end it later

    def _rest_if_idle(self) -> None:
        with self._lock:
            if self._retire is not threading.current_thread():
                return  # cancelled as it went off
            if (left := self._rests_at - time.monotonic()) > 0:
                self._start_timer(left)
            else:
                self._stop()

    def close(self) -> None:
        self._closed = True
        if process := self._process:
            process.kill()  # wakes `ask`
        with self._lock:
            self._stop()

    def _exchange(self, order: _Conversion) -> dict[str, Any]:
        process, channel = self._running(order.codecs)
        with suppress(ProcessLookupError):  # it is gone: no answer comes either
            hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)[1]
            most = order.most if hard == resource.RLIM_INFINITY else min(order.most, hard)
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (most, hard))
        with suppress(BrokenPipeError, ConnectionResetError):
            socket.send_fds(channel, [order.request], order.descriptors)
        if (line := self._receive(self._timeout)) is None:
            raise TransformError(f"cannot convert: it takes longer than {self._timeout:g} s")
        if line:
            return _parse_answer(line)
        if self._closed:
            raise Transient("the conversion has been stopped")
        if (status := process.wait()) == -signal.SIGKILL:
            raise _ConverterKilled("the converter was killed, as it is when memory ends")
        raise TransformError(f"cannot convert: the converter crashed ({_ending(status)})")

    def _receive(self, seconds: float) -> bytes | None:
        """Receive the worker's answer: empty when the worker has ended, None after `seconds` of silence."""
        assert self._channel is not None
        waiting = select.poll()
        waiting.register(self._channel, select.POLLIN)
        if not waiting.poll(seconds * 1000):
            return None
        with suppress(ConnectionResetError):
            return self._channel.recv(_ANSWER)
        return b""

    def _running(self, codecs: bool) -> tuple[subprocess.Popen[bytes], socket.socket]:
        if self._process and (self._process.poll() is not None or (codecs and not self._codecs)):
            self._stop()
        if not self._process and not self._closed:
            try:
                self._start(codecs)
            except OSError as error:
                raise Transient(f"the converter cannot start: {error.strerror}") from error
            self._await_start()
        if not self._process or not self._channel or self._closed:  # perhaps just now
            raise Transient("conversions have stopped")
        return self._process, self._channel

    def _start(self, codecs: bool) -> None:
        with ExitStack() as stack:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            stack.callback(theirs.close)
            failed = stack.enter_context(ExitStack())
            failed.callback(ours.close)
            lifeline, end = os.pipe()
            stack.callback(os.close, lifeline)
            failed.callback(os.close, end)
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-I",
                    "-c",
                    BOOT.format(f"{lifeline}, {self._memory}, {codecs}"),
                    json.dumps([os.path.abspath(each) for each in sys.path]),
                ],
                cwd="/",
                env=_MALLOC,
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,  # libraries print values there
                stderr=subprocess.DEVNULL,
                pass_fds=(lifeline,),
                start_new_session=True,  # signals to our process group are not for it
            )
            failed.pop_all()
            self._channel, self._lifeline, self._codecs = ours, end, codecs

    def _await_start(self) -> None:
        """Wait until the worker is in its sandbox; log which walls this kernel does not offer."""
        line = self._receive(_START)
        if not line:
            reason = "it is silent" if line is None or not self._process else _ending(self._process.wait())
            raise Transient(f"the converter cannot start ({reason})")
        for wall in _parse_answer(line).get("missing", ()):
            log.warning("conversions run without %s: the kernel does not offer it here", wall)

    def _stop(self) -> None:
        if self._retire:
            self._retire.cancel()
            self._retire = None
        if process := self._process:
            process.kill()
            process.wait()
            if self._channel:
                self._channel.close()
            os.close(self._lifeline)
        self._process, self._channel, self._served = None, None, 0


@contextmanager
def _open_files(source: Path, target: Path, scratch: bool) -> Iterator[list[int]]:
    """The descriptors of a conversion: the source, the new target and, if asked for, an unnamed file beside it."""
    with ExitStack() as stack:
        with _disk(source):
            descriptors = [stack.enter_context(open(source, "rb", buffering=0)).fileno()]
            descriptors.append(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        stack.callback(os.close, descriptors[1])
        try:
            if scratch:
                with _disk(source):
                    descriptors.append(stack.enter_context(TemporaryFile(buffering=0, dir=target.parent)).fileno())
            yield descriptors
        except BaseException:
            target.unlink(missing_ok=True)
            raise


@contextmanager
def _disk(source: Path) -> Iterator[None]:
    """A fault of the disk as one of ours, but for a source that is not there."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOENT and error.filename == str(source):
            raise
        raise _disk_fault(error.errno or errno.EIO) from error


def _disk_fault(number: int) -> EdgeError:
    cause = hindrance.cause_of_errno(number)
    if hindrance.classify_cause(cause) is not hindrance.CauseClass.BROKEN:
        return hindrance.error_for(cause, "an object cannot be converted now")
    return Transient(f"cannot convert now: {os.strerror(number)}")


def _ending(status: int) -> str:
    return signal.Signals(-status).name if status < 0 else f"exit status {status}"


def _parse_answer(line: bytes) -> dict[str, Any]:
    """Parse a worker's answer; hostile input may have taken over the worker."""
    with suppress(ValueError, RecursionError):
        if isinstance(answer := json.loads(line), dict):
            return answer
    raise TransformError("cannot convert: the converter's answer makes no sense")


def _check_answer(answer: dict[str, Any], target: Path, size: int) -> Converted:
    """Check the answer against `size`, the bytes of the target, and return the result."""
    match answer:
        case {"dataset_offset": int(offset), "size": int(said)} if said == size and 0 <= offset <= size:
            return Converted(target, offset, size)
        case {"refused": str(reason)}:
            raise TransformError("".join(each if each.isprintable() else "?" for each in reason[:_REASON]))
        case {"errno": int(number)} if number in errno.errorcode:
            raise _disk_fault(number)
        case _:
            raise TransformError("cannot convert: the converter's answer makes no sense")


#: The largest picture in bytes.
_PICTURE = 64 * MIB
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0")


def _check_frame(answer: dict[str, Any], target: int) -> RenderedFrame:
    """Check the answer about a frame, and return the picture."""
    data = _read_checked(answer, target, _PICTURE)
    with suppress(TypeError):
        found = RenderedFrame(data, **answer)
        kinds = {"frames": int, "rows": int, "columns": int, "is_colour": bool}
        if found.data.startswith(_SIGNATURES) and all(
            isinstance(answer[each], kinds.get(each, (int, float))) for each in answer
        ):
            return found
    raise TransformError("cannot convert: the converter's answer makes no sense")


def _read_checked(answer: dict[str, Any], target: int, most: int) -> bytes:
    """What the worker has written, where its answer says so; raises what the answer says."""
    size = os.fstat(target).st_size
    if answer.pop("size", None) != size or not 0 < size <= most:
        _check_answer(answer, Path(), -1)
    return os.pread(target, size, 0)
