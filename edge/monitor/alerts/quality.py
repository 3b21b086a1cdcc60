"""Alerts about what the equipment sends: lossy images, X-ray studies without their dose report."""

from __future__ import annotations

from collections.abc import Iterator

from edge.monitor.alerts.equipment import ACK
from edge.monitor.alerts.observed import CHECK, RELOAD, Observed, alert
from edge.monitor.snapshot_model import Action, Alert
from edge.text import amount, printable, span


def lossy_received(seen: Observed) -> Iterator[Alert]:
    for each in seen.lossy:
        title, modality = printable(each.ae_title), printable(each.modality) or "no Modality"
        yield alert(
            title,
            each.first_at,
            f'"{title}" has sent {amount(each.count, "image")} that {"was" if each.count == 1 else "were"} compressed'
            f" with loss ({modality}; transfer syntax {printable(each.transfer_syntax_uid)})",
            f"{'it is' if each.count == 1 else 'they are'} stored and forwarded as received;"
            " what was lost before cannot be brought back",
            Action("set the equipment to lossless compression, or to none"),
            Action("if loss is intended for this kind of image, name its Modality in [quality] lossy"),
            CHECK,
            RELOAD,
            ACK,
        )


def dose_report_missing(seen: Observed) -> Iterator[Alert]:
    after = span(seen.threshold("dose-report-missing"))
    for ae_title, count, since in seen.dose_missing:
        title = printable(ae_title)
        yield alert(
            title,
            since,
            f'{amount(count, "X-ray study")} of "{title}" {"has" if count == 1 else "have"} no dose report'
            f" {after} after the last object",
            "the images are not affected; the dose of these examinations is not on record",
            Action("have the equipment send its dose reports (RDSR) here"),
            Action("if it makes none, leave its Modality out of [quality] dose"),
            CHECK,
            RELOAD,
            ACK,
        )
