"""The choice of appointments and of their earlier studies to fetch. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from edge.config.conditions import Condition, compile_condition
from edge.config.departmental import Prefetch
from edge.dicom.commitment import STUDY_INSTANCE_UID
from edge.dicom.items import Attributes
from edge.model import InstanceHeader, Origin
from edge.model.dictionary import keyword_for_tag
from edge.query import worklist
from edge.query.worklist import ENDED_STATUSES, WorklistItem
from edge.store.prefetch import PrefetchRequest, PriorStudy
from edge.text import fold_name

STUDY_DATE, STUDY_TIME, BIRTH_DATE, INSTANCES = 0x00080020, 0x00080030, 0x00100030, 0x00201208


@dataclass(frozen=True, slots=True)
class PrefetchRule:
    """A [prefetch.NAME] whose conditions are compiled."""

    prefetch: Prefetch
    conditions: tuple[Condition, ...]

    @classmethod
    def compile(cls, prefetch: Prefetch) -> PrefetchRule:
        return cls(prefetch, tuple(compile_condition(keyword, value) for keyword, value in prefetch.when.items()))

    def is_for(self, facts: InstanceHeader) -> bool:
        return all(each.holds(facts) for each in self.conditions)


def list_prefetch_requests(served: Iterable[WorklistItem], rules: Sequence[PrefetchRule]) -> Iterator[PrefetchRequest]:
    """The appointments for which a rule wants earlier studies; steps that are over want nothing."""
    for found in served:
        step = found.step
        patient_id = found.data.text(worklist.PATIENT_ID)
        if not patient_id or step.text(worklist.SCHEDULED_STATUS) in ENDED_STATUSES:
            continue
        facts = facts_of(found)
        for each in rules:
            if each.is_for(facts):
                starts = step.text(worklist.START_DATE) + step.text(worklist.START_TIME).partition(".")[0]
                yield PrefetchRequest(
                    each.prefetch.name,
                    each.prefetch.from_,
                    found.key,
                    found.data.text(STUDY_INSTANCE_UID),
                    patient_id,
                    found.data.text(worklist.PATIENT_NAME),
                    found.data.text(BIRTH_DATE),
                    starts.ljust(14, "0"),
                )


def facts_of(found: WorklistItem) -> InstanceHeader:
    """An item as conditions read it: its own attributes and those of its step."""
    attributes = {
        keyword_for_tag(tag): element.values
        for data in (found.data, found.step)
        for tag, element in data.items()
        if element.vr != "SQ"
    }
    return InstanceHeader("", "", "", Origin("", "", "", 0.0), attributes)


def choose_priors(
    request: PrefetchRequest, answers: Sequence[Attributes], prefetch: Prefetch, today: str
) -> list[PriorStudy]:
    """The newest of the studies that the archive has of the patient. `today`: YYYYMMDD.

    One whose patient has the same number and differs by name and birth date is a conflict, and takes no place.
    """
    first = f"{int(today[:4]) - prefetch.years:04d}{today[4:]}"
    candidates = [
        each
        for each in answers
        if each.text(0x0020000D) not in ("", request.study_uid)
        and each.text(worklist.PATIENT_ID) in ("", request.patient_id)
        and first <= each.text(STUDY_DATE) <= today
    ]
    candidates.sort(key=lambda each: (each.text(STUDY_DATE), each.text(STUDY_TIME)), reverse=True)
    chosen, conflicts = list[PriorStudy](), list[PriorStudy]()
    for each in candidates:
        is_conflict = _is_another(request, each)
        prior = PriorStudy(each.text(0x0020000D), _count(each.text(INSTANCES)), is_conflict)
        (conflicts if is_conflict else chosen).append(prior)
    return [*chosen[: prefetch.priors], *conflicts]


def _is_another(request: PrefetchRequest, answer: Attributes) -> bool:
    name, birth_date = answer.text(worklist.PATIENT_NAME), answer.text(BIRTH_DATE)
    differs_in_name = name and request.patient_name and fold_name(name) != fold_name(request.patient_name)
    differs_in_date = birth_date and request.birth_date and birth_date != request.birth_date
    return bool(differs_in_name and (differs_in_date or not (birth_date and request.birth_date)))


def _count(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0


def pause_after(seconds: float, share: float) -> float:
    """How long to pause after work that took this long: then it has this share of the time, and so of the line."""
    return seconds * (1.0 / share - 1.0)
