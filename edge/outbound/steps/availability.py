"""Missing images of performed steps, and Instance Availability Notification (PS3.4 annex R).

A notification is made only when every instance of the step that is here is proved by its destinations, and names the
archive that has it, by its Retrieve AE Title (PS3.3 section C.4.23). While images may still come it waits for them, and
as long for a person where none has what is held; then the others are announced, and all of them once that is proved.
A study that no modality reports is announced as well, once it has rested for [mpps] ian_after.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from edge.config.sections import Config
from edge.dicom import items
from edge.dicom.commitment import SERIES_INSTANCE_UID, STUDY_INSTANCE_UID
from edge.dicom.commitment_data import RETRIEVE_AE_TITLE
from edge.dicom.items import Attributes
from edge.dicom.performed_step import MODALITY_PERFORMED_PROCEDURE_STEP, SOP_CLASS, SOP_INSTANCE, new_step_uid
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from edge.store import gateway_values, performed_steps, step_images
from edge.store.database import Store, Transaction
from edge.store.step_images import ProvedInstance

REFERENCED_STEPS, REFERENCED_SERIES, REFERENCED_SOPS = 0x00081111, 0x00081115, 0x00081199
INSTANCE_AVAILABILITY, WORKITEM_CODES = 0x00080056, 0x00404019

#: A step with missing images is compared again this often, until it is this old.
COMPARE_SECONDS, COMPARED_FOR_SECONDS = 20.0, 7 * 86_400.0
#: Notifications that are owed are examined this often, some at a time.
NOTIFY_SECONDS, MOST_EXAMINED = 2.0, 50
#: Up to which moment studies without a step are examined, in the table of the gateway's own values.
_EXAMINED = "unreported studies examined"
#: That moment is written down at least this often, in seconds.
_EXAMINED_SECONDS = 600.0


class Availability:
    """See the module's docstring. One thread at a time."""

    def __init__(
        self,
        db: Store,
        config: Callable[[], Config],
        clock: Callable[[], float],
        monotonic: Callable[[], float],
    ) -> None:
        self._db, self._config, self._clock, self._monotonic = db, config, clock, monotonic
        self._notify_at = 0.0  # monotonic
        self._examined = 0  # the last step that was, of those that are owed a notification

    def step(self) -> None:
        """Compare what is due, and make the notifications of what is proved."""
        self._compare()
        if (now := self._monotonic()) >= self._notify_at:
            self._notify_at = now + NOTIFY_SECONDS
            self._find_unreported()
            self._notify()

    def _compare(self) -> None:
        now = self._clock()
        with self._db.reading() as conn:
            due = [
                (step, ended_at, step_images.count_missing_images(conn, step))
                for step, ended_at in step_images.list_due_comparisons(conn, now)
            ]

        def note(conn: Transaction) -> None:
            for step, ended_at, missing in due:
                is_open = missing and now - ended_at < COMPARED_FOR_SECONDS
                step_images.note_comparison(conn, step, missing, now + COMPARE_SECONDS if is_open else None)

        if due:
            self._db.write(note)

    def _find_unreported(self) -> None:
        """Studies that have rested for a while, and that no step names."""
        mpps, now = self._config().mpps, self._clock()
        if not mpps.ian:
            return
        until = now - mpps.ian_after
        with self._db.reading() as conn:
            known = gateway_values.recall(conn, _EXAMINED)
            after = until if known is None else float(known)
            found = step_images.list_unreported_studies(conn, after, until) if after < until else []
        if known is not None and not found and 0 <= until - after < _EXAMINED_SECONDS:
            return  # else it is written down: from time to time, and when the clock was set back

        def enter(conn: Transaction) -> None:
            for study in found:
                step_images.enter_unreported_study(conn, study, new_step_uid(), now)
            gateway_values.remember(conn, _EXAMINED, repr(until))

        self._db.write(enter)

    def _notify(self) -> None:
        config, now = self._config(), self._clock()
        with self._db.reading() as conn:
            owed = step_images.list_owed_notifications(conn, self._examined, MOST_EXAMINED)
        self._examined = owed[-1].step_id if len(owed) == MOST_EXAMINED else 0
        for each in owed:
            with self._db.reading() as conn:
                found = step_images.list_proved_instances(conn, each.step_id)
                missing = step_images.count_missing_images(conn, each.step_id)
            is_late = now - each.ended_at > config.mpps.missing_after
            if not config.mpps.ian or (not found and is_late):
                self._end(each.step_id)
            elif proved := choose_announced(found, missing, is_late=is_late):
                step_uid, is_last = each.sop_instance_uid if each.is_reported else "", not any_held(found)
                self._enter(each.step_id, step_uid, proved, is_last=is_last)

    def _end(self, step: int) -> None:
        self._db.write(lambda conn: step_images.end_notification(conn, step))

    def _enter(self, step: int, uid: str, found: Sequence[ProvedInstance], *, is_last: bool) -> None:
        """One notification for each study (PS3.3 section C.4.23), and again where more of it is proved by now."""
        titles = {name: each.ae_title for name, each in self._config().destinations.items()}
        studies: dict[str, list[ProvedInstance]] = defaultdict(list)
        for each in found:
            studies[each.study_uid].append(each)
        named = {f"available {step} {study} {len(members)}": study for study, members in studies.items()}
        with self._db.reading() as conn:
            new = {name: study for name, study in named.items() if not performed_steps.is_known_message(conn, name)}
        bodies = {name: notification(uid, study, studies[study], titles) for name, study in new.items()}
        now = self._clock()

        def enter(conn: Transaction) -> None:
            for name, body in bodies.items():
                given = name, new_step_uid(), EXPLICIT_VR_LITTLE_ENDIAN, body, now
                performed_steps.enter_notification(conn, step, *given)
            if is_last:
                step_images.end_notification(conn, step)

        if bodies or is_last:
            self._db.write(enter)


