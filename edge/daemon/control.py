"""The control socket, by which `edge` commands talk to the running daemon: one JSON line there, one back.

    {"command": "queue-retry", "ids": [7, 8], "who": "anna"}  ->  {"ok": true, "moved": 2}
                                                              or  {"ok": false, "error": "..."}

Only the owner of the data directory can reach it (mode 0600). Who acts is what the kernel says of the caller: whatever
it names as `who` is passed over. Lengths and times are bounded: a caller that says nothing costs a few seconds of one
worker. The name may be longer than the 108 bytes that a socket's address holds: both sides go through a descriptor of
the directory.
"""

from __future__ import annotations

import errno
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edge.daemon import person
from edge.errors import Cause, EdgeError, Transient, hindrance, place_of
from edge.network.sockets import listen_in, socket_address

log = logging.getLogger(__name__)

NAME = "control.sock"
MAX_REQUEST = 64 * 1024
MAX_ANSWER = 16 * 1024 * 1024
#: A caller has this time for its line, and again to take the answer.
CALLER_SECONDS = 5.0
#: The daemon has this time to answer.
ANSWER_SECONDS = 60.0
WORKERS = 4

Handler = Callable[[dict[str, Any]], Mapping[str, Any]]


class DaemonDown(Transient):
    """Nobody listens: the daemon does not run on this data directory."""


class CommandRefused(EdgeError):
    """The daemon answered that it did not do it; the text is its reason."""


# -- the command's side ------------------------------------------------------------------------------------------------


def call(data_dir: Path, command: str, **args: object) -> dict[str, Any]:
    """Ask the daemon and return its answer. Raises DaemonDown, CommandRefused, or EdgeError when it does not answer."""
    request = json.dumps({"command": command, **args}).encode() + b"\n"
    if len(request) > MAX_REQUEST:
        raise EdgeError(f"the request {command} is longer than {MAX_REQUEST} bytes")
    with _connect(data_dir) as sock:
        try:
            sock.sendall(request)
            line = _read_line(sock, MAX_ANSWER, ANSWER_SECONDS)
        except OSError as error:
            raise EdgeError(
                f"the daemon on {data_dir} does not answer ({error.strerror or 'timed out'}); see `journalctl -u edge`"
            ) from None
    return _parse_answer(line)


@contextmanager
def _connect(data_dir: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(CALLER_SECONDS)
        try:
            with socket_address(data_dir, NAME) as address:
                sock.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            raise DaemonDown(f"the gateway does not run on {data_dir}") from None
        except PermissionError:
            raise EdgeError(
                f"not allowed to read {data_dir}: run this as its owner, such as `sudo -u edge edge ...`"
            ) from None
        except OSError as error:
            raise EdgeError(f"the daemon on {data_dir} cannot be reached: {error.strerror or error}") from None
        yield sock


def _parse_answer(line: bytes) -> dict[str, Any]:
    try:
        answer = json.loads(line)
    except ValueError:
        raise EdgeError("the daemon ended in the middle of its answer; see `journalctl -u edge`") from None
    if not answer.get("ok"):
        raise CommandRefused(str(answer.get("error", "no reason given")))
    return dict(answer)


def _read_line(sock: socket.socket, limit: int, seconds: float) -> bytes:
    """One line, or what came before the end. Raises TimeoutError, and OSError when it is too long."""
    deadline = time.monotonic() + seconds
    line = bytearray()
    while not line.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        sock.settimeout(left)
        chunk = sock.recv(65_536)
        if not chunk:
            break
        line += chunk
        if len(line) > limit:
            raise OSError(0, "the line is too long")
    return bytes(line)


# -- the daemon's side -------------------------------------------------------------------------------------------------


class Control:
    """Serves commands until `stop`. Handlers get the request and return the answer's keys; they run in threads.

    An EdgeError of a handler is its refusal, in words.
    """

    def __init__(self, data_dir: Path, handlers: Mapping[str, Handler]) -> None:
        self._data_dir, self._handlers = data_dir, handlers
        self._socket: socket.socket | None = None
        self._workers = ThreadPoolExecutor(WORKERS, thread_name_prefix="control")
        self._thread = threading.Thread(target=self._accept, name="control", daemon=True)

    def start(self) -> None:
        """Listen. A socket that a killed daemon left is replaced; EdgeError where another one answers."""
        if _is_served(self._data_dir):
            raise EdgeError(f"another gateway runs on {self._data_dir}: stop it first")
        self._socket = listen_in(self._data_dir, NAME, 16)
        self._thread.start()

    def stop(self) -> None:
        """Stop listening, and let what is being answered end."""
        if self._socket is None:
            return
        (self._data_dir / NAME).unlink(missing_ok=True)
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes accept()
        self._thread.join()
        self._socket.close()
        self._socket = None
        self._workers.shutdown()

    def _accept(self) -> None:
        assert self._socket is not None
        while True:
            try:
                sock, _ = self._socket.accept()
            except OSError as error:
                if error.errno == errno.EINVAL:
                    return  # stop() has shut it down
                log.warning("no command can be taken: %s", error.strerror)  # no descriptors left: others need time
                time.sleep(0.5)
                continue
            if hindrance.submit(self._workers, self._serve, sock) is None:
                log.warning("a command is not answered: the gateway is %s", hindrance.words_of(Cause.THREADS))
                sock.close()

    def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                answer = self._answer(_read_line(sock, MAX_REQUEST, CALLER_SECONDS), person.socket_user(sock))
                sock.settimeout(CALLER_SECONDS)
                sock.sendall(json.dumps(answer).encode() + b"\n")
            except OSError as error:
                log.info("a command went away: %s", error.strerror or "timed out")

    def _answer(self, line: bytes, who: str) -> dict[str, Any]:
        try:
            request = json.loads(line)
            handler = self._handlers[request["command"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            return {"ok": False, "error": "unknown command: is the daemon of the same version as `edge`? restart it"}
        try:
            return {"ok": True, **handler({**request, "who": who})}
        except EdgeError as error:
            return {"ok": False, "error": str(error)}
        except Exception as error:  # noqa: BLE001 - a command must not end the daemon: it is answered and logged
            log.error("command %s failed: %s", request["command"], place_of(error))
            return {"ok": False, "error": f"internal error ({type(error).__name__}); see the log of the daemon"}


def _is_served(data_dir: Path) -> bool:
    try:
        with _connect(data_dir):
            return True
    except DaemonDown:
        return False
