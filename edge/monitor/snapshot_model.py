"""The values of status, alerts and metrics: frozen, each true at one moment. No code beyond sums."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge.config.maintenance import PlannedWork
from edge.model import ReasonCode
from edge.monitor.figures import SenderFigures
from edge.monitor.live import Clock, Live
from edge.network.answer_times import AnswerTally
from edge.store.commitment_requests import OwedReports
from edge.store.downtimes import Downtime
from edge.store.figures import Lossy
from edge.store.hl7_messages import ParkedSummary
from edge.store.identity_figures import IdentityFigures
from edge.store.identity_findings import OpenFindings
from edge.store.imports import WaitingImports
from edge.store.prefetch import ForeignPriors
from edge.store.relays import RelayBacklog
from edge.store.retention_rules import ReviewPlace
from edge.store.step_deliveries import OwedSteps
from edge.store.step_images import MissingImages
from edge.store.worklist import SourceState


@dataclass(frozen=True, slots=True)
class Instances:
    """Instances since the catalog began. `total`: without duplicates and what is in quarantine."""

    stored: int = 0
    stored_bytes: int = 0
    evicted: int = 0
    conflicts: int = 0
    lost: int = 0
    quarantined: int = 0
    discarded: int = 0
    cached: int = 0  # of these, what was fetched from an archive

    @property
    def total(self) -> int:
        """The instances that were received."""
        return self.stored + self.evicted + self.conflicts + self.lost + self.discarded - self.cached


@dataclass(frozen=True, slots=True)
class Queue:
    """Deliveries that are not yet sent, and the `bytes` of all four states; `cancelled` ones are not sent at all."""

    pending: int = 0
    active: int = 0
    deferred: int = 0
    held: int = 0
    cancelled: int = 0
    bytes: int = 0
    oldest_seconds: float | None = None  # of what is sent automatically: held work waits for a person


@dataclass(frozen=True, slots=True)
class DestinationStatus:
    """One destination. An instance that is confirmed is counted as sent too."""

    name: str
    kind: str = "dimse"  # or "dicomweb"; empty where it is not configured any more
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
    refuses: bool = False  # while down: it answers, and refuses what it is sent
    drain_seconds: float | None = 0.0  # 0: nothing waits; None: not known
    bytes: int = 0  # of what is sent automatically
    oldest_seconds: float | None = None  # of the same
    rate: float | None = None  # bytes a second while it is busy, as last measured
    certificate_expires: float | None = None
    proves: bool = False  # proof is asked of it
    confirm_lag_seconds: float | None = None  # age of the oldest sent instance that is not proved
    keep_last: float | None = None  # it has a copy of what came in these last seconds
    oldest_not_there: float | None = None  # when the oldest came of that which it has not; None: it has all
    answers: AnswerTally | None = None  # of its C-STORE responses since the start
    breaks_proof: Sequence[int] = ()  # the first deliveries at which a request for proof fails
    changed_copies: int = 0  # that were sent with other bytes than received: corrected, compressed
    saved_bytes: int = 0  # less than was received, of those
    outpaced_at: float | None = None  # as Link has it

    @property
    def unconfirmed_count(self) -> int:
        """Sent, and not yet confirmed."""
        return self.sent - self.confirmed

    @property
    def waiting(self) -> int:
        """What is sent automatically when the destination answers."""
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
    """Why retention cannot free what is stored."""

    image_bytes: int = 0  # of all that the spool holds
    apart_bytes: int = 0  # of that, conflicts, quarantine and what was discarded
    keep_seconds: float = 0.0  # retention.keep
    next_at: float | None = None  # when the oldest that is confirmed everywhere may be evicted; None: there is none
    holds: tuple[str, ...] = ()  # "hold.NAME" of those that keep something
    rules: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # rule -> (seconds, when its oldest may go)
    legal: int = 0  # studies under a legal hold
    waiting: Mapping[str, int] = field(default_factory=dict)  # destination -> images not yet sent
    unproved: Mapping[str, int] = field(default_factory=dict)  # destination -> images sent and not proved
    undecided: int = 0  # deliveries that are held


@dataclass(frozen=True, slots=True)
class Held:
    """What waits for a person's decision, for one destination ("" where no route matched)."""

    destination: str
    count: int
    since: float
    reason: str  # the most frequent one among the oldest, as our own text
    codes: frozenset[ReasonCode] = frozenset()  # every reason for which something is held


@dataclass(frozen=True, slots=True)
class Deferred:
    """What is sent to one destination again later."""

    destination: str
    count: int
    reason: str  # the most frequent one among the next, as our own text
    next_try: float


@dataclass(frozen=True, slots=True)
class ModalityStatus:
    """Equipment that has called: one AE title at one address."""

    name: str  # of its [modality]; empty: none names it
    ae_title: str
    address: str
    first_seen: float
    last_seen: float
    admitted: bool
    stored: int = 0  # objects that were answered with success
    last_stored: float | None = None
    manufacturer: str = ""
    model: str = ""
    contexts: tuple[tuple[str, tuple[str, ...]], ...] = ()  # (abstract syntax, transfer syntaxes) as last proposed
    usual: str = ""
    missed_at: float | None = None  # silent: it should have sent by then
    serial: str = ""
    software: str = ""
    changed_at: float | None = None  # when another make was first seen under its AE title and address
    change: tuple[str, ...] = ()  # manufacturer, model, serial number and software: before, and then
    makes: int = 1  # different makes under its AE title and address
    lacks: str = ""  # why it was refused, where the configuration names it or it had not said its name


