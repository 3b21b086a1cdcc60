"""What Prometheus and Grafana are given: judged by Prometheus' own tool, and true to what /metrics serves."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.monitor.live import Clock
from edge.monitor.metrics import exposition
from edge.monitor.snapshot_model import ChannelBacklog, DestinationStatus, ModalityStatus, Snapshot, Storage
from tests.console.test_console import SNAPSHOT
from tests.support.peers import REPOSITORY, requires

RULES = REPOSITORY / "packaging" / "prometheus" / "edge-alerts.yml"
DASHBOARD = json.loads((REPOSITORY / "packaging" / "grafana" / "edge-dashboard.json").read_text("utf-8"))

#: Everything that can be known is known.
FULL: Snapshot = replace(
    SNAPSHOT,
    destinations=(
        DestinationStatus(
            "archive",
            pending=5,
            last_success=1_799_999_999.5,
            drain_seconds=12.0,
            bytes=5_000,
            oldest_seconds=90.0,
            rate=1e6,
            certificate_expires=1_900_000_000.0,
            confirm_lag_seconds=3.0,
        ),
    ),
    storage=Storage(0.31, 74_000_000_000, 3600.0, None, 100_000_000_000),
    modalities=(
        ModalityStatus("ct1", "CT1", "10.0.0.1", 1.0, 1_799_999_000.0, True, stored=600),
        ModalityStatus("", "STRANGER", "10.0.0.2", 1.0, 2.0, False),
    ),
    outbox={"email.mimso/a@example.org": ChannelBacklog(3, 60.0, "no", 1), "webhook.x": ChannelBacklog(0, 0.0, "", 2)},
    clock=Clock(True, 0.002),
    ledger_seq=7,
)


def promtool(*args: str, stdin: str = "") -> None:
    done = subprocess.run(
        [requires("promtool"), *args], input=stdin, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("seen", [FULL, SNAPSHOT])
def test_prometheus_finds_no_fault_with_our_metrics(seen: Snapshot) -> None:
    promtool("check", "metrics", stdin=exposition(seen))


def test_what_is_new_is_served() -> None:
    lines = exposition(FULL).splitlines()
    for line in (
        'edge_destination_backlog_bytes{destination="archive"} 5000',
        'edge_destination_certificate_expiry_timestamp_seconds{destination="archive"} 1900000000',
        'edge_modality_last_seen_timestamp_seconds{modality="ct1",ae_title="CT1",address="10.0.0.1"} 1799999000',
        'edge_outbox_messages{channel="webhook.x",state="parked"} 2',
        'edge_outbox_oldest_seconds{channel="email.mimso/a@example.org"} 60',
        "edge_clock_offset_seconds 0.002",
        "edge_storage_size_bytes 100000000000",
        "edge_ledger_rows_total 7",
    ):
        assert line in lines
    assert "STRANGER" not in exposition(FULL)
    assert 'edge_outbox_oldest_seconds{channel="webhook.x"}' not in exposition(FULL)


def test_the_alerting_rules_hold_and_pass_their_tests() -> None:
    promtool("check", "rules", str(RULES))
    promtool("test", "rules", str(RULES.with_name("edge-alerts.test.yml")))


def queries() -> Iterator[str]:
    for panel in DASHBOARD["panels"]:
        yield from (target["expr"] for target in panel["targets"])


def test_every_query_of_the_dashboard_is_promql(tmp_path: Path) -> None:
    names = {"$instance": ".*", "$job": ".*", "$__rate_interval": "5m"}
    exprs = [re.sub(r"\$\w+", lambda match: names[match[0]], each) for each in queries()]
    rules: list[Any] = [{"record": f"panel:{n}", "expr": expr} for n, expr in enumerate(exprs)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))  # JSON is YAML
    promtool("check", "rules", str(file))


def test_every_metric_that_is_asked_for_is_served() -> None:
    served = set(re.findall(r"^# TYPE (\S+)", exposition(SNAPSHOT), re.MULTILINE))
    rules = "\n".join(line for line in RULES.read_text("utf-8").splitlines() if "expr:" in line)
    asked = set(re.findall(r"\bedge_\w+", rules)) | {
        name for query in queries() for name in re.findall(r"\bedge_\w+", query)
    }
    asked = {re.sub("_bucket$", "", name) for name in asked}
    assert asked - served == set()
    assert len(asked) > 20


def test_panels_do_not_overlap_and_have_numbers_of_their_own() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        mine = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not mine & cells, panel["title"]
        cells |= mine
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
