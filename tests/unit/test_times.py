"""One form of time for people, everywhere: local, with its zone (edge.text). ISO 8601 is for programs."""

from __future__ import annotations

import re

from tests.support.peers import REPOSITORY

EDGE = REPOSITORY / "edge"
#: A moment that is made into ISO text.
ISO_TEXT = re.compile(r"\biso\(|\biso_or_none\(|\.isoformat\(|\bctime\(")
#: A field of a status or a row that is a moment, and that a template shows without a filter of moments.
MOMENT = re.compile(r"\{\{\s*([\w.]+(?:_at|\.since|\.until|\.from|\.ended|_seen|_stored|_success))\s*\}\}")
TEMPLATES = sorted(EDGE.glob("*/templates/*.html"))
#: What makes pages and reports, and the files of it that need ISO text, with what for.
PEOPLE = sorted(
    [each for name in ("central", "cli", "console", "web") for each in (EDGE / name).glob("*.py")]
    + [EDGE / "monitor" / "monthly_text.py"]
)
FOR_PROGRAMS = {
    "central/availability.py": "the names of months",
    "central/export.py": "CSV and JSON",
    "central/notifications.py": "a notice, and the names of months",
    "central/simulated_site.py": "a heartbeat",
    "cli/alerts.py": "JSON",
    "cli/audit.py": "CSV",
    "cli/central_incidents.py": "JSON",
    "cli/console.py": "JSON",
    "cli/drill.py": "JSON",
    "cli/legal_holds.py": "JSON",
    "cli/maintenance.py": "JSON",
    "cli/notify.py": "JSON",
    "cli/prove.py": "JSON",
    "cli/queries.py": "JSON",
    "cli/study_copies.py": "JSON",
    "cli/study_identity.py": "JSON",
    "cli/tables.py": "JSON",
    "cli/worklist.py": "JSON",
    "console/accounts.py": "a payload of the ledger",
    "console/overview.py": "a comparison with the status",
    "web/pages.py": "the attribute of an element `time`",
}


def test_every_moment_of_a_page_has_its_form() -> None:
    assert [path for path in TEMPLATES if MOMENT.search(path.read_text("utf-8"))] == []


def test_no_page_makes_iso_text_of_a_moment() -> None:
    makes = {f"{path.parent.name}/{path.name}" for path in PEOPLE if ISO_TEXT.search(path.read_text("utf-8"))}
    assert makes == FOR_PROGRAMS.keys()
