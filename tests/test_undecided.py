"""What waits for a person is never sent, lost or overwritten by a command that does not name it.

The store is real, filled through intake; commands are typed while the gateway is down and asked of the running one's
handlers: both are the same functions.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pydicom
import pytest
from click.testing import CliRunner, Result

from edge.cli import cli
from tests.filled import CONFIG, Filled
from tests.objects import ct_files, part10

NOW = 1_800_000_000.0
WHY = ("--reason", "seen")


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with Filled(tmp_path) as made:
        yield made


def edge(filled: Filled, *args: str) -> Result:
    return CliRunner().invoke(cli, ["--config", str(filled.directory), *args])


def two_versions(filled: Filled, **attributes: Any) -> tuple[int, int]:
    """The right image, confirmed at the archive, and another person's under its SOP Instance UID."""
    (path,) = ct_files(filled.tmp_path / f"versions{filled.one('SELECT count(*) FROM instance')}", 1, 1024)
    filled.accept(path.read_bytes())
    filled.settle("archive", 1)
    wrong = pydicom.dcmread(path)
    wrong.PatientName, wrong.PatientID = "Other^Person", "P0002"
    for keyword, value in attributes.items():
        setattr(wrong, keyword, value)
    filled.accept(part10(wrong))
    rows = numbers(filled, "SELECT id FROM instance ORDER BY id DESC LIMIT 2")
    return rows[1], rows[0]


def numbers(filled: Filled, sql: str, *given: object) -> list[int]:
    with filled.db.reading() as conn:
        return [row[0] for row in conn.execute(sql, given)]


def states(filled: Filled, instance: int) -> dict[str, tuple[str, str]]:
    with filled.db.reading() as conn:
        rows = conn.execute("SELECT destination, state, reason_code FROM delivery WHERE instance_id = ?", (instance,))
        return {row[0]: (row[1], row[2]) for row in rows}


HELD = {"archive": ("held", "conflict")}


@pytest.mark.parametrize(
    "selection",
    [["--destination", "archive"], ["--all"], ["--study"], ["ID"]],
    ids=["destination", "all", "study", "id"],
)
def test_retry_never_touches_what_waits_for_a_decision(filled: Filled, selection: list[str]) -> None:
    _, wrong = two_versions(filled)
    if selection == ["--study"]:
        selection = ["--study", filled.one("SELECT study_uid FROM study")]
    if selection == ["ID"]:
        selection = [str(filled.one("SELECT id FROM delivery WHERE instance_id = ?", wrong))]
    done = edge(filled, "queue", "retry", *selection)
    assert states(filled, wrong) == HELD
    assert done.exit_code == 1
    assert f"edge instances show {wrong}" in done.stdout
    assert "edge instances release" in done.stdout


def test_another_destination_gets_no_undecided_image_either(filled: Filled) -> None:
    _, wrong = two_versions(filled)
    edge(filled, "queue", "reroute", "--destination", "archive", "--to", "teleread", *WHY)
    assert states(filled, wrong) == {"teleread": ("held", "conflict")}


def test_a_route_that_is_found_later_does_not_decide_a_conflict(filled: Filled) -> None:
    _, wrong = two_versions(filled, Modality="OT")  # no route matches this version
    assert states(filled, wrong) == {"": ("held", "unroutable")}
    text = CONFIG.replace('when = { Modality = { not = "OT" } }', "")
    (filled.directory / "site.toml").write_text(text)
    done = edge(filled, "instances", "release", "--unroutable", *WHY)
    assert done.exit_code == 1, done.output
    assert states(filled, wrong) == HELD


def test_a_conflict_that_was_lost_and_comes_again_is_a_conflict_again(filled: Filled) -> None:
    _, wrong = two_versions(filled)
    filled.execute("UPDATE instance SET state = 'lost' WHERE id = ?", wrong)
    filled.accept((filled.spool.path_of(filled.one("SELECT path FROM instance WHERE id = ?", wrong))).read_bytes())
    assert filled.one("SELECT state FROM instance WHERE id = ?", wrong) == "conflict"
    assert states(filled, wrong) == HELD
