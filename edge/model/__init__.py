"""The facts and states that all packages share: frozen values and enumerations, no behaviour beyond them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, IntEnum, IntFlag


class Priority(IntEnum):
    """Urgency of a delivery; the smaller goes first."""

    STAT = 0
    URGENT = 1
    ROUTINE = 2


class DeliveryState(str, Enum):
    """The state of one (instance, destination). TRANSITIONS says who may change it."""

    PENDING = "pending"  # may be sent now
    ACTIVE = "active"  # leased to a sender until `lease_until`; people read "sending"
    DEFERRED = "deferred"  # is tried again at `not_before`
    HELD = "held"  # a person must decide
    SENT = "sent"  # the destination answered success; proof is awaited
    CONFIRMED = "confirmed"  # the destination has proved that it has the instance
    CANCELLED = "cancelled"  # a person, or a rejection note, decided that it is not sent

    @property
    def label(self) -> str:
        """The state as people read it; programs read the value."""
        return "sending" if self is DeliveryState.ACTIVE else self.value


class ReasonCode(str, Enum):
    """Why a delivery waits or has ended without being sent; edge.store.reasons has the words."""

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
    NOTE_NOT_ALLOWED = "note-not-allowed"  # a rejection note of a sender that [iocm] senders does not name
    RULE_FAILED = "rule-failed"  # a correction or de-identification cannot be applied to it
    MAY_NAME_PATIENT = "may-name-patient"  # its pixels may name the patient, where it is to go without identity
    UNKNOWN_STUDY = "unknown-study"  # it came back from a de-identified destination, and of no study that went there
    NOT_COMMITTED = "not-committed"  # the destination never commits to it, however often it is sent
    # deferred or pending: retried automatically
    AWAITS_STUDY = "awaits-study"  # it follows its study's images, which have not come yet
    AWAITS_IMAGES = "awaits-images"  # a rejection note never overtakes what it names
    UNREACHABLE = "unreachable"  # the network, the association or the destination failed
    OUT_OF_RESOURCES = "out-of-resources"  # the destination as a whole takes nothing now (0xA700, 0x0213)
    FAILED = "failed"  # the destination failed on this instance, perhaps not the next time
    INTERNAL = "internal"  # this side could not try: a conversion, a shortage
    MISSING = "missing-at-destination"  # sent, but the destination does not find it
    LEASE_LAPSED = "lease-lapsed"
    # sent, and not proved
    PROOF_REFUSED = "proof-refused"  # the destination refuses the service that would prove it
    BREAKS_PROOF = "breaks-proof"  # an exchange that asked for its proof ended with it: it is asked about alone
    # cancelled
    CANCELLED = "cancelled"


#: Held until a person decides about the very instance: a retry of a whole destination must not touch these.
NEEDS_DECISION = frozenset(
    {
        ReasonCode.UNROUTABLE,
        ReasonCode.CONFLICT,
        ReasonCode.MISMATCH,
        ReasonCode.PERSON,
        ReasonCode.NOTE_NOT_ALLOWED,
        ReasonCode.MAY_NAME_PATIENT,
        ReasonCode.UNKNOWN_STUDY,
    }
)

#: Of these, what is decided about an instance as a whole; the rest about one delivery, which a release sends.
DECIDED_BY_INSTANCE = frozenset({ReasonCode.UNROUTABLE, ReasonCode.CONFLICT, ReasonCode.MISMATCH})


#: The name of a caller that no [modality] names, where `[listen] unknown = "accept"` lets it in.
UNNAMED_CALLER = "(unknown)"

Parameter = str | int | float | list[str]


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a delivery is in its state: a code, and small typed values of which edge.store.reasons makes words.

    Only the parameter `why` has a person's own words; another system's words are in `peer_text`, never here.
    """

    code: ReasonCode = ReasonCode.NONE
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    text: str = ""  # of a row that was written before there were parameters


EMPTY_REASON = Reason()


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

    def reduce_free(self, files: int, length: int) -> Disk:
        """Once this number of files with these bytes has come to it."""
        free_bytes, free_inodes = max(0, self.free_bytes - length), max(0, self.free_inodes - files)
        return replace(self, free_bytes=free_bytes, free_inodes=free_inodes)

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
    #: Cached: the destination that it was fetched from. Owed to no destination, and not counted as received.
    fetched_from: str = ""
    #: The sites whose Edge it has passed (edge.network.sites); empty: it came from equipment.
    passed: str = ""
    priority: Priority = Priority.ROUTINE  # with which the Edge before sent it

    def flat(self) -> tuple[str, str, str, float, str, str, int]:
        """The values in the order of the fields; as dataclasses.astuple, which takes twenty times as long."""
        sender = self.calling_ae, self.called_ae, self.address, self.received_at
        return (*sender, self.fetched_from, self.passed, int(self.priority))


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


