"""What a person announces: by every channel, once, with its time; and at the centre."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.cli import cli
from edge.errors import EdgeError
from edge.messaging.notice import letter, parse_notice, subject
from edge.monitor import announcement
from edge.monitor.heartbeat import pick, schema
from edge.store.database import Store
from edge.text import from_iso, local_day
from tests.support.filled import CONFIG, Filled
from tests.support.schemas import validator

CHANNELS = """
[webhook.all]
url = "https://example.org/hook"
severity = "critical"
[webhook.disks]
url = "https://example.org/disks"
kinds = ["storage-*"]
[heartbeat]
url = "https://example.org/heartbeats"
key = "k"
"""
TEXT = "second CT in room 4"
TELL = ["notify", "tell", "--kind", "equipment", "--from", "2027-03-01", "--expects", "200GB/month", TEXT]


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with Filled(tmp_path, CONFIG + CHANNELS) as made:
        made.db.close()
        yield made


def edge(filled: Filled, *args: str) -> dict[str, object]:
    done = CliRunner().invoke(cli, ["--config", str(filled.directory), *args, "--json"])
    assert done.exit_code == 0, done.output
    return dict(json.loads(done.stdout))


def test_without_a_day_it_is_announced_from_today_on(filled: Filled) -> None:
    edge(filled, "notify", "tell", "--kind", "requirement", "a quieter room")
    first, _ = _messages(filled)
    made = parse_notice(first)
    today = local_day(from_iso(made.at))
    assert f"from {today} on: a quieter room" in made.text


def test_a_person_announces_equipment_once_by_every_channel(filled: Filled) -> None:
    answer = edge(filled, *TELL)
    assert answer["channels"] == ["webhook.all", "heartbeat.notices"]
    first, second = _messages(filled)
    assert first == second
    made = parse_notice(first)
    assert made.kind == "announced"
    assert made.directive == "equipment"
    assert made.at == answer["at"]
    assert "from 2027-03-01 on; 200 GB a month expected: second CT in room 4" in made.text
    assert "receipt of new equipment" in letter(made)
    assert "announced" in subject(made).lower()


def _messages(filled: Filled) -> list[str]:
    db = Store(filled.data_dir / "catalog.db")
    with db.reading() as conn:
        found = [row[0] for row in conn.execute("SELECT body FROM message ORDER BY id")]
    db.close()
    return found


def test_the_heartbeats_schema_has_it(filled: Filled) -> None:
    edge(filled, *TELL)
    notice = json.loads(_messages(filled)[0])
    picked = pick(notice, schema()["$defs"]["notice"])
    assert picked["announced"] == {"kind": "equipment", "from": "2027-03-01", "expected_bytes_per_month": 200 * 10**9}
    validator().evolve(schema={**schema()["$defs"]["notice"], "$defs": schema()["$defs"]}).validate(picked)


@pytest.mark.parametrize(
    ("rate", "expected"),
    [("200GB/month", 200 * 10**9), ("12GB/year", 10**9), ("", None), ("1.5TB/month", 1.5 * 10**12)],
)
def test_amounts(rate: str, expected: int | None) -> None:
    assert announcement.read_rate(rate) == expected


@pytest.mark.parametrize("rate", ["200", "GB/month", "-1GB/month", "200GB", "1e9GB/month"])
def test_what_is_no_amount_is_refused_with_an_example(rate: str) -> None:
    with pytest.raises(EdgeError, match="200GB/month"):
        announcement.read_rate(rate)


def test_what_is_no_date_or_too_long_is_refused() -> None:
    with pytest.raises(EdgeError, match="2027-03-01"):
        announcement.read_date("soon")
    for said in ("", "x" * 501):
        with pytest.raises(EdgeError, match="without a patient"):
            announcement.check_announcement("storage", said)
