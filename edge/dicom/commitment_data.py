"""The data sets of requests and reports of storage commitment (PS3.4 tables J.3-1 and J.3-2), built and read.

The same data sets in both directions: we ask archives, and modalities ask us. What reads them raises Unreadable for any
damage, and for what the Standard requires and the data set lacks.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge.dicom import items
from edge.dicom.command import PROCESSING_FAILURE
from edge.dicom.items import Attributes
from edge.dicom.uids import usable_uid
from edge.errors import Unreadable

#: Instances that a report of an archive names. We ask about fewer at once.
MAX_REPORTED = 10_000
#: N-EVENT-REPORT event types (PS3.4 table J.3-2) and the one N-ACTION type (table J.3-1).
ALL_COMMITTED, FAILURES_EXIST = 1, 2
REQUEST_STORAGE_COMMITMENT = 1
#: Failure Reasons of an instance (PS3.3 section C.14.1.1); edge.dicom.status.FAILURE_REASONS has their words.
NO_SUCH_INSTANCE, CLASS_CONFLICT, CLASS_NOT_SUPPORTED, DUPLICATE_TRANSACTION = 0x0112, 0x0119, 0x0122, 0x0131

RETRIEVE_AE_TITLE = 0x00080054
REFERENCED_SOP_CLASS_UID, REFERENCED_SOP_INSTANCE_UID = 0x00081150, 0x00081155
TRANSACTION_UID, FAILURE_REASON = 0x00081195, 0x00081197
FAILED_SOP_SEQUENCE, REFERENCED_SOP_SEQUENCE = 0x00081198, 0x00081199


@dataclass(frozen=True, slots=True)
class Reference:
    """One instance of which custody is to be proved."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True)
class Report:
    """The content of an N-EVENT-REPORT: what is in custody, and what is not, with the Failure Reason."""

    transaction_uid: str
    committed: tuple[str, ...]  # SOP Instance UIDs
    failed: dict[str, int]


# -- requests ---------------------------------------------------------------------------------------------------------


def new_transaction_uid() -> str:
    """A UID that nobody has used (PS3.5 section B.2)."""
    return f"2.25.{uuid.uuid4().int}"


def action_information(transaction_uid: str, references: Iterable[Reference], transfer_syntax_uid: str) -> bytes:
    """The data set of the N-ACTION request (PS3.4 table J.3-1); an instance named twice is asked about once."""
    referenced = [_reference_item(each) for each in dict.fromkeys(references)]
    request = items.item({TRANSACTION_UID: transaction_uid, REFERENCED_SOP_SEQUENCE: referenced})
    return items.encode_items(request, transfer_syntax_uid)


@dataclass(frozen=True, slots=True)
class AskedCommitment:
    """The content of an N-ACTION request: each instance once, with every SOP class under which it is named."""

    transaction_uid: str
    classes: dict[str, tuple[str, ...]]  # SOP Instance UID -> SOP Class UIDs

    @property
    def digest(self) -> bytes:
        """SHA-256 of what it names, in any order: does a Transaction UID that comes again mean the same?"""
        lines = sorted(f"{uid} {' '.join(sorted(classes))}\n" for uid, classes in self.classes.items())
        return hashlib.sha256("".join(lines).encode()).digest()


def parse_commitment_request(data: bytes, transfer_syntax_uid: str) -> AskedCommitment:
    """Read the data set of an N-ACTION request (PS3.4 table J.3-1). Raises Unreadable."""
    request = items.decode_items(data, transfer_syntax_uid)
    transaction_uid = _uid(request, TRANSACTION_UID)
    classes: dict[str, tuple[str, ...]] = {}
    for each in request.items_of(REFERENCED_SOP_SEQUENCE):
        uid, sop_class = _uid(each, REFERENCED_SOP_INSTANCE_UID), _uid(each, REFERENCED_SOP_CLASS_UID)
        known = classes.get(uid, ())
        if sop_class not in known:
            classes[uid] = (*known, sop_class)
    if not classes:
        raise Unreadable("no instance in the Referenced SOP Sequence (0008,1199)")
    return AskedCommitment(transaction_uid, classes)


# -- reports ----------------------------------------------------------------------------------------------------------


def parse_report(data: bytes, transfer_syntax_uid: str, event_type: int) -> Report:
    """Read the data set of an N-EVENT-REPORT (PS3.4 section J.3.3). Raises Unreadable.

    An instance that is in both sequences has failed.
    """
    if event_type not in (ALL_COMMITTED, FAILURES_EXIST):
        raise Unreadable(f"a storage commitment report of event type {event_type}; expected 1 or 2")
    report = items.decode_items(data, transfer_syntax_uid)
    referenced, failed = report.items_of(REFERENCED_SOP_SEQUENCE), report.items_of(FAILED_SOP_SEQUENCE)
    if max(len(referenced), len(failed)) > MAX_REPORTED:
        raise Unreadable(f"a storage commitment report that names more than {MAX_REPORTED} instances")
    transaction_uid = _uid(report, TRANSACTION_UID)
    reasons = {_uid(each, REFERENCED_SOP_INSTANCE_UID): _failure_reason(each) for each in failed}
    committed = (_uid(each, REFERENCED_SOP_INSTANCE_UID) for each in referenced)
    return Report(transaction_uid, tuple(uid for uid in committed if uid not in reasons), reasons)


def report_information(
    transaction_uid: str,
    committed: Mapping[Reference, str],
    failed: Mapping[Reference, int],
    transfer_syntax_uid: str,
) -> tuple[int, bytes]:
    """Event type and data set of an N-EVENT-REPORT (PS3.4 table J.3-2).

    `committed`: with the AE title from which it is retrieved, where that is not ours. `failed`: with the reason.
    """
    referenced = [
        _reference_item(each, {RETRIEVE_AE_TITLE: title} if title else {}) for each, title in committed.items()
    ]
    failures = [_reference_item(each, {FAILURE_REASON: reason}) for each, reason in failed.items()]
    report: dict[int, str | list[Attributes]] = {TRANSACTION_UID: transaction_uid}
    if failures:
        report[FAILED_SOP_SEQUENCE] = failures
    if referenced:
        report[REFERENCED_SOP_SEQUENCE] = referenced
    return FAILURES_EXIST if failures else ALL_COMMITTED, items.encode_items(items.item(report), transfer_syntax_uid)


def _reference_item(reference: Reference, more: Mapping[int, str | int] | None = None) -> Attributes:
    named = {
        REFERENCED_SOP_CLASS_UID: reference.sop_class_uid,
        REFERENCED_SOP_INSTANCE_UID: reference.sop_instance_uid,
    }
    return items.item({**named, **(more or {})})


def _uid(item: Attributes, tag: int) -> str:
    uid = item.text(tag)
    if not usable_uid(uid):
        raise Unreadable(f"no UID in ({tag >> 16:04X},{tag & 0xFFFF:04X})")
    return uid


def _failure_reason(item: Attributes) -> int:
    reason = item.text(FAILURE_REASON) if FAILURE_REASON in item else str(PROCESSING_FAILURE)
    if not reason.isdecimal():
        raise Unreadable("a storage commitment report with something else where a Failure Reason was due")
    return int(reason)
