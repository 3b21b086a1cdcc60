"""The identity of a study, for its page: the checks, a person's decision, and its images as received and as sent."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge.console.access import MASK, Access
from edge.console.dry_run_copies import CopyChange, CopyDryRun
from edge.console.instance_header import describe_instance, read_spooled
from edge.dicom.uids import name_of
from edge.errors import Unreadable
from edge.intake.routing import compile_rules
from edge.model import InstanceState
from edge.store import assignments, identity_checks, outdated_copies, sent_copies
from edge.store.assignments import StudyAssignment
from edge.store.database import Transaction
from edge.store.identity_checks import ListedCheck
from edge.store.listing import ListPart
from edge.store.outdated_copies import OutdatedCopy
from edge.store.queries import Instance
from edge.store.sent_copies import SentAs
from edge.store.studies import Study

_CHECKS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class SentGroup:
    """Images that one destination has with other bytes than were received, by the same rules."""

    destination: str
    rules: tuple[str, ...]
    transfer_syntax: str
    images: int
    received_bytes: int
    bytes: int


@dataclass(frozen=True, slots=True)
class StudyIdentityView:
    """What the page of a study says about its identity."""

    checks: Sequence[ListedCheck] = ()
    assignment: StudyAssignment | None = None
    sent: Sequence[SentGroup] = ()
    outdated: Sequence[OutdatedCopy] = ()
    preview: Sequence[CopyChange] = ()  # the copies that would leave now, of the first image


def read_identity_view(conn: Transaction, study: Study) -> StudyIdentityView:
    return StudyIdentityView(
        identity_checks.list_checks(conn, study_id=study.id).read(ListPart(_CHECKS_SHOWN)),
        assignments.find_assignment(conn, study.id),
        group_sent(sent_copies.list_sent(conn, study.id)),
        outdated_copies.list_outdated_copies(conn, study_id=study.id),
    )


def mask_identity(view: StudyIdentityView) -> StudyIdentityView:
    """What one may see who may not see patients."""
    assignment = view.assignment and replace(view.assignment, patient_id=MASK, issuer=MASK, reason=MASK)
    return replace(view, checks=[mask_check(each) for each in view.checks], assignment=assignment)


def mask_check(check: ListedCheck) -> ListedCheck:
    return replace(
        check,
        accession=MASK,
        patient_id=MASK,
        patient_name=MASK,
        order_accession=MASK,
        order_patient_id=MASK,
        order_patient_name=MASK,
    )


def group_sent(copies: Sequence[SentAs]) -> list[SentGroup]:
    """Images by destination, rules and transfer syntax."""
    found: dict[tuple[str, tuple[str, ...], str], Counter[str]] = {}
    for each in copies:
        counter = found.setdefault((each.destination, each.rules, name_of(each.transfer_syntax_uid)), Counter())
        counter.update(images=1, received=each.received_bytes, sent=each.bytes)
    return [SentGroup(*key, each["images"], each["received"], each["sent"]) for key, each in found.items()]


def preview_first_image(access: Access, study: Study, instances: Sequence[Instance]) -> list[CopyChange]:
    """Preview the first image that is here, for each destination whose copy is changed: before and after."""
    first = next((each for each in instances if each.state is InstanceState.STORED), None)
    if first is None:
        return []
    config, rules = access.config(), compile_rules(access.config())
    try:
        header = describe_instance(first, read_spooled(access.spool, first, rules.wanted))
    except Unreadable:
        return []
    found = CopyDryRun(access.db, access.spool, config)
    found.add(first, header, sorted(name for name in first.deliveries if name), study.instances, study.id)
    return found.list_changes()
