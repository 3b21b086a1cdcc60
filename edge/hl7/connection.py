"""One connection of a feed: what it may take, whose it is, and what it is in the middle of."""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import ip_network

from edge.config.sections import Feed
from edge.hl7.framing import FrameReader
from edge.network import tls
from edge.network.shares import parse_address

#: Bytes that are received at once.
RECEIVE_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """What callers may take, in bytes and seconds."""

    frame_bytes: int = 32 << 20
    all_bytes: int = 96 << 20  # of frames that have begun, over all connections
    connections: int = 2000
    feed_connections: int = 1200
    outside_bytes: int = 4096
    outside_seconds: float = 10.0
    frame_seconds: float = 30.0  # for a whole frame; and one more for each RECEIVE_BYTES
    fs_seconds: float = 1.0  # of silence behind FS
    handshake_seconds: float = 15.0
    answer_seconds: float = 30.0
    answer_bytes: int = 1 << 20  # that are not read yet; then no more is received


USUAL_LIMITS = DoorLimits()


@dataclass(slots=True, eq=False)
class Connection:
    """One connection of a feed."""

    sock: socket.socket
    address: str
    feed: Feed
    reader: FrameReader
    is_tls: bool
    shakes_hands: bool
    deadline: float | None = None  # of what it is in the middle of
    late: str = ""  # what it has not done by then
    begun: float = 0.0  # when the frame that it is in the middle of began, by the monotonic clock
    is_junk_noted: bool = False
    note_due: float = 0.0  # when it is noted again that it is in use, by the monotonic clock
    frames: deque[bytes] = field(default_factory=deque)  # whole, and not recorded yet
    answers: bytearray = field(default_factory=bytearray)
    fd: int = field(init=False)
    watched: int = 0  # events
    advance: Callable[[int], None] = field(default=lambda _events: None)

    def __post_init__(self) -> None:
        self.fd = self.sock.fileno()


def find_feed(feeds: dict[str, Feed], address: str) -> Feed | None:
    """The feed whose hosts name an address; an address of its own goes before a network."""
    found = parse_address(address)
    if found is None:
        return None
    fitting = [
        (ip_network(host).prefixlen, name)
        for name, feed in feeds.items()
        for host in feed.hosts
        if found in ip_network(host)
    ]
    return feeds[max(fitting)[1]] if fitting else None


def certificate_fault(each: Connection) -> str:
    """Why the certificate of a caller is not that of its feed; empty where it is, or the feed names none."""
    pattern = each.feed.certificate
    if not pattern:
        return ""
    shown = tls.certificate_of(each.sock)
    if shown is not None and shown.fits(pattern):
        return ""
    return f"its certificate ({shown}) is not the one that feed {each.feed.name} names"


def keep_alive(sock: socket.socket) -> None:
    """An idle connection stays open for days; one whose other end is gone ends within minutes."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 15), (socket.TCP_KEEPCNT, 4)):
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
