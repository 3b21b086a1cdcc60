"""Starts receiving processes for the daemon, by fork(2): they share the memory of what is loaded.

A process of one thread, forked before the daemon has any other, its catalog, or anything of the configuration: so one
that dies is replaced at any time. It ends when the daemon does, and with it all that it has started.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

_PR_SET_PDEATHSIG = 1  # prctl(2)
MOST_DESCRIPTORS = 16


class ForkServer:
    """The daemon's end. Thread-safe."""

    def __init__(self, *runs: Callable[[Sequence[int]], object]) -> None:
        """Fork it. To be called by the main thread, while it is the only one.

        Each process calls one of `runs`, with the descriptors that it was given.
        """
        self._lock = threading.Lock()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        gc.collect()
        gc.freeze()  # a later collection would write to what is shared, and so copy it
        parent = os.getpid()
        if os.fork() == 0:
            _serve(theirs, parent, runs)
        theirs.close()

    def start(self, descriptors: Sequence[int], which: int = 0) -> int:
        """Start a process, which does `runs[which]`; returns its pid.

        Raises OSError, and EOFError where there is no fork server. Thread-safe.
        """
        with self._lock:
            return self._start(descriptors, which)

    def _start(self, descriptors: Sequence[int], which: int) -> int:
        try:
            socket.send_fds(self._socket, [bytes([which])], descriptors)
            answer = self._socket.recv(256)
        except ConnectionError:
            answer = b""
        if not answer:
            raise EOFError
        found = json.loads(answer)
        if "errno" in found:
            raise OSError(found["errno"], os.strerror(found["errno"]))
        return int(found["pid"])


def _serve(channel: socket.socket, parent: int, runs: Sequence[Callable[[Sequence[int]], object]]) -> NoReturn:
    _set_up_child("edge-fork", parent)
    own = channel.fileno()
    os.closerange(3, own)  # the listening sockets that systemd gives, for one
    os.closerange(own + 1, 1 << 16)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: the daemon sees the end of their sockets
    while True:
        said, descriptors, _, _ = socket.recv_fds(channel, 1, MOST_DESCRIPTORS)
        if not said:
            os._exit(0)
        server = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:
            answer = {"errno": error.errno}
        else:
            if pid == 0:
                channel.close()
                _set_up_child("edge-receiver", server)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # else it never learns how what it starts has ended
                try:
                    runs[said[0]](descriptors)
                except BaseException:  # noqa: BLE001 - it never returns to what the daemon has on its stack
                    sys.excepthook(*sys.exc_info())
                os._exit(1)
            answer = {"pid": pid}
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(json.dumps(answer).encode())


def _set_up_child(name: str, parent: int) -> None:
    """Have a name in the list of processes, and end with the parent, even where that is killed."""
    Path("/proc/self/comm").write_text(name)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # those are for the daemon, which ends us
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it has ended meanwhile
        os._exit(1)