def any_held(found: Sequence[ProvedInstance]) -> bool:
    """Does a person decide about any that no destination has?"""
    return any(each.is_held for each in found)


def choose_announced(found: Sequence[ProvedInstance], missing: int, *, is_late: bool) -> list[ProvedInstance]:
    """What may be announced now: nothing while something is on its way, or may still come."""
    is_whole = not missing and not any_held(found)
    if any(each.is_open for each in found) or not (is_whole or is_late):
        return []
    return [each for each in found if each.kept_by]


def notification(step_uid: str, study_uid: str, found: Sequence[ProvedInstance], titles: dict[str, str]) -> bytes:
    """The data set of a notification (PS3.4 table R.3-1). `titles`: of destinations, by name.

    `step_uid`: empty where no modality has reported a step; then the sequence is there without an item.
    """
    series: dict[str, list[Attributes]] = defaultdict(list)
    for each in found:
        series[each.series_uid].append(
            items.item(
                {
                    RETRIEVE_AE_TITLE: titles.get(each.kept_by, ""),
                    INSTANCE_AVAILABILITY: "ONLINE",
                    SOP_CLASS: each.sop_class_uid,
                    SOP_INSTANCE: each.sop_instance_uid,
                }
            )
        )
    step = items.item({SOP_CLASS: MODALITY_PERFORMED_PROCEDURE_STEP, SOP_INSTANCE: step_uid, WORKITEM_CODES: []})
    listed = [items.item({SERIES_INSTANCE_UID: uid, REFERENCED_SOPS: members}) for uid, members in series.items()]
    steps = [step] if step_uid else []
    found_in = items.item({REFERENCED_STEPS: steps, STUDY_INSTANCE_UID: study_uid, REFERENCED_SERIES: listed})
    return items.encode_items(found_in, EXPLICIT_VR_LITTLE_ENDIAN)
