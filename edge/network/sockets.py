"""Listening sockets: where they are bound, and those that systemd opened for us (sd_listen_fds(3)).

So ports below 1024 need no capability.

The configuration stays the one place that says which port is for what: a socket is known by its port. The variables
are taken out of the environment, so that no child believes they are meant for it.
"""

from __future__ import annotations

import fcntl
import os
import select
import socket
import sys
import termios
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

#: The first descriptor that is handed over.
FIRST = 3


def descriptors(environment: Mapping[str, str], pid: int) -> range:
    """The descriptors meant for the process `pid`; none where another, or nobody, is meant."""
    count = environment.get("LISTEN_FDS", "")
    if environment.get("LISTEN_PID") != str(pid) or not count.isdecimal():
        return range(0)
    return range(FIRST, FIRST + int(count))


def take_inherited() -> dict[int, socket.socket]:
    """Take over our listening sockets, by TCP port. Raises OSError for a descriptor that is none."""
    found = {}
    for number in descriptors(os.environ, os.getpid()):
        os.set_inheritable(number, False)
        listener = socket.socket(fileno=number)
        if not is_listening(listener):
            raise OSError(f"descriptor {number} is not a listening TCP socket")
        found[int(listener.getsockname()[1])] = listener
    for name in ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"):
        os.environ.pop(name, None)
    return found


def is_listening(candidate: socket.socket) -> bool:
    """Check that a socket is TCP and accepts connections."""
    is_tcp = candidate.family in (socket.AF_INET, socket.AF_INET6) and candidate.type == socket.SOCK_STREAM
    return is_tcp and bool(candidate.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))


def wait_readable(*descriptors: int, seconds: float | None = None) -> set[int]:
    """Wait for descriptors that can be read, or have ended; none after this time. Takes any number (poll(2))."""
    poll = select.poll()
    for each in descriptors:
        poll.register(each, select.POLLIN)
    return {fd for fd, _ in poll.poll(None if seconds is None else max(seconds, 0.0) * 1000)}


def wait_writable(descriptor: int, seconds: float) -> bool:
    """Wait until bytes can be written, or the other side has ended. False: not within this time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT)
    return bool(poll.poll(seconds * 1000))


def shut_down(sock: socket.socket, how: int) -> bool:
    """shutdown(2), also from another thread: a wait on the socket ends. False: it has ended by itself.

    Below TLS: SSLSocket.shutdown would forget TLS, and what the socket's owner sends next would go out in clear.
    """
    try:
        socket.socket.shutdown(sock, how)
    except OSError:
        return False
    return True


def unsent_bytes(sock: socket.socket) -> int:
    """Count the bytes that the other side has not acknowledged (SIOCOUTQ, tcp(7))."""
    try:
        queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
    except (OSError, ValueError):
        return 0  # it has ended
    return int.from_bytes(queued, sys.byteorder)


def listen_on(host: str, port: int) -> socket.socket:
    """Listen, on both families where `host` is "::". Raises OSError."""
    family, address = listening_address(host, port)
    return socket.create_server(
        address, family=family, backlog=512, dualstack_ipv6=host == "::" and socket.has_dualstack_ipv6()
    )


@contextmanager
def socket_address(folder: Path, name: str) -> Iterator[str]:
    """A short path to a Unix socket in a folder, valid inside: an address has 107 bytes."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{fd}/{name}"
    finally:
        os.close(fd)


def listen_in(folder: Path, name: str, backlog: int) -> socket.socket:
    """Listen on a Unix socket that its owner alone reaches; another run's is replaced. Raises OSError."""
    sock = socket.socket(socket.AF_UNIX)
    os.fchmod(sock.fileno(), 0o600)  # before bind: the name never exists with another mode (Linux)
    (folder / name).unlink(missing_ok=True)
    with socket_address(folder, name) as address:
        sock.bind(address)
    sock.listen(backlog)
    return sock


def listening_address(host: str, port: int) -> tuple[int, tuple[Any, ...]]:
    """Family and address to bind. A link-local address keeps its interface (RFC 4007 section 11). Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    found = socket.getaddrinfo(host, port, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    return family, found[0][4]
