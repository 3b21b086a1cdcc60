"""Counts of what senders state and how long proof takes, without patients. The caller owns the transaction.

Objects are counted once, behind the reading of their headers (edge.storage.backfill), in the order of their arrival.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge.store.database import CatalogRow, Transaction
from edge.store.gateway_values import recall, remember
from edge.store.header_progress import read_place
from edge.store.patients import JOIN
from edge.store.samples import DAY

_PLACE = "figures"
#: Columns of daily_figure that are counts.
COUNTS = ("objects", "patient_id", "accession", "description", "referring_physician", "lossy", "private")


@dataclass(frozen=True, slots=True)
class Lossy:
    """Lossy images of one sender that were not expected."""

    ae_title: str
    first_at: float
    last_at: float
    count: int
    modality: str
    transfer_syntax_uid: str


def list_new_objects(conn: Transaction, limit: int) -> list[CatalogRow]:
    """The next objects whose headers were read, in the order of their arrival."""
    return conn.execute(
        "SELECT i.id, i.calling_ae, i.received_at, i.study_id, i.series_id, k.sop_class_uid, k.transfer_syntax_uid,"
        " coalesce(r.modality, '') AS modality, coalesce(p.patient_id, '') AS patient_id,"
        " coalesce(f.accession, '') AS accession, coalesce(f.description, '') AS description,"
        " coalesce(f.referring_physician, '') AS referring_physician, coalesce(h.lossy, '') AS lossy,"
        " coalesce(h.title, '') AS title, i.fetched_from"
        f" FROM instance i JOIN kind k ON k.id = i.kind_id {JOIN} LEFT JOIN instance_header h ON h.instance_id = i.id"
        " WHERE i.id > ? AND i.id <= ? ORDER BY i.id LIMIT ?",
        (int(recall(conn, _PLACE) or 0), read_place(conn), limit),
    ).fetchall()


def keep_counted(conn: Transaction, instance: int) -> None:
    """All objects up to this one are counted."""
    remember(conn, _PLACE, str(instance))


def add_daily_counts(conn: Transaction, day: int, ae_title: str, counts: Mapping[str, int]) -> None:
    """Add to the counts of a day."""
    names = ", ".join(COUNTS)
    sums = ", ".join(f"{name} = {name} + excluded.{name}" for name in COUNTS)
    conn.execute(
        f"INSERT INTO daily_figure (day, ae_title, {names}) VALUES (:day, :ae_title,"
        f" {', '.join(f':{name}' for name in COUNTS)}) ON CONFLICT (day, ae_title) DO UPDATE SET {sums}",
        {"day": day, "ae_title": ae_title, **{name: counts.get(name, 0) for name in COUNTS}},
    )


def note_lossy(conn: Transaction, each: Lossy, spell_seconds: float) -> None:
    """Add to a sender's spell of lossy images; after `spell_seconds` without, a new one begins."""
    conn.execute(
        "INSERT INTO lossy_sender VALUES (:ae_title, :first_at, :last_at, :n, :modality, :syntax)"
        " ON CONFLICT (ae_title) DO UPDATE SET"
        " first_at = CASE WHEN excluded.last_at - last_at > :spell THEN excluded.first_at ELSE first_at END,"
        " n = CASE WHEN excluded.last_at - last_at > :spell THEN excluded.n ELSE n + excluded.n END,"
        " last_at = excluded.last_at, modality = excluded.modality,"
        " transfer_syntax_uid = excluded.transfer_syntax_uid",
        {
            "ae_title": each.ae_title,
            "first_at": each.first_at,
            "last_at": each.last_at,
            "n": each.count,
            "modality": each.modality,
            "syntax": each.transfer_syntax_uid,
            "spell": spell_seconds,
        },
    )


def list_lossy(conn: Transaction, since: float) -> list[Lossy]:
    """Who has sent lossy images since then that were not expected."""
    rows = conn.execute("SELECT * FROM lossy_sender WHERE last_at >= ? ORDER BY ae_title", (since,))
    return [Lossy(*row) for row in rows]


# -- studies -----------------------------------------------------------------------------------------------------------


def enter_studies(conn: Transaction, found: Iterable[tuple[int, str, float]]) -> None:
    """Studies of which objects have come: (study, sender, when); the first says when it began."""
    conn.executemany(
        "INSERT INTO measured_study (study_id, ae_title, first_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING", found
    )


def note_dose_reports(conn: Transaction, studies: Sequence[int]) -> None:
    """Note that the dose reports of these studies have come."""
    conn.executemany("UPDATE measured_study SET dose = 'there' WHERE study_id = ?", [(each,) for each in studies])