class Companion(Enum):
    """How an object relates to the images of its study; the values are those of the catalog."""

    IMAGE = 0  # or what belongs to no study
    FOLLOWS = 1  # it has no image of its own, and goes where its study's images go as well
    NAMED = 2  # it has none, but a route names its kind: it goes there alone


@dataclass(frozen=True, slots=True)
class Decision:
    """What the rules say of one object."""

    assignments: tuple[Assignment, ...]
    companion: Companion = Companion.IMAGE
    takes_along: tuple[Assignment, ...] = ()  # where a key object takes the images that it references


@dataclass(frozen=True, slots=True)
class ContextKey:
    """What a presentation context is made of: objects of one kind travel in one context."""

    sop_class_uid: str
    transfer_syntax_uid: str


@dataclass(frozen=True, slots=True)
class Lease:
    """Time-limited ownership of one delivery, with all that a sender needs to send its instance.

    Each lease of a delivery has a higher `epoch` than the one before: only the latest can change the delivery.
    """

    delivery_id: int
    instance_id: int
    destination: str
    priority: Priority
    attempts: int  # before this one
    context_key: ContextKey
    sop_instance_uid: str
    study_id: int | None
    study_uid: str
    path: str  # below the spool
    size: int  # of the file, in bytes
    dataset_offset: int  # where the data set begins in the file
    sha256: bytes  # of the data set's bytes as received
    xxh3: bytes | None  # XXH3-128 of the same; None: SHA-256 is compared
    received_at: float
    calling_ae: str  # who sent it to us (Move Originator and audit)
    breaks: int = 0  # associations that ended while it was under way, before this attempt
    broke_at: float | None = None  # when the first of them was begun, seconds since 1970
    passed: str = ""  # the sites whose Edge it has passed (edge.network.sites)
    epoch: int = 0
    owner: str = ""  # the node that leased it


@dataclass(frozen=True, slots=True)
class SentCopy:
    """A copy that went out with other bytes than were received."""

    transfer_syntax_uid: str
    sha256: bytes  # of the data set as sent
    bytes: int  # of that data set
    rules: tuple[str, ...] = ()  # those that changed an attribute, in order
    sop_instance_uid: str = ""  # the UIDs as sent; empty: as received
    study_uid: str = ""
    series_uid: str = ""


class Outcome(Enum):
    """How one C-STORE ended, as the queue sees it."""

    SENT = "sent"
    DEFER = "defer"
    HOLD = "hold"
    SKIP = "skip"  # it has passed the destination's site before: it does not go


@dataclass(frozen=True, slots=True)
class AttemptResult:
    """The end of one attempt at one delivery."""

    lease: Lease
    outcome: Outcome
    reason: Reason = EMPTY_REASON
    status: int | None = None  # the C-STORE status, where there was one
    retry_at: float = 0.0  # for DEFER: seconds since 1970
    broke_at: float | None = None  # its association ended while it was under way: since then, seconds since 1970
    peer_text: str = ""  # the peer's own words, which may name a patient


class ReasonRule(Enum):
    """What a transition does to the delivery's reason."""

    REQUIRED = "required"  # a new one is written, with one of the transition's codes
    OPTIONAL = "optional"  # a new one is written, perhaps without a code
    CLEARED = "cleared"
    KEPT = "kept"


@dataclass(frozen=True, slots=True)
class StateChange:
    """One change of a delivery's state. edge.store.transitions makes the statements, and refuses every other change."""

    sources: tuple[DeliveryState | None, ...]  # None: there is no row yet
    event: str
    target: DeliveryState
    who: str
    when: str
    reason: ReasonRule
    codes: tuple[ReasonCode, ...]  # one of these, where a reason is required


def _change(
    sources: tuple[DeliveryState | None, ...],
    event: str,
    target: DeliveryState,
    who: str,
    when: str,
    *codes: ReasonCode,
    reason: ReasonRule = ReasonRule.CLEARED,
) -> StateChange:
    return StateChange(sources, event, target, who, when, ReasonRule.REQUIRED if codes else reason, codes)


_P, _A, _D, _H = DeliveryState.PENDING, DeliveryState.ACTIVE, DeliveryState.DEFERRED, DeliveryState.HELD
_S, _F, _C = DeliveryState.SENT, DeliveryState.CONFIRMED, DeliveryState.CANCELLED
_KEPT, _OPTIONAL, _R = ReasonRule.KEPT, ReasonRule.OPTIONAL, ReasonCode
_ARRIVAL = (_R.UNROUTABLE, _R.CONFLICT, _R.MISMATCH, _R.UNKNOWN_STUDY)
_DEFERRED_FOR = (_R.OUT_OF_RESOURCES, _R.FAILED, _R.UNREACHABLE, _R.INTERNAL)
_HELD_FOR = (
    *(_R.REFUSED, _R.NO_CONTEXT, _R.BREAKS_ASSOCIATION, _R.UNSENDABLE, _R.DAMAGED),
    *(_R.RULE_FAILED, _R.MAY_NAME_PATIENT),
)
_ANY = (None, *DeliveryState)
_PERSON, _PEER, _EDGE = "a person", "the destination", "Edge"