@dataclass(frozen=True, slots=True)
class ChannelBacklog:
    """What waits in the outbox for one channel."""

    waiting: int
    oldest_seconds: float
    last_error: str
    parked: int = 0  # refused permanently: they wait for a person
    configured: bool = True


@dataclass(frozen=True, slots=True)
class ExceptionCount:
    """Instances in one state that needs a person's decision: conflict, quarantined or lost."""

    state: str
    count: int
    since: float
    undelivered: bool  # some of them are not yet at every destination


@dataclass(frozen=True, slots=True)
class BackfillProgress:
    """How far the headers of what was stored before an upgrade are read, in numbers of instances."""

    read: int
    last: int
    unreadable: int = 0
    finished_at: float | None = None


@dataclass(frozen=True, slots=True)
class UnknownCaller:
    """Equipment that no [modality] names, or whose certificate is not the right one."""

    ae_title: str
    address: str
    first_seen: float
    lacks: str = ""  # where a [modality] names it, or where it was refused before it said its title
    known_there: str = ""  # the AE title that has stored something from this address


@dataclass(frozen=True, slots=True)
class Action:
    """One step of an alert's advice.

    In `command` ID stands for what a listing names, ALERT for this alert (then its number stands there), DIR for
    a directory, AE_TITLE for a caller's title, ... for a reason.
    """

    words: str  # {} stands for the command
    command: tuple[str, ...] = ()
    follows: bool = False  # the step before it comes first; else it is a choice of its own

    @property
    def text(self) -> str:
        typed = " ".join('"..."' if part == "..." else part for part in self.command)
        return ("then " if self.follows else "") + self.words.replace("{}", f"`{typed}`")


def advice_of(actions: Sequence[Action]) -> str:
    """The steps as one clause: a comma before what follows, a semicolon between choices."""
    parts = [f"{', ' if each.follows else '; '}{each.text}" for each in actions]
    return "".join(parts).lstrip(",; ")


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
    id: int | None = None  # from here on: what the catalog records of it
    acknowledged: str = ""  # by this person
    escalated: bool = False
    actions: tuple[Action, ...] = ()  # what `do` is made of

    @property
    def text(self) -> str:
        """One sentence: what, what it means, what to type."""
        return f"{self.what}{'; ' if self.means else ''}{self.means}{': ' if self.do else ''}{self.do}."


@dataclass(frozen=True, slots=True)
class WorklistState:
    """The modality worklist. `source`: of [worklist] from; `as_of` None: there has been no list, or none is served."""

    items: int = 0
    as_of: float | None = None
    is_stale: bool = False
    source: str = ""
    sources: tuple[SourceState, ...] = ()


@dataclass(frozen=True, slots=True)
class FeedStatus:
    """A system that sends HL7."""

    name: str
    received: int = 0  # messages since the catalog began
    last_at: float | None = None
    usual: str = ""
    missed_at: float | None = None  # silent: it should have sent by then


@dataclass(frozen=True, slots=True)
class Hl7Status:
    """HL7 messages since the catalog began, and what waits for a person."""

    received: int = 0
    applied: int = 0  # also those that said what was known
    duplicates: int = 0
    refused: int = 0
    parked: ParkedSummary = field(default_factory=ParkedSummary)
    feeds: tuple[FeedStatus, ...] = ()
    relays: tuple[RelayBacklog, ...] = ()
    findings: tuple[OpenFindings, ...] = ()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The gateway at the moment `at`."""

    at: float
    site_id: str
    site_name: str
    version: str
    live: Live  # what the daemon knows
    since: float | None  # when its state began, where that is known
    instances: Instances
    queue: Queue
    destinations: Sequence[DestinationStatus]
    storage: Storage
    alerts: Sequence[Alert] = ()
    modalities: tuple[ModalityStatus, ...] = ()
    held: Sequence[Held] = ()
    deferred: tuple[Deferred, ...] = ()
    downtimes: tuple[Downtime, ...] = ()  # the latest first
    clock: Clock = field(default_factory=Clock)
    outbox: Mapping[str, ChannelBacklog] = field(default_factory=dict)
    ledger_seq: int = 0
    ledger_head: str = ""  # the last row's hash, in hexadecimal
    versions: Mapping[str, str] = field(default_factory=dict)
    backfill: BackfillProgress | None = None  # None: there was nothing to read
    review: ReviewPlace | None = None  # of retention; None: no rule was ever configured
    figures: tuple[SenderFigures, ...] = ()  # of the last week
    lossy: tuple[Lossy, ...] = ()  # unexpected lossy images of the last day
    dose_missing: tuple[tuple[str, int, float], ...] = ()  # sender, studies without a dose report, since when
    untried_since: float | None = None  # when a restore was last tried, or the gateway first used; None: neither
    owed_reports: tuple[OwedReports, ...] = ()  # of storage commitment, by modality
    owed_steps: tuple[OwedSteps, ...] = ()  # messages of performed steps, by target
    missing_images: tuple[MissingImages, ...] = ()  # that modalities have announced and that are late
    foreign_priors: tuple[ForeignPriors, ...] = ()  # earlier studies that were not fetched: another patient's
    imports: WaitingImports = field(default_factory=WaitingImports)
    worklist: WorklistState = WorklistState()
    hl7: Hl7Status = Hl7Status()
    identity: IdentityFigures = field(default_factory=IdentityFigures)
    fetched: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # archive -> instances, bytes
    maintenance: tuple[PlannedWork, ...] = ()  # planned work that is not over, the earliest first
