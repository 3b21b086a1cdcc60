"""Keeps the worklist: polls its source ([worklist] from), or makes it of the orders that HL7 brings.

Promise: a list is replaced only by a complete one. While the source is away the last list stays, with its age. A poll
is no custody: it goes straight into the catalog. With `per_modality` the source is asked under each modality's title.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta

from edge.config.sections import Config, Destination
from edge.dicom.commitment import STUDY_INSTANCE_UID
from edge.dicom.items import Attributes, item
from edge.dicom.performed_step import ACCESSION_NUMBER, MODALITY, SCHEDULED_STEP_ID
from edge.dicom.scu import Secure
from edge.dicom.worklist import find_worklist
from edge.errors import EdgeError
from edge.identity.order import Order, OrderStatus
from edge.model import Priority
from edge.query import worklist as pure
from edge.query.worklist import WorklistItem
from edge.store import orders, worklist
from edge.store.database import Store, Transaction
from edge.store.worklist import StoredItem
from edge.worker import ThreadSpec, Worker

log = logging.getLogger(__name__)

WORKLIST_THREAD = ThreadSpec("worklist", __name__, "the worklist", "after a poll")

#: Days before and after today that a list covers.
DAYS_BEFORE, DAYS_AFTER = 1, 2
#: Orders are read this often; the next due poll is looked for as often.
ORDERS_SECONDS = 2.0
#: The view that is served to every modality without one of its own.
COMMON_VIEW = ""
#: Requested Procedure Priority (PS3.3 section C.4.11).
_PRIORITIES = {Priority.STAT: "STAT", Priority.URGENT: "HIGH", Priority.ROUTINE: "ROUTINE"}


class WorklistKeeper:
    """See the module's docstring."""

    def __init__(
        self,
        db: Store,
        config: Callable[[], Config],
        secure_for: Callable[[Destination], Secure | None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._db, self._config, self._secure_for, self._clock = db, config, secure_for, clock
        self._due: dict[str, float] = {}  # view -> when it is polled next
        self._polled_from, self._matches_dates = "", False  # the source; it has given items for a range of dates
        self._is_wanted = threading.Event()  # a person wants the list now
        self.worker = Worker(WORKLIST_THREAD, self.step)

    def ask_now(self) -> None:
        """Have the source asked at once. Any thread."""
        self._is_wanted.set()
        self.worker.wake()

    def step(self) -> float:
        """Do what is due. Seconds until the next step."""
        config = self._config()
        if self._db.failure is not None or not is_served(config):
            return ORDERS_SECONDS
        views = views_of(config)
        if self._polled_from != config.worklist.from_ or self._is_wanted.is_set():
            self._is_wanted.clear()
            self._polled_from, self._matches_dates, self._due = config.worklist.from_, False, {}
        self._due = {view: at for view, at in self._due.items() if view in views}
        self._db.write(lambda conn: worklist.forget_views(conn, views, self._clock()))
        source = config.destinations.get(config.worklist.from_)
        if source is None:
            self._read_orders(config)
            return ORDERS_SECONDS
        for view, title in views.items():
            now = self._clock()
            if not now < self._due.get(view, 0.0) <= now + config.worklist.refresh:
                self._due[view] = now + config.worklist.refresh
                self._poll(config, source, view, title)
        return max(0.1, min(ORDERS_SECONDS, *(at - self._clock() for at in self._due.values())))

    def _poll(self, config: Config, source: Destination, view: str, title: str) -> None:
        now = self._clock()
        try:
            answers = self._ask(source, title, pure.broad_query("-".join(_list_days(config, now))))
        except EdgeError as error:
            text = str(error)
            log.warning("the worklist of %s is not read: %s", source.name, text)
            self._db.write(lambda conn: worklist.note_failure(conn, view, text, now))
            return
        found = [one for each in answers for one in pure.split_steps(each)]
        self._db.write(lambda conn: store_list(conn, view, found, self._clock()))

    def _ask(self, source: Destination, title: str, keys: Attributes) -> list[Attributes]:
        """The source's list. One that never had anything for its days may not match dates: it gives all."""
        secure = self._secure_for(source)
        found = find_worklist(source, title, keys, secure)
        self._matches_dates = self._matches_dates or bool(found)
        if not self._matches_dates:
            try:
                found = find_worklist(source, title, pure.broad_query(""), secure)
            except EdgeError as error:
                log.info("the worklist of %s without dates is not read: %s", source.name, error)
        return found

    def _read_orders(self, config: Config) -> None:
        now = self._clock()
        first, last = _list_days(config, now)
        with self._db.reading() as conn:
            found = [item_of_order(each) for each in orders.list_worklist_orders(conn, first, last)]
        self._db.write(lambda conn: store_list(conn, COMMON_VIEW, found, now))


def is_served(config: Config) -> bool:
    """Does any modality ask for a worklist, or is anything fetched ahead of appointments?"""
    return bool(config.prefetches) or any("worklist" in each.services for each in config.modalities.values())


def views_of(config: Config) -> dict[str, str]:
    """The lists that are read: view -> AE title under which the source is asked."""
    if not config.worklist.from_ or not config.worklist.per_modality:
        return {COMMON_VIEW: config.listen.ae_title}
    asking = [each for each in config.modalities.values() if "worklist" in each.services]
    return {each.name: each.ae_title for each in asking if not set(each.ae_title) & set("*?[")}


def _list_days(config: Config, now: float) -> tuple[str, str]:
    """The first and the last day of a list, in the site's time zone."""
    today = config.calendar.day_at(now)
    bounds = today - timedelta(days=DAYS_BEFORE), today + timedelta(days=DAYS_AFTER)
    return bounds[0].strftime("%Y%m%d"), bounds[1].strftime("%Y%m%d")


def store_list(conn: Transaction, view: str, found: Sequence[WorklistItem], now: float) -> None:
    """Enter a complete list; each item has a Study Instance UID then."""
    worklist.replace_items(conn, view, sorted(_make_stored(conn, found, now), key=lambda each: each.starts_at), now)


def _make_stored(conn: Transaction, found: Sequence[WorklistItem], now: float) -> Iterator[StoredItem]:
    for each in found:
        if not each.data.text(STUDY_INSTANCE_UID):
            each = each.with_study_uid(worklist.find_study_uid(conn, each.procedure_key, now))
        step = each.step
        starts = (step.text(pure.START_DATE) + step.text(pure.START_TIME).partition(".")[0]).ljust(14, "0")
        body = pure.encode_item(each)
        yield StoredItem(
            body,
            "\\".join(each.charset),
            each.data.text(STUDY_INSTANCE_UID),
            step.text(SCHEDULED_STEP_ID),
            starts,
        )


def item_of_order(order: Order) -> WorklistItem:
    """An order as an item. Texts whose character set is not known are written as they were understood."""
    patient = order.patient
    step: dict[int, str | int | Sequence[Attributes]] = {
        MODALITY: order.modality,
        pure.SCHEDULED_STATION: order.station_ae,
        pure.START_DATE: order.scheduled_at[:8],
        pure.START_TIME: order.scheduled_at[8:14],
        0x00400006: order.physician,
        pure.STEP_DESCRIPTION: order.procedure_text,
        SCHEDULED_STEP_ID: order.step_id or order.procedure_id or order.accession,
        0x00400010: order.station_name,
        pure.SCHEDULED_STATUS: pure.STARTED_STATUS if order.status is OrderStatus.IN_PROGRESS else "SCHEDULED",
    }
    codes = []
    if order.procedure_code:
        code = {0x00080100: order.procedure_code, 0x00080102: order.procedure_scheme, 0x00080104: order.procedure_text}
        codes = [item(code)]
    issuer = [item({0x00400031: order.issuer})] if order.issuer else []
    return WorklistItem(
        item(
            {
                ACCESSION_NUMBER: order.accession,
                0x00080051: issuer,
                0x00080090: order.referring_physician,
                pure.PATIENT_NAME: patient.name,
                pure.PATIENT_ID: patient.patient_id,
                0x00100021: patient.issuer,
                0x00100030: patient.birth_date,
                0x00100040: patient.sex,
                STUDY_INSTANCE_UID: order.study_uid,
                0x00321060: order.procedure_text,
                0x00321064: codes,
                pure.SCHEDULED_STEPS: [item(step)],
                pure.REQUESTED_PROCEDURE_ID: order.procedure_id or order.accession,
                0x00401003: _PRIORITIES[order.priority],
                0x00402016: order.placer_number,
                0x00402017: order.filler_number,
            }
        )
    )