#: Every change of a delivery's state.
TRANSITIONS = (
    _change(_ANY, "enqueue", _P, _EDGE, "an instance arrives or is released, and a route matches"),
    _change(_ANY, "enqueue", _H, _EDGE, "an instance arrives, and a person must decide", *_ARRIVAL),
    _change((_H,), "await study", _D, _EDGE, "no route matches it, and its study has no images", _R.AWAITS_STUDY),
    _change((_D,), "study is missing", _H, _EDGE, "its study's images have not come in time", _R.UNROUTABLE),
    _change((_P,), "restore", _S, _EDGE, "it was brought back from a copy, and had been sent before"),
    _change((_P, _D), "find mismatch", _H, _EDGE, "its header, read later, names another patient", _R.MISMATCH),
    _change((_P, _D), "hold note", _H, _EDGE, "a rejection note whose sender may send none", _R.NOTE_NOT_ALLOWED),
    _change((_P, _D), "await images", _D, _EDGE, "a rejection note waits for what it names", _R.AWAITS_IMAGES),
    _change((_P, _D, _H), "withdraw", _C, _EDGE, "a rejection note forbids it, and it has not left", _R.CANCELLED),
    _change(
        (_H,), "resolve mismatch", _P, _EDGE, "HL7 says that it is the same patient after all; of a mismatch alone"
    ),
    _change((_P, _D), "lease", _A, _EDGE, "a sender is free; one that broke associations goes alone", reason=_KEPT),
    _change((_P, _D), "reject row", _H, _EDGE, "its row has a value that is not valid", _R.INTERNAL),
    _change((_A,), "return", _P, _EDGE, "it was leased and not tried, or the node was restarted", reason=_KEPT),
    _change((_A,), "return", _D, _EDGE, "the same, where it has broken associations", reason=_KEPT),
    _change((_A,), "expire", _P, _EDGE, "its lease lapsed", _R.LEASE_LAPSED),
    _change((_A,), "expire", _D, _EDGE, "the same, where it has broken associations", _R.LEASE_LAPSED),
    _change((_A,), "record", _S, _PEER, "C-STORE success or warning", reason=_OPTIONAL),
    _change((_A,), "record", _F, _PEER, 'the same, with `confirm = "status"`', reason=_OPTIONAL),
    _change((_A,), "record", _D, _PEER, "the attempt failed, perhaps not the next time", *_DEFERRED_FOR),
    _change((_A,), "record", _H, _PEER, "the attempt failed for good", *_HELD_FOR),
    _change((_A,), "record", _C, _EDGE, "it has passed the destination's site before", _R.CANCELLED),
    _change((_D,), "requeue due", _P, _EDGE, "`not_before` has come", reason=_KEPT),
    _change((_H,), "requeue repaired", _P, _EDGE, "it was held as damaged, and its file is whole again"),
    _change((_S,), "confirm", _F, _PEER, "it proved that it has the instance"),
    _change((_S,), "mark missing", _P, _PEER, "it lacks the instance, which is sent again", _R.MISSING),
    _change((_S,), "mark missing", _D, _PEER, "the same, later", _R.MISSING),
    _change((_S,), "mark refused", _H, _PEER, "it will never commit to the instance", _R.NOT_COMMITTED),
    _change((_S,), "suspect proof", _S, _EDGE, "an exchange that asked for its proof ended with it", _R.BREAKS_PROOF),
    _change((_S,), "clear suspect", _S, _PEER, "it answers for the instance after all"),
    _change((_S,), "refuse proof", _S, _PEER, "it refuses the service that would prove it", _R.PROOF_REFUSED),
    _change((_P, _D, _H, _S), "release replica", _C, _EDGE, "a copy that is older than `keep_last`", _R.CANCELLED),
    _change((_H, _D), "retry", _P, _PERSON, "`edge queue retry`; never what waits for a decision"),
    _change((_H,), "release", _P, _PERSON, "`edge queue release`"),
    _change((_P, _D), "hold", _H, _PERSON, "`edge queue hold`", _R.PERSON),
    _change((_P, _D, _H), "reassign", _P, _PERSON, "`edge queue reroute`, to another destination"),
    _change((_H,), "reassign", _H, _PERSON, "the same, of what waits for a decision there, too", reason=_KEPT),
    _change((_H,), "reassign conflict", _H, _PERSON, "the same, of a conflict without a route", _R.CONFLICT),
    _change((_P, _D, _H), "cancel", _C, _PERSON, "`edge queue cancel`, `edge instances discard`", _R.CANCELLED),
    _change((_P, _A, _D, _H, _S), "retire", _C, _PERSON, "`edge destination retire`", _R.CANCELLED),
)
