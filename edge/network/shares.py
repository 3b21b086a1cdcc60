"""Limits on what outsiders may take, each and together, for every door, table and channel that they can fill.

A caller is an IPv4 address or the /64 of an IPv6 address: who has one address of such a network has all of them. What
callers hold for a while (connections, bytes) is counted by `Places`; what they cause in a time (lines, rows, notices)
by `Budget`. Part of what there is may be kept for those who are named. The numbers stand here, all of them; SECURITY.md
has them as a table, with their tests.

Pure but for the counts; a clock is the caller's. Thread-safe.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network


@dataclass(frozen=True, slots=True)
class Share:
    """What one caller may take, and all of them; of the latter, `reserved` is for those who are named."""

    each: int
    all: int
    reserved: int = 0


#: DICOM associations, and connections that have not yet sent their A-ASSOCIATE-RQ.
ASSOCIATIONS = Share(each=128, all=320, reserved=64)
UNASSOCIATED = Share(each=128, all=512)
#: Connections of the console and of the centre. A browser opens up to six.
CONSOLE = Share(each=16, all=64, reserved=16)
CENTRE = Share(each=64, all=1000, reserved=250)
#: Bytes of heartbeats that the centre holds before it knows who has signed them.
BODIES = Share(each=4 << 20, all=64 << 20, reserved=32 << 20)
#: Forms that callers without an account are sending to the console.
FORMS_SENT = Share(each=4, all=16)
#: Of what quarantine may hold ([quarantine] most), the part of one caller; and what one object counts at least.
QUARANTINE_EACH, QUARANTINE_LEAST = 0.1, 64 << 10
#: Refused callers that are noted in MINUTE_SECONDS, and that are kept: rows of the table `peer`, and days. Of those let
#: in that have never stored anything as many rows more.
UNKNOWN_CALLERS = Share(each=20, all=200)
UNKNOWN_KEPT, UNKNOWN_DAYS = 500, 30.0
#: Characters of the presentation contexts that are remembered: of one admitted, and of one refused.
PROPOSED, PROPOSED_REFUSED = 16 << 10, 2 << 10
#: Refusals that are kept apart in MINUTE_SECONDS, those that have a row of their own in the ledger, and rows of a day.
DISTINCT_REFUSALS = Share(each=20, all=60)
REFUSAL_ROWS = Share(each=5, all=10)
REFUSAL_ROWS_OF_DAY = 1_000
#: Lines that callers who have not signed in cause in a log in MINUTE_SECONDS.
LINES = Share(each=5, all=10)
#: Notices that a site sends in HOUR_SECONDS of alerts that outsiders cause (edge.config.alarms).
NOTICES_OF_OUTSIDERS = 20
#: Alerts of that kind, with their notices, that are kept once they are over.
ALERTS_OF_OUTSIDERS = 1_000
#: Incidents that the notices of one site open at the centre in HOUR_SECONDS.
SITE_INCIDENTS = 50
#: Messages that one channel of the centre gets in HOUR_SECONDS about one site, and about all.
CENTRE_MESSAGES = Share(each=20, all=200)

MINUTE_SECONDS, HOUR_SECONDS, DAY_SECONDS = 60.0, 3600.0, 86_400.0


def parse_address(address: str) -> IPv4Address | IPv6Address | None:
    """Parse an address, an IPv4 one also where it is written as IPv6; None where it is none."""
    try:
        found = ip_address(address.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def is_within(address: str, networks: Iterable[str]) -> bool:
    """Check whether an address is in one of the networks."""
    found = parse_address(address)
    return found is not None and any(found in ip_network(network) for network in networks)


def caller_of(address: str) -> str:
    """Identify a caller: an IPv4 address, or the /64 of an IPv6 address (RFC 4291 section 2.5.4)."""
    found = parse_address(address)
    if isinstance(found, IPv6Address):
        return str(ip_network((int(found), 64), strict=False))
    return address if found is None else str(found)


def is_local_caller(address: str) -> bool:
    """Check whether an address is of this machine."""
    found = parse_address(address)
    return found is not None and found.is_loopback


class Full(Enum):
    """Which limit is met."""

    EACH = "of one caller"
    ALL = "of all callers"


def limit_met(share: Share, held: int, total: int, count: int, kept: float) -> Full | None:
    """Find the limit that a caller meets that holds `held` of `total` and wants `count` more; None: it may have them.

    `kept`: how much of the reserve it must leave to others: 1.0 all, 0.0 nothing, for those who are named. They may
    hold as much as all others together.
    """
    if held + count > (share.each if kept else share.all - share.reserved):
        return Full.EACH
    return Full.ALL if total + count > share.all - kept * share.reserved else None


class Places:
    """What callers hold now."""

    def __init__(self, share: Share) -> None:
        self.share = share
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def total(self) -> int:
        return self._held.total()

    def count_of(self, caller: str) -> int:
        return self._held[caller]

    def take(self, caller: str, count: int = 1, *, kept: float = 1.0) -> Full | None:
        """Take `count`, or return the limit that is met."""
        with self._lock:
            full = limit_met(self.share, self._held[caller], self._held.total(), count, kept)
            if full is None:
                self._held[caller] += count
            return full

    def add(self, caller: str, count: int = 1) -> None:
        """Take `count` without a check: others have just been ended for it."""
        with self._lock:
            self._held[caller] += count

    def give_back(self, caller: str, count: int = 1) -> None:
        with self._lock:
            self._held[caller] -= count
            if self._held[caller] <= 0:
                del self._held[caller]

    def largest_holder(self) -> str:
        """Find the caller that holds the most; empty: none."""
        with self._lock:
            return next((caller for caller, _ in self._held.most_common(1)), "")

    def caller_with_more(self, caller: str) -> str:
        """Find the caller that holds the most, if more than `caller` would hold with one more; empty: none."""
        with self._lock:
            found, most = next(iter(self._held.most_common(1)), ("", 0))
            return found if most > self._held[caller] + 1 else ""


class Budget:
    """A limit per period, for all and for each caller; refused ones are counted until the next is taken."""

    def __init__(self, most: int, seconds: float, each: int | None = None) -> None:
        self._share, self._seconds = Share(most if each is None else each, most), seconds
        self._began, self._left_out = 0.0, 0
        self._taken: Counter[str] = Counter()  # no more callers than may take something
        self._lock = threading.Lock()

    @classmethod
    def create(cls, share: Share) -> Budget:
        """A limit per minute."""
        return cls(share.all, MINUTE_SECONDS, share.each)

    def take(self, now: float, caller: str = "") -> int | None:
        """Take one. Returns how many were refused since the last one that was taken; None: refused."""
        with self._lock:
            if abs(now - self._began) >= self._seconds:
                self._began = now
                self._taken.clear()
            if limit_met(self._share, self._taken[caller], self._taken.total(), 1, 1.0):
                self._left_out += 1
                if not self._taken[caller]:
                    del self._taken[caller]
                return None
            self._taken[caller] += 1
            left_out, self._left_out = self._left_out, 0
            return left_out


class ProvenCallers:
    """Callers that have shown who they are: somebody signed in from there, a site signed a heartbeat."""

    MOST, SECONDS = 5_000, 30 * DAY_SECONDS

    def __init__(self) -> None:
        self._at: OrderedDict[str, float] = OrderedDict()  # the latest at the end
        self._lock = threading.Lock()

    def remember(self, address: str, now: float) -> None:
        caller = caller_of(address)
        with self._lock:
            self._at[caller] = now
            self._at.move_to_end(caller)
            while len(self._at) > self.MOST:
                self._at.popitem(last=False)

    def has(self, address: str, now: float) -> bool:
        at = self._at.get(caller_of(address))
        return at is not None and abs(now - at) < self.SECONDS
