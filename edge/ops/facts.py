"""What status, alerts and metrics are made of: frozen values, each true at one moment. No code beyond sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

RUNNING, DOWN, REFUSING = "running", "down", "refusing"


@dataclass(frozen=True, slots=True)
class Link:
    """What the running daemon knows of one destination and the catalog does not."""

    state: str = "up"  # up | down | paused
    rate: float | None = None  # bytes a second while it sends; None: not measured


@dataclass(frozen=True, slots=True)
class Live:
    """What only the running daemon knows; `Live("down")` where none runs."""

    state: str  # starting | running | refusing | draining | down
    reasons: tuple[str, ...] = ()  # why it is not simply running
    uptime_seconds: float = 0.0
    since: float | None = None  # when this state began
    destinations: Mapping[str, Link] = field(default_factory=dict)
    usage: Sequence[tuple[float, int]] = ()  # (time, used bytes of the disk), over hours, oldest first
    unhealthy: str = ""  # why nothing can be written (Database.failure)
    rejected_at: float | None = None  # when a new configuration was found bad, so that an older one is in force
    certificates: Mapping[str, float] = field(default_factory=dict)  # subject -> when it expires
    certificate_trouble: str = ""  # why files of [tls] that have changed are not in force


@dataclass(frozen=True, slots=True)
class Instances:
    """Instances since the catalog began. `received` are those accepted: neither duplicates nor quarantined ones."""

    stored: int = 0
    stored_bytes: int = 0
    evicted: int = 0
    conflicts: int = 0
    lost: int = 0
    quarantined: int = 0

    @property
    def received(self) -> int:
        return self.stored + self.evicted + self.conflicts + self.lost


@dataclass(frozen=True, slots=True)
class Queue:
    """Deliveries that are not yet sent; `bytes` is the size of all four."""

    pending: int = 0
    active: int = 0
    deferred: int = 0
    held: int = 0
    bytes: int = 0
    oldest_seconds: float | None = None  # of what moves by itself: held work waits for a person


@dataclass(frozen=True, slots=True)
class Destination:
    """One destination. An instance that is confirmed is counted as sent too."""

    name: str
    state: str = "up"
    since: float | None = None
    configured: bool = True
    pending: int = 0  # with what is being sent now
    deferred: int = 0
    held: int = 0
    sent: int = 0
    confirmed: int = 0
    last_success: float | None = None
    last_error: str | None = None
    drain_seconds: float | None = 0.0  # 0: nothing waits; None: not known

    @property
    def waiting(self) -> int:
        """What goes by itself when the destination answers."""
        return self.pending + self.deferred


@dataclass(frozen=True, slots=True)
class Storage:
    used_fraction: float
    free_bytes: int
    full_in_seconds: float | None = None  # until storage.refuse; None: not filling, or not known
    above_since: float | None = None  # since when the use is above storage.warn, as far as it was measured


@dataclass(frozen=True, slots=True)
class Held:
    """What waits for a person at one destination ("" where no route matched)."""

    destination: str
    count: int
    since: float
    reason: str  # the most frequent one among the oldest, in our own words


@dataclass(frozen=True, slots=True)
class Trouble:
    """Instances in a state that needs a look: conflict, quarantined or lost."""

    state: str
    count: int
    since: float
    undelivered: bool  # some of them are not yet at every destination


@dataclass(frozen=True, slots=True)
class Stranger:
    """Equipment that no [modality] names, or whose certificate is not the right one."""

    ae_title: str
    address: str
    first_seen: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should know; `text` is one sentence: what, what it means, what to type. No PHI."""

    kind: str
    subject: str
    severity: str  # minor | major | critical
    since: float
    text: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The gateway at the moment `at`."""

    at: float
    site_id: str
    site_name: str
    version: str
    state: str
    since: float | None  # when this state began, where that is known
    reasons: tuple[str, ...]
    uptime_seconds: float
    instances: Instances
    queue: Queue
    destinations: tuple[Destination, ...]
    storage: Storage
    alerts: tuple[Alert, ...]
