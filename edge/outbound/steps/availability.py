"""What was performed and what arrived: missing images, and Instance Availability Notification (PS3.4 annex R).

A notification is made only when every instance of the step that is here is proved by its destinations, and names the
archive that has it, by its Retrieve AE Title (PS3.3 section C.4.23). While images may still come it waits for them.
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
#: Notifications that are owed are examined this often.
NOTIFY_SECONDS = 2.0
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
            owed = step_images.list_owed_notifications(conn)
        for each in owed:
            with self._db.reading() as conn:
                found = step_images.list_proved_instances(conn, each.step_id)
                missing = step_images.count_missing_images(conn, each.step_id)
            is_late = now - each.ended_at > config.mpps.missing_after
            if not config.mpps.ian or (not found and is_late):
                self._end(each.step_id)
            elif found and not any(one.is_open for one in found) and (not missing or is_late):
                self._enter(each.step_id, each.sop_instance_uid if each.is_reported else "", found)

    def _end(self, step: int) -> None:
        self._db.write(lambda conn: step_images.end_notification(conn, step))

    def _enter(self, step: int, uid: str, found: Sequence[ProvedInstance]) -> None:
        """One notification for each study (PS3.3 section C.4.23)."""
        titles = {name: each.ae_title for name, each in self._config().destinations.items()}
        studies: dict[str, list[ProvedInstance]] = defaultdict(list)
        for each in found:
            studies[each.study_uid].append(each)
        bodies = [(study, notification(uid, study, members, titles)) for study, members in studies.items()]
        now = self._clock()

        def enter(conn: Transaction) -> None:
            for study, body in bodies:
                name, own = f"available {step} {study}", new_step_uid()
                performed_steps.enter_notification(conn, step, name, own, EXPLICIT_VR_LITTLE_ENDIAN, body, now)

        self._db.write(enter)


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
