"""Modality Worklist: which items a query gets, and what each answer has (PS3.4 annex K). Pure.

An item has one scheduled procedure step (K.6.1.2.2). A step that has ended is no item, whatever the query asks.
All keys match by the rules of edge.query.matching. An answer has the keys that were asked, and no others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

from edge.dicom import items
from edge.dicom.commitment import STUDY_INSTANCE_UID
from edge.dicom.elements import CHARACTER_SET
from edge.dicom.items import Attributes, ElementValue, item
from edge.dicom.performed_step import ACCESSION_NUMBER, MODALITY, SCHEDULED_STEP_ID
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from edge.query.matching import NO_KEYS, compile_keys

PATIENT_NAME, PATIENT_ID = 0x00100010, 0x00100020
REQUESTED_PROCEDURE_ID, SCHEDULED_STEPS = 0x00401001, 0x00400100
SCHEDULED_STATION, START_DATE, START_TIME = 0x00400001, 0x00400002, 0x00400003
SCHEDULED_STATUS, STEP_DESCRIPTION, _PROTOCOL_CODES = 0x00400020, 0x00400007, 0x00400008
#: Scheduled Procedure Step Status of a step that is over (PS3.3 section C.4.10).
ENDED_STATUSES = frozenset({"COMPLETED", "DISCONTINUED", "CANCELED", "CANCELLED"})
STARTED_STATUS = "STARTED"

_CODE = (0x00080100, 0x00080102, 0x00080103, 0x00080104)
_STEP_KEYS = (
    MODALITY, 0x00321070, SCHEDULED_STATION, START_DATE, START_TIME, 0x00400004, 0x00400005, 0x00400006,
    STEP_DESCRIPTION, SCHEDULED_STEP_ID, 0x00400010, 0x00400011, 0x00400012, SCHEDULED_STATUS, 0x00400400,
)  # fmt: skip
_REFERENCE = (0x00081150, 0x00081155)
#: Sequences of coded values and of references.
_CODE_SEQUENCES = (0x00321064, 0x0040100A, 0x00081032)
_REFERENCE_SEQUENCES = (0x00081110, 0x00081120)
_KEYS = (
    ACCESSION_NUMBER, 0x00080051, 0x00080080, 0x00080081, 0x00080090, 0x00081080, PATIENT_NAME, PATIENT_ID, 0x00100021,
    0x00100024, 0x00100030, 0x00100032, 0x00100040, 0x00101000, 0x00101001, 0x00101002, 0x00101010, 0x00101020,
    0x00101030, 0x00101040, 0x00101060, 0x00102000, 0x00102110, 0x00102160, 0x00102180, 0x001021A0, 0x001021B0,
    0x001021C0, 0x001021D0, 0x001021F0, 0x00102203, 0x00104000, STUDY_INSTANCE_UID, 0x00321032, 0x00321033, 0x00321060,
    0x00380008, 0x00380010, 0x00380011, 0x00380016, 0x00380050, 0x00380060, 0x00380300, 0x00380400, 0x00380500,
    REQUESTED_PROCEDURE_ID, 0x00401002, 0x00401003, 0x00401004, 0x00401005, 0x00401008, 0x00401010, 0x00401400,
    0x00402001, 0x00402004, 0x00402005, 0x00402008, 0x00402009, 0x00402010, 0x00402016, 0x00402017, 0x00402400,
    0x00403001,
)  # fmt: skip
_SEQUENCE_TAGS = frozenset({0x00080051, 0x00101002, 0x00380500})
#: What an item may hold, and its step: any other key matches all and comes back empty, and FF01 says so.
SUPPORTED = frozenset({*_KEYS, *_CODE_SEQUENCES, *_REFERENCE_SEQUENCES, SCHEDULED_STEPS, *NO_KEYS})
_SUPPORTED_OF_STEP = frozenset({*_STEP_KEYS, _PROTOCOL_CODES, *NO_KEYS})


@dataclass(frozen=True, slots=True)
class WorklistItem:
    """One scheduled procedure step with its requested procedure and patient. `charset`: as its source wrote it."""

    data: Attributes
    charset: tuple[str, ...] = ()

    @property
    def step(self) -> Attributes:
        return self.data.items_of(SCHEDULED_STEPS)[0]

    @property
    def stations(self) -> tuple[str, ...]:
        """The AE titles for which the step is scheduled."""
        found = self.step.get(SCHEDULED_STATION)
        return tuple(each.strip() for each in found.values) if found is not None else ()

    @property
    def procedure_key(self) -> str:
        """What names the requested procedure where it has no Study Instance UID."""
        return "|".join(map(self.data.text, (ACCESSION_NUMBER, REQUESTED_PROCEDURE_ID, PATIENT_ID)))

    @property
    def key(self) -> str:
        """What names the item from poll to poll."""
        return f"{self.procedure_key}|{self.data.text(STUDY_INSTANCE_UID)}|{self.step.text(SCHEDULED_STEP_ID)}"

    def with_study_uid(self, uid: str) -> WorklistItem:
        return replace(self, data=Attributes({**self.data, **item({STUDY_INSTANCE_UID: uid})}))

    def with_status(self, status: str) -> WorklistItem:
        step = Attributes({**self.step, **item({SCHEDULED_STATUS: status})})
        return replace(self, data=Attributes({**self.data, SCHEDULED_STEPS: ElementValue("SQ", (), (step,))}))


#: What a step is worth once a modality has reported it (PS3.3 section C.4.10).
_STATUS_OF = {"IN PROGRESS": STARTED_STATUS, "COMPLETED": "COMPLETED", "DISCONTINUED": "DISCONTINUED"}


def encode_item(found: WorklistItem) -> bytes:
    """An item as the catalog keeps it."""
    return items.encode_items(found.data, EXPLICIT_VR_LITTLE_ENDIAN)


def decode_item(body: bytes, charset: str, performed: str) -> WorklistItem:
    """An item as it is served: a step that a modality has reported has that state, whatever its source says."""
    kept = tuple(charset.split("\\")) if charset else ()
    found = WorklistItem(items.decode_items(body, EXPLICIT_VR_LITTLE_ENDIAN), kept)
    found.data.pop(CHARACTER_SET, None)
    return found.with_status(_STATUS_OF[performed]) if performed else found


def broad_query(days: str) -> Attributes:
    """The identifier of a poll: all steps of these days, every key by name (K.6.1.2): else it is not returned.

    `days`: a range of dates; empty: any.
    """
    codes = [item(dict.fromkeys(_CODE, ""))]
    references = [item(dict.fromkeys(_REFERENCE, ""))]
    step = item({**dict.fromkeys(_STEP_KEYS, ""), START_DATE: days, _PROTOCOL_CODES: codes})
    flat = {tag: "" for tag in _KEYS if tag not in _SEQUENCE_TAGS}
    coded = dict.fromkeys(_CODE_SEQUENCES, codes)
    referenced = dict.fromkeys(_REFERENCE_SEQUENCES, references)
    return item({**flat, **coded, **referenced, SCHEDULED_STEPS: [step]})


def split_steps(data: Attributes) -> Iterator[WorklistItem]:
    """An answer of a source as items: one for each scheduled procedure step that it holds."""
    charset = data[CHARACTER_SET].values if CHARACTER_SET in data else ()
    for step in data.items_of(SCHEDULED_STEPS):
        one = Attributes({tag: value for tag, value in data.items() if tag != CHARACTER_SET})
        one[SCHEDULED_STEPS] = ElementValue("SQ", (), (step,))
        yield WorklistItem(one, charset)


def find_items(keys: Attributes, served: Iterable[WorklistItem]) -> Iterator[WorklistItem]:
    """The items that match a query, and whose step has not ended."""
    test = compile_keys(_list_matched(keys))
    return (each for each in served if each.step.text(SCHEDULED_STATUS) not in ENDED_STATUSES and test(each.data))


def _list_matched(keys: Attributes) -> Attributes:
    """The keys that items are matched with: those that they may hold (PS3.4 section K.2.2.1.1)."""
    matched = Attributes({tag: key for tag, key in keys.items() if tag in SUPPORTED})
    if steps := keys.items_of(SCHEDULED_STEPS):
        of_step = [Attributes({tag: each[tag] for tag in each if tag in _SUPPORTED_OF_STEP}) for each in steps]
        matched[SCHEDULED_STEPS] = ElementValue("SQ", (), of_step)
    return matched


def answer_maker(keys: Attributes) -> Callable[[WorklistItem], Attributes]:
    """What makes the answer to a query of an item."""
    return lambda found: _project(keys, found.data)


def _project(keys: Attributes, entity: Attributes) -> Attributes:
    """The keys that were asked, as the entity has them; what it lacks is empty."""
    answer = Attributes()
    for tag, key in keys.items():
        found = entity.get(tag)
        if tag in NO_KEYS:
            continue
        if found is None:
            answer[tag] = ElementValue(key.vr) if key.values or key.items else key
        elif key.vr != "SQ" or not any(key.items):
            answer[tag] = found  # a sequence without keys asks for all of it (K.2.2.1.2)
        else:
            answer[tag] = ElementValue("SQ", (), tuple(_project(key.items[0], each) for each in found.items))
    return answer


def has_unsupported_keys(keys: Attributes) -> bool:
    """Does the query ask for what no item has?"""
    of_steps = (each.keys() - _SUPPORTED_OF_STEP for each in keys.items_of(SCHEDULED_STEPS))
    return bool(keys.keys() - SUPPORTED) or any(of_steps)
