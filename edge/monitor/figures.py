"""Figures for the site and the central office, without patients: is what comes whole, lossless, and soon proved?

`count_arrivals` goes behind the headers that were read, `measure_studies` notes when studies were proved and whether
their dose report came, `summarize` makes the shares of the last week. Which objects are dose reports: X-Ray and
Enhanced X-Ray Radiation Dose SR (PS3.4 B.5), or Enhanced or Comprehensive SR under such a title (PS3.16 TID 10001).

Limits: the time from a study's first object to its proof has the time of its acquisition in it; a share is of objects,
so a large study counts for more.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge.config.sections import Config, Quality
from edge.store import figures
from edge.store.database import CatalogRow, Transaction
from edge.store.figures import Lossy
from edge.store.samples import DAY

#: Shares and times are of this number of days.
SPAN_DAYS = 7
#: A study is measured once nothing has come for it for this time.
MEASURED_AFTER_SECONDS = 120.0
#: A longer way from the first object to the proof is counted.
SLOW_SECONDS = 60.0
#: Dose reports are looked for among studies of this time.
DOSE_SPAN = 2 * DAY
FIGURES_KEPT_SECONDS = 400 * DAY
OBJECTS_BATCH = 2000

#: Transfer syntaxes that are lossy whatever the object says (PS3.5 section 8.2, PS3.6 annex A).
LOSSY_SYNTAXES = frozenset(
    {f"1.2.840.10008.1.2.4.{n}" for n in (50, 51, 52, 53, 54, 55, 56, 59, 60, 61, 62, 63, 64, 81)}
    | {f"1.2.840.10008.1.2.4.{n}" for n in range(100, 109)}
) - {"1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}
DOSE_REPORTS = frozenset({"1.2.840.10008.5.1.4.1.1.88.67", "1.2.840.10008.5.1.4.1.1.88.76"})
_OTHER_REPORTS = frozenset({"1.2.840.10008.5.1.4.1.1.88.22", "1.2.840.10008.5.1.4.1.1.88.33"})


@dataclass(frozen=True, slots=True)
class SenderFigures:
    """The last week of one sender. Shares are None where nothing came."""

    ae_title: str
    objects: int
    patient_id_share: float | None
    accession_share: float | None
    description_share: float | None
    referring_physician_share: float | None
    lossy_share: float | None
    private_share: float | None
    studies: int
    proof_median_seconds: float | None  # from a study's first object to its proof
    slow_share: float | None  # of the proved studies, those above SLOW_SECONDS
    dose_missing: int
    asks_worklist: bool


def is_lossy(transfer_syntax_uid: str, said: str) -> bool:
    """`said`: Lossy Image Compression (0028,2110), which stays 01 whatever happens later (PS3.3 C.7.6.1.1.5)."""
    return said.startswith("01") or transfer_syntax_uid in LOSSY_SYNTAXES


def is_private(sop_class_uid: str) -> bool:
    """Is it a SOP class that PS3.6 does not name?"""
    from edge.model.dictionary import STANDARD_UIDS  # noqa: PLC0415 - `edge status` never needs it

    return sop_class_uid not in STANDARD_UIDS


def is_dose_report(sop_class_uid: str, title: str) -> bool:
    return sop_class_uid in DOSE_REPORTS or (sop_class_uid in _OTHER_REPORTS and "radiation dose" in title.lower())


def dose_reports_of(conn: Transaction, study: int) -> list[str]:
    """The dose reports of a study that are here, as paths below the spool."""
    return [path for path, sop_class, title in figures.reports_of(conn, study) if is_dose_report(sop_class, title)]


def count_object(row: CatalogRow | Mapping[str, str], form: re.Pattern[str]) -> Counter[str]:
    """What one object adds to the counts."""
    return Counter(
        objects=1,
        patient_id=int(bool(row["patient_id"]) and form.fullmatch(row["patient_id"]) is not None),
        accession=int(bool(row["accession"])),
        description=int(bool(row["description"])),
        referring_physician=int(bool(row["referring_physician"])),
        lossy=int(is_lossy(row["transfer_syntax_uid"], row["lossy"])),
        private=int(is_private(row["sop_class_uid"])),
    )


def count_arrivals(conn: Transaction, quality: Quality) -> bool:
    """Count the next objects whose headers were read; False when there are none left.

    What was evicted before its header could be read, by an older release, is not counted.
    """
    rows = figures.list_new_objects(conn, OBJECTS_BATCH)
    counts: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    form = re.compile(quality.patient_id or ".+", re.DOTALL)
    counted = [row for row in rows if row["series_id"] is not None and not row["fetched_from"]]
    for row in counted:
        counts[int(row["received_at"] // DAY), row["calling_ae"]] += count_object(row, form)
    for (day, title), found in counts.items():
        figures.add_daily_counts(conn, day, title, found)
    for each in list_unexpected_lossy(counted, quality.lossy):
        figures.note_lossy(conn, each, DAY)
    firsts = {row["study_id"]: (row["study_id"], row["calling_ae"], row["received_at"]) for row in reversed(counted)}
    figures.enter_studies(conn, firsts.values())
    reports = [row["study_id"] for row in counted if is_dose_report(row["sop_class_uid"], row["title"])]
    figures.note_dose_reports(conn, reports)
    if rows:
        figures.keep_counted(conn, rows[-1]["id"])
    return len(rows) == OBJECTS_BATCH


def list_unexpected_lossy(rows: Sequence[CatalogRow], expected: Sequence[str]) -> list[Lossy]:
    """Lossy images by sender, of modalities of which none are expected."""
    found: dict[str, Lossy] = {}
    for row in rows:
        if row["modality"] in expected or not is_lossy(row["transfer_syntax_uid"], row["lossy"]):
            continue
        title, at = row["calling_ae"], row["received_at"]
        first, count = (found[title].first_at, found[title].count) if title in found else (at, 0)
        found[title] = Lossy(title, first, at, count + 1, row["modality"], row["transfer_syntax_uid"])
    return list(found.values())


def measure_studies(conn: Transaction, config: Config, now: float, dose_after: float) -> None:
    """Note which studies are proved, and which lack their dose report `dose_after` seconds after their last object."""
    figures.measure_proofs(conn, now - MEASURED_AFTER_SECONDS, now - SPAN_DAYS * DAY)
    figures.find_missing_dose(conn, config.quality.dose, now - DOSE_SPAN, now - dose_after)


def summarize(conn: Transaction, now: float) -> tuple[SenderFigures, ...]:
    """The figures of the last week, by sender."""
    since = now - SPAN_DAYS * DAY
    studies: dict[str, list[CatalogRow]] = defaultdict(list)
    for row in figures.studies_since(conn, since):
        studies[row["ae_title"]].append(row)
    askers = figures.worklist_askers(conn)
    sums = figures.list_sums(conn, int(since // DAY))
    return tuple(_figures_of(row, studies[row["ae_title"]], row["ae_title"] in askers) for row in sums)


def _figures_of(row: CatalogRow, studies: Sequence[CatalogRow], asks_worklist: bool) -> SenderFigures:
    times = [each["proved_at"] - each["first_at"] for each in studies if each["proved_at"] is not None]
    share = {name: row[name] / row["objects"] if row["objects"] else None for name in figures.COUNTS[1:]}
    return SenderFigures(
        row["ae_title"],
        row["objects"],
        share["patient_id"],
        share["accession"],
        share["description"],
        share["referring_physician"],
        share["lossy"],
        share["private"],
        len(studies),
        statistics.median(times) if times else None,
        share_of(times, SLOW_SECONDS),
        sum(each["dose"] == "missing" for each in studies),
        asks_worklist,
    )


def share_of(times: Iterable[float], above: float) -> float | None:
    """The share of times above a limit; None of nothing."""
    found = list(times)
    return sum(each > above for each in found) / len(found) if found else None
