"""The monthly report for people and spreadsheets: the same tables on the page and in the command, and CSV. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from edge.monitor.monthly import MonthlyReport, Volume
from edge.text import align_columns, amount, moment_text, percent_exact, printable, quote_formula, size, span

ReportCell = str | int | float | None


@dataclass(frozen=True, slots=True)
class ReportTable:
    """One part of a report. `numbers`: columns that are aligned to the right; `none`: said where there is no row."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[Sequence[ReportCell]]
    numbers: tuple[str, ...] = ()
    none: str = "None."
    note: str = ""


def report_tables(found: MonthlyReport) -> list[ReportTable]:
    """Every part of the report, in order."""
    return [
        _availability(found),
        _volumes("Received", "Modality", found.received),
        _volumes("Sent", "Destination", found.sent),
        ReportTable(
            "Largest backlogs",
            ("Destination", "Images", "When"),
            [(each.name, each.most, moment_text(each.at)) for each in found.backlogs],
            ("Images",),
            "Nothing was measured.",
        ),
        ReportTable(
            "Alerts",
            ("Alert", "How often", "Open for"),
            [(each.kind, each.count, span(each.seconds)) for each in found.alerts],
            ("How often",),
            "No alert was notified.",
        ),
        ReportTable(
            "New equipment",
            ("AE title", "Address", "Modality", "Equipment", "First call"),
            [
                (
                    printable(each.ae_title),
                    each.address,
                    each.modality,
                    printable(f"{each.manufacturer} {each.model}".strip()),
                    moment_text(each.first_seen),
                )
                for each in found.equipment
            ],
            none="No equipment called for the first time.",
        ),
        _capacity(found),
    ]


def summary_lines(found: MonthlyReport) -> list[str]:
    """The month in a few sentences."""
    lines = [
        f"Available {percent_exact(found.available)}: {span(found.unplanned_seconds)} of unplanned and"
        f" {span(found.planned_seconds)} of planned downtime."
        if found.unplanned_seconds or found.planned_seconds
        else "Available without any downtime.",
        f"{size(found.received_bytes)} received; {amount(sum(each.count for each in found.alerts), 'alert')} notified.",
    ]
    if found.measured_from is not None:
        lines.append(f"Measured from {moment_text(found.measured_from)} on.")
    if not found.month.is_over:
        lines.append(f"The month goes on: this is its part until {moment_text(found.made_at)}.")
    return lines


def report_letter(found: MonthlyReport) -> tuple[str, str]:
    """The report as a mail: its subject and its text."""
    parts = ["\n".join(summary_lines(found))]
    for each in report_tables(found):
        lines = [each.title, each.note] if each.note else [each.title]
        if each.rows:
            lines.append(align_columns([each.columns, *([_cell(value) for value in row] for row in each.rows)]))
        else:
            lines.append(each.none)
        parts.append("\n".join(lines))
    text = "\n\n".join([*parts, "It names no patient.\n"])
    return f"[Edge {found.site_id} {found.site_name}] the report of {found.month.name}", text


def _cell(value: ReportCell) -> str:
    return "-" if value is None or value == "" else f"{value:,}" if isinstance(value, int) else printable(str(value))


def _availability(found: MonthlyReport) -> ReportTable:
    rows = [
        (
            moment_text(each.began),
            moment_text(each.ended),
            span(each.seconds),
            "planned" if each.planned else "unplanned",
            each.detail if each.planned and each.detail else each.why,
        )
        for each in found.downtimes
    ]
    return ReportTable("Downtimes", ("From", "To", "Lasted", "Kind", "Why"), rows, none="No downtime.")


def _volumes(title: str, what: str, found: Sequence[Volume]) -> ReportTable:
    rows = [
        (each.name, each.objects, size(each.bytes), "-" if each.answer_seconds is None else _milliseconds(each))
        for each in found
    ]
    return ReportTable(title, (what, "Objects", "Size", "Mean answer"), rows, ("Objects", "Size", "Mean answer"))


def _milliseconds(each: Volume) -> str:
    return f"{(each.answer_seconds or 0.0) * 1000:.0f} ms"


def _capacity(found: MonthlyReport) -> ReportTable:
    known = found.capacity
    note = f"Disk {size(known.disk_bytes)}, used {size(known.used_bytes)}."
    if known.intake_per_day_bytes is None:
        text = f"Known after two weeks of measuring; {amount(known.days, 'whole day')} so far."
        return ReportTable("Capacity", ("In", "Intake a day", "Disk used"), [], none=text, note=note)
    keeps = "" if known.keeps_days is None else f" The disk holds {known.keeps_days:.0f} days of today's intake."
    rows: list[tuple[ReportCell, ...]] = [("today", size(known.intake_per_day_bytes), size(known.used_bytes))]
    for each in known.ahead:
        used = "-" if each.used_bytes is None else size(each.used_bytes)
        more = "" if each.used_bytes is None or each.used_bytes <= known.disk_bytes else " (more than there is)"
        rows.append((amount(each.years, "year"), size(each.intake_per_day_bytes), f"{used}{more}"))
    note += f"{keeps} A straight line through {amount(known.days, 'day')}."
    return ReportTable("Capacity", ("In", "Intake a day", "Disk used"), rows, ("Intake a day", "Disk used"), note=note)


def report_csv(found: MonthlyReport) -> str:
    """One file: the part, then its columns (RFC 4180)."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["site", "month", "part", "name", "value", "unit"])
    for row in _flat(found):
        writer.writerow([found.site_id, found.month.name, *map(quote_formula, row)])
    return out.getvalue()


def _flat(found: MonthlyReport) -> list[tuple[Any, ...]]:
    rows: list[tuple[Any, ...]] = [
        ("availability", "available", round(found.available, 6), "share"),
        ("availability", "unplanned downtime", round(found.unplanned_seconds), "s"),
        ("availability", "planned downtime", round(found.planned_seconds), "s"),
        ("volume", "received", found.received_bytes, "bytes"),
    ]
    for part, listed in (("received", found.received), ("sent", found.sent)):
        for each in listed:
            rows += [(part, each.name, each.objects, "objects"), (part, each.name, each.bytes, "bytes")]
            rows.append((part, each.name, each.answer_seconds and round(each.answer_seconds, 6), "s mean answer"))
    rows += [("backlog", each.name, each.most, "images") for each in found.backlogs]
    rows += [("alerts", each.kind, each.count, "alerts") for each in found.alerts]
    rows += [("equipment", each.ae_title, each.address, "address") for each in found.equipment]
    for ahead in found.capacity.ahead:
        rows.append(("capacity", f"{ahead.years} years", round(ahead.intake_per_day_bytes), "bytes a day"))
        if ahead.used_bytes is not None:
            rows.append(("capacity", f"{ahead.years} years", round(ahead.used_bytes), "bytes used"))
    return rows