def measure_proofs(conn: Transaction, quiet_before: float, since: float) -> int:
    """Note when studies were proved of which nothing has come for a while and nothing is open. Returns how many."""
    done = conn.execute(
        "UPDATE measured_study SET proved_at = (SELECT max(i.confirmed_at) FROM instance i"
        " WHERE i.study_id = measured_study.study_id)"
        " WHERE proved_at IS NULL AND first_at > :since AND EXISTS (SELECT 1 FROM study s"
        " WHERE s.id = measured_study.study_id AND s.last_received < :quiet)"
        " AND NOT EXISTS (SELECT 1 FROM instance i WHERE i.study_id = measured_study.study_id"
        " AND i.state = 'stored' AND (i.open_deliveries > 0 OR i.confirmed_at IS NULL))",
        {"quiet": quiet_before, "since": since},
    )
    return done.rowcount


def find_missing_dose(conn: Transaction, modalities: Sequence[str], since: float, quiet_before: float) -> int:
    """Mark studies of these modalities whose last object came before `quiet_before`, and no dose report."""
    done = conn.execute(
        "UPDATE measured_study SET dose = 'missing' WHERE dose = '' AND first_at > :since"
        " AND EXISTS (SELECT 1 FROM study s WHERE s.id = measured_study.study_id AND s.last_received < :quiet)"
        " AND EXISTS (SELECT 1 FROM study_facts f JOIN series r ON r.study_facts_id = f.id"
        " WHERE f.study_id = measured_study.study_id AND r.modality IN (SELECT value FROM json_each(:modalities)))",
        {"since": since, "quiet": quiet_before, "modalities": json.dumps(list(modalities))},
    )
    return done.rowcount


def missing_dose(conn: Transaction, since: float) -> list[tuple[str, int, float]]:
    """(sender, studies without a dose report, when the first began) of those that began since then."""
    rows = conn.execute(
        "SELECT ae_title, count(*), min(first_at) FROM measured_study WHERE dose = 'missing' AND first_at > ?"
        " GROUP BY ae_title ORDER BY ae_title",
        (since,),
    )
    return [(row[0], row[1], row[2]) for row in rows]


def forget_old_figures(conn: Transaction, before: float) -> None:
    conn.execute("DELETE FROM measured_study WHERE first_at < ?", (before,))
    conn.execute("DELETE FROM daily_figure WHERE day < ?", (int(before // DAY),))


# -- reading -----------------------------------------------------------------------------------------------------------


def list_sums(conn: Transaction, day: int) -> list[CatalogRow]:
    """The counts of each sender since a day."""
    sums = ", ".join(f"sum({name}) AS {name}" for name in COUNTS)
    return conn.execute(
        f"SELECT ae_title, {sums} FROM daily_figure WHERE day >= ? GROUP BY ae_title ORDER BY ae_title", (day,)
    ).fetchall()


def list_days(conn: Transaction, day: int) -> list[CatalogRow]:
    """The counts of all senders together, by day."""
    sums = ", ".join(f"sum({name}) AS {name}" for name in COUNTS)
    return conn.execute(
        f"SELECT day, {sums} FROM daily_figure WHERE day >= ? GROUP BY day ORDER BY day", (day,)
    ).fetchall()


def studies_since(conn: Transaction, since: float) -> list[CatalogRow]:
    """Sender, beginning, proof and dose of each study that began since then."""
    return conn.execute(
        "SELECT ae_title, first_at, proved_at, dose FROM measured_study WHERE first_at > ?", (since,)
    ).fetchall()


def worklist_askers(conn: Transaction) -> set[str]:
    """AE titles of which one, or another at the same address, has ever asked for the worklist."""
    rows = conn.execute(
        "SELECT DISTINCT ae_title FROM peer WHERE address IN"
        " (SELECT address FROM peer WHERE asked_worklist_at IS NOT NULL)"
    )
    return {row[0] for row in rows}


def reports_of(conn: Transaction, study: int) -> list[tuple[str, str, str]]:
    """(path below the spool, SOP class, title) of each stored object of a study that has a title, or is a report."""
    rows = conn.execute(
        "SELECT i.path, k.sop_class_uid, coalesce(h.title, '') FROM instance i JOIN kind k ON k.id = i.kind_id"
        " LEFT JOIN instance_header h ON h.instance_id = i.id"
        " WHERE i.study_id = ? AND i.state = 'stored' AND k.sop_class_uid LIKE '1.2.840.10008.5.1.4.1.1.88.%'"
        " ORDER BY i.id",
        (study,),
    )
    return [(row[0], row[1], row[2]) for row in rows]
