"""The questions that people ask the centre: each is a read of the database and a pure function of it, with its columns.

Pages, commands and exports all come from `QUESTIONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.central import availability, capacity, equipment, figures, ledgers
from edge.central.columns import Answer, Column
from edge.central.config import CentralConfig
from edge.store.central import announcements, sites
from edge.store.central.ledgers import list_ledgers
from edge.store.engine import EngineTransaction, Row


@dataclass(frozen=True, slots=True)
class Question:
    """One question; `none` is what is said where the answer is empty.

    `read` is what it needs of the database at a time, `answer` computes its rows from that.
    """

    name: str
    title: str
    means: str
    none: str
    columns: tuple[Column, ...]
    read: Callable[[EngineTransaction, float], Any]
    answer: Callable[[Any, CentralConfig, float], Answer]

    def ask(self, conn: EngineTransaction, config: CentralConfig, now: float) -> Answer:
        """Its rows."""
        return self.answer(self.read(conn, now), config, now)


def list_announced(found: tuple[Sequence[Row], Sequence[Row]], config: CentralConfig, _now: float) -> Answer:
    """What people at the sites have announced, the latest first."""
    listed, known = found
    names = config.names_of(known)
    return [{**each, "name": names.get(each["site"], "")} for each in listed]


def _read_statuses(conn: EngineTransaction, _now: float) -> Sequence[Row]:
    return sites.list_statuses(conn)


_SITE = (Column("site", "Site"), Column("name", "Name"))
_TITLE = (
    Column("ae_title", "AE title"),
    Column("mark", "Mark"),
    Column("address", "Address"),
    Column("manufacturer", "Manufacturer"),
    Column("model", "Model"),
    Column("serial", "Serial number"),
    Column("software", "Software"),
    Column("changed_at", "Changed", "moment"),
    Column("first_seen", "First seen", "moment"),
    Column("last_seen", "Last seen", "moment"),
    Column("admitted", "Admitted"),
)

QUESTIONS: Mapping[str, Question] = {
    each.name: each
    for each in (
        Question(
            "filling",
            "Which sites fill up this week?",
            "By the site's own forecast, or if the disk grows as in the last week; whichever is sooner.",
            "No site fills up within a week.",
            (
                *_SITE,
                Column("used_fraction", "Used", "share"),
                Column("full_in_seconds", "Full in", "seconds"),
                Column("full_at", "Full at", "moment"),
                Column("by_site_seconds", "By the site", "seconds"),
                Column("by_trend_seconds", "By the week", "seconds"),
            ),
            capacity.read_growth,
            capacity.list_filling,
        ),
        Question(
            "equipment",
            "Which equipment is not registered?",
            "AE titles that a site has seen and that its [site] table does not name. Register them, or find out more.",
            "All equipment that was seen is registered.",
            (*_SITE, *_TITLE),
            _read_statuses,
            equipment.list_unregistered,
        ),
        Question(
            "downtime",
            "How long was each site down?",
            "By site and month (UTC), 13 months back. Unreachable: the gateway ran, only its link was cut."
            " Planned: during maintenance, which does not count as down.",
            "No site was down or unreachable.",
            (
                *_SITE,
                Column("month", "Month"),
                Column("outages", "Outages", "count"),
                Column("down_seconds", "Down", "seconds"),
                Column("planned_seconds", "Planned", "seconds"),
                Column("unreachable_seconds", "Unreachable", "seconds"),
                Column("available", "Available", "exact"),
            ),
            availability.read_outages,
            availability.list_downtime,
        ),
        Question(
            "capacity",
            "Where will the disks be in three years?",
            "A straight line through the days of the last year. Keeps: how many days of intake the disk holds.",
            "Nothing has been measured yet.",
            (
                *_SITE,
                Column("total_bytes", "Disk", "size"),
                Column("used_bytes", "Used", "size"),
                Column("growth_per_year_bytes", "Growth a year", "size"),
                Column("used_in_1_years_bytes", "Used in 1 year", "size"),
                Column("used_in_2_years_bytes", "Used in 2 years", "size"),
                Column("used_in_3_years_bytes", "Used in 3 years", "size"),
                Column("full_at", "Full", "moment"),
                Column("intake_per_day_bytes", "Intake a day", "size"),
                Column("intake_per_day_in_3_years_bytes", "Intake in 3 years", "size"),
                Column("announced_per_month_bytes", "Announced a month", "size"),
                Column("keeps_now_days", "Keeps, days", "count"),
                Column("keeps_in_3_years_days", "Keeps in 3 years", "count"),
                Column("days", "Days measured", "count"),
            ),
            capacity.read_sums,
            capacity.project_capacity,
        ),
        Question(
            "figures",
            "What does the equipment send?",
            "By sender, of the last week: shares of its objects, and of studies proved more than 60 s after their"
            " first object; before: the same four weeks ago.",
            "No site has reported figures yet.",
            (
                *_SITE,
                Column("ae_title", "AE title"),
                Column("objects", "Objects", "count"),
                Column("patient_id_share", "Patient ID", "share"),
                Column("patient_id_share_before", "Before", "share"),
                Column("accession_share", "Accession", "share"),
                Column("description_share", "Description", "share"),
                Column("referring_physician_share", "Referring", "share"),
                Column("lossy_share", "Lossy", "share"),
                Column("private_share", "Private", "share"),
                Column("slow_share", "Slow", "share"),
                Column("slow_share_before", "Before", "share"),
                Column("proof_median_seconds", "Proof", "seconds"),
                Column("dose_missing", "No dose report", "count"),
                Column("asks_worklist", "Worklist"),
            ),
            figures.read_figures,
            figures.list_senders,
        ),
        Question(
            "announced",
            "What have sites announced?",
            "New equipment, storage and requirements of the last year, by a person at the site.",
            "Nothing was announced in the last year.",
            (
                *_SITE,
                Column("at", "Announced", "moment"),
                Column("kind", "What"),
                Column("from_date", "From"),
                Column("expected_bytes_per_month", "A month", "size"),
                Column("said", "Text"),
            ),
            lambda conn, now: (announcements.list_since(conn, now - capacity.YEAR), sites.list_names(conn)),
            list_announced,
        ),
        Question(
            "inventory",
            "Which AE titles are there?",
            "Orphaned: registered, but never seen or not for two months. Unknown: seen, registered nowhere."
            " Misrouted: seen here, registered elsewhere.",
            "No AE title is registered or was seen.",
            (*_SITE, *_TITLE),
            _read_statuses,
            equipment.list_titles,
        ),
        Question(
            "ledgers",
            "Is each custody ledger unchanged?",
            "Proved: the site has shown that its ledger still holds the head that was acknowledged. Contradicted:"
            " it does not; see the incident. Not proved: the site is of a version that cannot.",
            "No site has reported yet.",
            (
                *_SITE,
                Column("state", "Ledger"),
                Column("era", "Era"),
                Column("entries", "Entries", "count"),
                Column("acknowledged_seq", "Acknowledged", "count"),
                Column("acknowledged_at", "At", "moment"),
                Column("proved_seq", "Proved", "count"),
                Column("proved_at", "Proved at", "moment"),
                Column("incident", "Incident"),
                Column("acknowledged_head", "Head"),
            ),
            lambda conn, _now: list_ledgers(conn),
            ledgers.list_ledger_states,
        ),
    )
}
