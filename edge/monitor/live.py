"""Facts that only the running daemon knows: its state, the lines, the machine, and its counts since the start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge.errors.hindrance import Hindrance
from edge.network.answer_times import AnswerTally
from edge.store.quarantine import Unkept

RUNNING, DOWN, REFUSING = "running", "down", "refusing"


@dataclass(frozen=True, slots=True)
class Clock:
    """The system's clock as the kernel knows it. None: not known."""

    synchronized: bool | None = None
    offset_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Machine:
    """What the operating system reports of the machine."""

    clock: Clock = Clock()
    disk_faults: tuple[str, ...] = ()  # what the kernel or SMART report of the disk of data_dir


@dataclass(frozen=True, slots=True)
class Usual:
    """The usual hours of one modality. `text` for people; empty where too little is known."""

    text: str = ""
    missed_at: float | None = None  # the first moment since then at which it should have sent, and did not


@dataclass(frozen=True, slots=True)
class Link:
    """What the running daemon knows of one destination and the catalog does not."""

    state: str = "up"  # up | down | paused
    rate: float | None = None  # bytes a second while it sends; None: not measured
    answers: AnswerTally | None = None  # of its C-STORE responses since the start
    outpaced_at: float | None = None  # bytes a second of the encoders, where the line is faster: nothing is compressed


@dataclass(frozen=True, slots=True)
class JournalUse:
    """How far what was received is behind in the catalog, and how full the journal is."""

    applied_lag_seconds: float  # how long the oldest record waits to be applied; 0: none does
    used_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class WebUse:
    """The door for DICOMweb."""

    port: int
    tls: bool
    connections: int  # that are open


@dataclass(frozen=True, slots=True)
class QueryTally:
    """Questions of one kind (find, retrieve, worklist) since the start."""

    asked: int = 0
    failed: int = 0
    answers: int = 0  # or objects that were sent
    seconds: float = 0.0

    def add(self, answers: int, seconds: float, *, has_failed: bool) -> QueryTally:
        return QueryTally(self.asked + 1, self.failed + has_failed, self.answers + answers, self.seconds + seconds)


@dataclass(frozen=True, slots=True)
class Live:
    """What only the running daemon knows; `Live("down")` where none runs."""

    state: str  # starting | running | refusing | draining | down
    reasons: tuple[str, ...] = ()  # why it is not simply running
    uptime_seconds: float = 0.0
    since: float | None = None  # when this state began
    destinations: Mapping[str, Link] = field(default_factory=dict)
    usage: Sequence[tuple[float, float]] = ()  # (time, used bytes of the disk), over hours, oldest first
    unhealthy: str = ""  # why nothing can be written (Store.failure)
    hindrances: tuple[Hindrance, ...] = ()  # what else refuses scanners
    certificates: Mapping[str, float] = field(default_factory=dict)  # subject -> when it expires
    machine: Machine = Machine()
    rhythms: Mapping[str, Usual] | None = None  # by AE title; None: to be read
    rejected_at: float | None = None  # when a new configuration was found bad, so that the older one stays active
    unusable_certificates: tuple[float, str] | None = None  # since when new files of [tls] are not used, and why
    revocation_ends: float | None = None  # when the revocation list of [tls] does
    unkept: Unkept | None = None  # unreadable objects that did not fit into quarantine
    ledger_broken: str = ""  # how the custody ledger was altered or damaged
    folds_damaged: str = ""  # how a yearly file was, which has its old rows
    clock_leap_seconds: float = 0.0  # the clock went ahead by this much, and no time server confirms it
    journal: JournalUse | None = None  # None: the gateway does not run
    answers: Mapping[str, AnswerTally] = field(default_factory=dict)  # ours, by [modality], since the start
    rejected: int = 0  # callers and connections, since the start
    queries: Mapping[str, QueryTally] = field(default_factory=dict)  # by what was asked, since the start
    web: WebUse | None = None  # None: the door is closed
