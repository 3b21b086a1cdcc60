"""What status, alerts and metrics are made of: frozen values, each true at one moment. No code beyond sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge.hindrance import Hindrance
from edge.model import ReasonCode
from edge.store.quarantine import Unkept

RUNNING, DOWN, REFUSING = "running", "down", "refusing"


@dataclass(frozen=True, slots=True)
class Clock:
    """The system's clock as the kernel knows it. None: not known."""

    synchronized: bool | None = None
    offset_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What the operating system says of the machine."""

    clock: Clock = Clock()
    disk_faults: tuple[str, ...] = ()  # what the kernel or SMART say against the disk of data_dir


@dataclass(frozen=True, slots=True)
class Usual:
    """The rhythm of one modality. `text` for people; empty where too little is known."""

    text: str = ""
    missed_at: float | None = None  # the first moment at which it should have been heard since, and was not


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
    usage: Sequence[tuple[float, float]] = ()  # (time, used bytes of the disk), over hours, oldest first
    unhealthy: str = ""  # why nothing can be written (Database.failure)
    hindrances: tuple[Hindrance, ...] = ()  # what else refuses scanners
    certificates: Mapping[str, float] = field(default_factory=dict)  # subject -> when it expires
    machine: Machine | None = None
    rhythms: Mapping[str, Usual] | None = None  # by AE title; None: to be read
    rejected_at: float | None = None  # when a new configuration was found bad, so that an older one is in force
    unkept: Unkept | None = None  # unreadable objects that did not fit into quarantine
    ledger_broken: str = ""  # how the custody ledger is not what was written
    certificate_trouble: str = ""  # why files of [tls] that have changed are not in force
    clock_leap_seconds: float = 0.0  # the clock went ahead by so much, and nothing vouches for it


@dataclass(frozen=True, slots=True)
class Instances:
    """Instances since the catalog began. `received`: without duplicates and what is in quarantine."""

    stored: int = 0
    stored_bytes: int = 0
    evicted: int = 0
    conflicts: int = 0
    lost: int = 0
    quarantined: int = 0
    discarded: int = 0

    @property
    def received(self) -> int:
        return self.stored + self.evicted + self.conflicts + self.lost + self.discarded


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
    bytes: int = 0  # of what goes by itself
    oldest_seconds: float | None = None  # of the same
    rate: float | None = None  # bytes a second while it is busy, as last measured
    certificate_expires: float | None = None
    proves: bool = False  # it is asked for proof
    confirm_lag_seconds: float | None = None  # age of the oldest sent instance that is not proved
    breaks_proof: Sequence[int] = ()  # the first deliveries with which an exchange that asks for proof breaks

    @property
    def unconfirmed(self) -> int:
        """Sent, and not yet proved."""
        return self.sent - self.confirmed

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
    total_bytes: int = 0
    used_inodes_fraction: float = 0.0


@dataclass(frozen=True, slots=True)
class Keeping:
    """Why what lies here may not go: retention frees nothing of it."""

    image_bytes: int = 0  # of all that the spool holds
    apart_bytes: int = 0  # of that, conflicts, quarantine and what was discarded
    keep_seconds: float = 0.0  # retention.keep
    next_at: float | None = None  # when the oldest that is confirmed everywhere may go; None: there is none
    holds: tuple[str, ...] = ()  # "hold.NAME" of those that keep something
    waiting: Mapping[str, int] = field(default_factory=dict)  # destination -> images not yet sent
    unproved: Mapping[str, int] = field(default_factory=dict)  # destination -> images sent and not proved
    undecided: int = 0  # deliveries that are held


@dataclass(frozen=True, slots=True)
class Held:
    """What waits for a person at one destination ("" where no route matched)."""

    destination: str
    count: int
    since: float
    reason: str  # the most frequent one among the oldest, in our own words
    codes: frozenset[ReasonCode] = frozenset()  # every reason for which something is held


@dataclass(frozen=True, slots=True)
class Deferred:
    """What one destination will be sent again later."""

    destination: str
    count: int
    reason: str  # the most frequent one among the next, in our own words
    next_try: float


@dataclass(frozen=True, slots=True)
class Modality:
    """Equipment that has called: one AE title at one address."""

    name: str  # of its [modality]; empty: none names it
    ae_title: str
    address: str
    first_seen: float
    last_seen: float
    admitted: bool
    stored: int = 0  # objects that it was told success for
    last_stored: float | None = None
    manufacturer: str = ""
    model: str = ""
    contexts: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (abstract syntax, transfer syntaxes) as last proposed
    usual: str = ""
    missed_at: float | None = None  # silent since it should have been heard then


@dataclass(frozen=True, slots=True)
class Downtime:
    """When nobody served the scanners."""

    began: float
    ended: float
    why: str  # stopped | crash | killed | out of memory | power | reboot
    planned: bool
    detail: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


@dataclass(frozen=True, slots=True)
class ChannelBacklog:
    """What one channel has still to take from the outbox."""

    waiting: int
    oldest_seconds: float
    last_error: str
    parked: int = 0  # refused for good: they wait for a person


@dataclass(frozen=True, slots=True)
class Trouble:
    """Instances in a state that needs a look: conflict, quarantined or lost."""

    state: str
    count: int
    since: float
    undelivered: bool  # some of them are not yet at every destination


@dataclass(frozen=True, slots=True)
class Mismatches:
    """Images of another patient than those before in their study, that nobody has decided about."""

    held: int = 0  # images
    held_since: float | None = None
    studies: int = 0  # with such images that are not held for it
    studies_since: float | None = None


@dataclass(frozen=True, slots=True)
class Backfill:
    """How far the headers of what was here before an upgrade are read, in numbers of instances."""

    read: int
    last: int
    unreadable: int = 0
    finished_at: float | None = None


@dataclass(frozen=True, slots=True)
class Stranger:
    """Equipment that no [modality] names, or whose certificate is not the right one."""

    ae_title: str
    address: str
    first_seen: float
    why: str = ""


@dataclass(frozen=True, slots=True)
class Action:
    """One step of an alert's advice.

    In `command` ID stands for what a listing names, ALERT for this alert, DIR for a directory, ... for a reason.
    """

    words: str  # {} stands for the command
    command: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        typed = " ".join('"..."' if part == "..." else part for part in self.command)
        return self.words.replace("{}", f"`{typed}`")


@dataclass(frozen=True, slots=True)
class Alert:
    """Something that a person should know. `what`, `means` and `do` are parts of one sentence. No PHI."""

    kind: str
    subject: str
    severity: str  # minor | major | critical
    since: float
    what: str
    means: str = ""  # for the patients' images
    do: str = ""
    ended: float | None = None  # of an event that is over
    id: int | None = None  # from here on: what is known of it in the catalog
    acknowledged: str = ""  # by whom
    escalated: bool = False
    actions: tuple[Action, ...] = ()  # what `do` is made of

    @property
    def text(self) -> str:
        """One sentence: what, what it means, what to type."""
        return f"{self.what}{'; ' if self.means else ''}{self.means}{': ' if self.do else ''}{self.do}."


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
    modalities: tuple[Modality, ...] = ()
    held: tuple[Held, ...] = ()
    deferred: tuple[Deferred, ...] = ()
    downtimes: tuple[Downtime, ...] = ()  # the latest first
    clock: Clock = Clock()
    hindrances: tuple[Hindrance, ...] = ()  # what refuses scanners
    outbox: Mapping[str, ChannelBacklog] = field(default_factory=dict)
    ledger_seq: int = 0
    ledger_head: str = ""  # the last row's hash, in hexadecimal
    versions: Mapping[str, str] = field(default_factory=dict)
    backfill: Backfill | None = None  # None: there was nothing to read
