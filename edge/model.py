"""The facts and states that every station shares: frozen values and enumerations, no behaviour beyond them."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, IntEnum, IntFlag


class Priority(IntEnum):
    """Urgency of a delivery; the smaller goes first."""

    STAT = 0
    URGENT = 1
    ROUTINE = 2


class DeliveryState(str, Enum):
    """Where one (instance, destination) stands. See docs/design.md for who moves what."""

    PENDING = "pending"  # may be sent now
    ACTIVE = "active"  # leased to a sender until `lease_until`
    DEFERRED = "deferred"  # will be tried again at `not_before`, for `reason`
    HELD = "held"  # a person must decide, for `reason`
    SENT = "sent"  # the destination answered success; proof is awaited
    CONFIRMED = "confirmed"  # the destination has proved that it has the instance
    CANCELLED = "cancelled"  # a person, or a rejection note, decided that it is not sent


class ReasonCode(str, Enum):
    """Why a delivery waits or has ended without being sent; what the program branches on. The words stand beside it."""

    NONE = ""
    # held: a person decides
    UNROUTABLE = "unroutable"  # no route matched
    CONFLICT = "conflict"  # a different object was received with an existing SOP Instance UID
    MISMATCH = "mismatch"  # the patient differs from the study's, or from the order's
    PERSON = "person"  # a person keeps it back
    REFUSED = "refused"  # the destination refuses this instance permanently
    NO_CONTEXT = (
        "no-context"  # the destination takes neither its transfer syntax nor one that it converts to losslessly
    )
    BREAKS_ASSOCIATION = "breaks-association"  # each attempt to send it, alone, ended its association
    UNSENDABLE = "unsendable"  # DICOM has no legal way to send its bytes as they are
    DAMAGED = "damaged"  # the spooled file is missing or not what was received
    NOT_COMMITTED = "not-committed"  # the destination never commits to it, however often it is sent
    # deferred or pending: retried automatically
    AWAITS_STUDY = "awaits-study"  # it follows its study's images, which have not come yet
    UNREACHABLE = "unreachable"  # the network, the association or the destination failed
    OUT_OF_RESOURCES = "out-of-resources"  # the destination as a whole takes nothing now (0xA700, 0x0213)
    FAILED = "failed"  # the destination failed on this instance, perhaps not the next time
    INTERNAL = "internal"  # this side could not try: a conversion, a shortage
    MISSING = "missing-at-destination"  # sent, but the destination does not find it
    LEASE_LAPSED = "lease-lapsed"
    # sent, and not proved
    BREAKS_PROOF = "breaks-proof"  # an exchange that asked for its proof ended with it: it is asked about alone
    # cancelled
    CANCELLED = "cancelled"


#: Held until a person has looked at the very instance: a retry of a whole destination must not touch these.
NEEDS_DECISION = frozenset({ReasonCode.UNROUTABLE, ReasonCode.CONFLICT, ReasonCode.MISMATCH, ReasonCode.PERSON})


class InstanceState(str, Enum):
    """What the spool holds of an instance."""

    STORED = "stored"
    CONFLICT = "conflict"  # other bytes than those first received under the same SOP Instance UID
    QUARANTINED = "quarantined"  # kept, but its header cannot be read or trusted
    EVICTED = "evicted"  # every destination has it; retention took the file
    LOST = "lost"  # the catalog names a file that is not there or not whole: an alarm
    DISCARDED = "discarded"  # a person decided that it goes nowhere; its file is deleted after [quarantine] keep


@dataclass(frozen=True, slots=True)
class Disk:
    """The file system of the data directory, as far as it is open to the gateway (root's reserve is not)."""

    total_bytes: int
    free_bytes: int
    total_inodes: int = 0  # 0: the file system has no fixed number
    free_inodes: int = 0
    is_read_only: bool = False

    @property
    def used_bytes(self) -> int:
        return self.total_bytes - self.free_bytes

    @property
    def used_fraction(self) -> float:
        return self.used_bytes / self.total_bytes if self.total_bytes else 1.0

    @property
    def used_inodes_fraction(self) -> float:
        """Each file takes an inode, however small it is."""
        return (self.total_inodes - self.free_inodes) / self.total_inodes if self.total_inodes else 0.0

    @property
    def fullest(self) -> float:
        """What is used of bytes or inodes, whichever are nearer to their end."""
        return max(self.used_fraction, self.used_inodes_fraction)


@dataclass(frozen=True, slots=True)
class Origin:
    """The association that an object came by."""

    calling_ae: str
    called_ae: str
    address: str
    received_at: float  # seconds since 1970, UTC


class GuessedText(str):
    """Text whose character set is not certain: none was declared, or its bytes are wrong under the one that was."""

    __slots__ = ()


class Guessed(IntFlag):
    """Which texts of a study are guesses."""

    PATIENT_ID = 1
    PATIENT_NAME = 2
    ACCESSION = 4
    DESCRIPTION = 8


#: Values of one attribute: as text, trimmed of padding, one item a value (PS3.5 section 6.4). Empty when zero length.
Values = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class InstanceHeader:
    """What routing and the catalog know of an object: its identity and the header attributes that were asked for."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    origin: Origin
    attributes: dict[str, Values] = field(default_factory=dict)  # DICOM keyword -> values

    def first(self, keyword: str) -> str:
        """First value of an attribute, or an empty string."""
        values = self.attributes.get(keyword, ())
        return values[0] if values else ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """One destination that routing chose, and how urgent it is."""

    destination: str
    priority: Priority
    route: str  # the name of the route that set the priority


@dataclass(frozen=True, slots=True)
class ContextKey:
    """What a presentation context is made of: objects of one kind travel in one context."""

    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Lease:
    """One leased delivery: all that a sender needs to send an instance."""

    delivery_id: int
    instance_id: int
    destination: str
    priority: Priority
    attempts: int  # before this one
    kind: ContextKey
    sop_instance_uid: str
    study_uid: str
    path: str  # below the spool
    size: int  # of the file, in bytes
    dataset_offset: int  # where the data set begins in the file
    sha256: bytes  # of the data set's bytes as received
    received_at: float
    calling_ae: str  # who sent it to us (Move Originator and audit)
    breaks: int = 0  # associations that ended while it was under way, before this attempt
    broke_at: float | None = None  # when the first of them was begun, seconds since 1970


class Outcome(Enum):
    """How one C-STORE ended, as the queue sees it."""

    SENT = "sent"
    DEFER = "defer"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The end of one attempt at one delivery."""

    work: Lease
    outcome: Outcome
    reason: str = ""  # a sentence for people; empty on a plain success
    code: ReasonCode = ReasonCode.NONE
    status: int | None = None  # the C-STORE status, where there was one
    retry_at: float = 0.0  # for DEFER: seconds since 1970
    broke_at: float | None = None  # its association ended while it was under way: since then, seconds since 1970
    peer_text: str = ""  # the peer's own words, which may name a patient
