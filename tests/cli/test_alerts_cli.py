"""`edge alerts`, and `edge status` where the configuration on disk has mistakes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from edge.cli import cli
from edge.monitor.engine import notice_new
from edge.monitor.snapshot_model import Alert
from edge.store import alert_records
from tests.support.filled import Filled
from tests.support.peers import Edge, StoreScp, routes_to, storescu, wait_until

NOW = 1_800_000_000.0
DOWN = Alert("destination-down", "archive", "major", NOW, "It does not answer", "nothing is lost", "wait")


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with Filled(tmp_path) as made:
        yield made


def edge(filled: Filled, *args: str) -> Result:
    return CliRunner().invoke(cli, ["--config", str(filled.directory), *args])


def opened(filled: Filled) -> int:
    return filled.db.write(lambda conn: alert_records.keep(conn, notice_new(DOWN, NOW)))


def test_alerts_are_listed_shown_and_acknowledged_while_the_gateway_is_down(filled: Filled) -> None:
    assert "No alert is open." in edge(filled, "alerts", "list").stdout
    number = opened(filled)
    filled.db.close()
    listed = edge(filled, "alerts", "list")
    assert listed.exit_code == 0
    assert "(no notice sent yet) It does not answer" in listed.stdout
    (told,) = json.loads(edge(filled, "alerts", "list", "--json").stdout)
    assert told | {"id": number, "directive": "connection", "told": False, "acknowledged": None} == told
    done = edge(filled, "alerts", "ack", str(number), "--note", "provider called")
    assert (done.exit_code, done.stdout) == (0, f"Alert {number} is acknowledged.\n")
    shown = edge(filled, "alerts", "show", str(number)).stdout
    assert "Nothing is lost." in shown
    assert "provider called" in shown
    assert json.loads(edge(filled, "alerts", "show", str(number), "--json").stdout)["note"] == "provider called"


def test_on_a_terminal_the_text_stands_below_its_alert(filled: Filled, monkeypatch: pytest.MonkeyPatch) -> None:
    number, terminal = opened(filled), partial(Console, force_terminal=True, color_system=None, width=80)
    monkeypatch.setattr(sys.modules["edge.cli.alerts"], "console", terminal)
    head, *text = edge(filled, "alerts", "list").stdout.splitlines()
    assert head.startswith(f"{number}  major: destination-down archive since 2027-01-15")
    assert "    (no notice sent yet) It does not answer" in [line.rstrip() for line in text]


def test_what_cannot_be_acknowledged_is_said_in_a_line(filled: Filled) -> None:
    filled.db.close()
    done = edge(filled, "alerts", "ack", "77", "--note", "x")
    assert (done.exit_code, done.stderr) == (1, "edge: there is no alert 77: `edge alerts list --all` shows them\n")
    assert edge(filled, "alerts", "ack", "77").exit_code == 2
    assert edge(filled, "alerts", "ack", "77", "--note", " ").exit_code == 2


def test_status_finds_the_running_gateway_past_a_bad_configuration(tmp_path: Path, running: ExitStack) -> None:
    gateway = running.enter_context(Edge(tmp_path / "edge"))
    gateway.configure("[listen]\nae_titel = 1\n")
    done = gateway.cli("status")
    assert done.returncode == 0
    assert done.stdout.startswith("All is well")
    assert "ae_titel: unknown key" in done.stderr
    assert "`edge check` names every mistake" in done.stderr
    assert json.loads(gateway.cli("status", "--json").stdout)["state"] == "running"
    for command in (("queue", "list"), ("studies", "list"), ("clients", "list"), ("report",), ("ready",)):
        assert gateway.cli(*command).returncode == 0, "no command is blind"
    assert gateway.cli("check").returncode == 2
    gateway.kill()
    assert gateway.cli("status").returncode == 2
    gateway.configure("")


def test_a_destination_that_is_down_is_told_after_its_hold_and_ends(tmp_path: Path, running: ExitStack) -> None:
    """The real daemon; a webhook that nobody serves keeps the notices in the outbox."""
    archive = StoreScp(tmp_path / "archive")
    rules = '[alert.destination-down]\nafter = "3s"\nclear = "0s"\n[webhook.chat]\nurl = "https://127.0.0.1:9/"\n'
    from tests.support.objects import ct_files

    gateway = running.enter_context(Edge(tmp_path / "edge", routes_to(archive) + rules))
    storescu(ct_files(tmp_path / "ct", 2, 1024), gateway.port)

    def alert() -> dict | None:
        return next((each for each in gateway.api_status()["alerts"] if each["kind"] == "destination-down"), None)

    def notices() -> int:
        return gateway.api_status()["outbox"].get("webhook.chat", {}).get("waiting", 0)

    wait_until(alert, 20, "the status says it")
    wait_until(lambda: notices() == 1, 30, "it is told")
    number = alert()["id"]  # type: ignore[index]
    gateway.kill()
    gateway.start()
    running.enter_context(archive)
    wait_until(lambda: alert() is None, 90, "it is back")
    wait_until(lambda: notices() == 3, 30, "its end is told, and the kill")
    ended = json.loads(gateway.cli("alerts", "list", "--all", "--json").stdout)
    (down,) = [each for each in ended if each["kind"] == "destination-down"]
    assert (down["id"], down["ended"] is None) == (number, False)
