"""A reload that meets a fault of the gateway itself, or what hinders it, leaves nothing half done and ends nothing."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from edge import config
from edge.config.edit import digest_files
from edge.daemon import configuring, lifecycle
from edge.daemon.configuring import Author, Configuring
from edge.daemon.lifecycle import Lifecycle
from edge.daemon.reload import reload
from edge.errors import EdgeError, StorageFull
from edge.store.database import Store, Transaction
from tests.support.gateway import CONFIG, configuration

NEW = CONFIG + '[hold.trial]\nwhen = { Modality = "CT" }\n'


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> MagicMock:
    gateway = MagicMock(config="the running one", rejected_at=None)
    monkeypatch.setattr(config, "load_config", MagicMock(side_effect=error))
    return gateway


def test_a_fault_of_the_gateway_is_said_as_a_rejected_configuration(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gateway = failing(monkeypatch, ZeroDivisionError("Miller^Anna"))
    assert len(reload(gateway)) == 1
    assert gateway.config == "the running one"
    assert gateway.rejected_at is not None
    assert gateway.db.write.call_count == 1, "the ledger has it"
    assert gateway.notify.call_args.args == ("READY=1",)
    assert "ZeroDivisionError" in caplog.text
    assert "Miller" not in caplog.text


def test_what_hinders_the_gateway_is_for_the_gateways_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = failing(monkeypatch, StorageFull("no room"))
    with pytest.raises(StorageFull):
        reload(gateway)
    assert gateway.rejected_at is None
    assert gateway.notify.call_args.args == ("READY=1",)


# -- what is new, with a catalog ---------------------------------------------------------------------------------------


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[MagicMock]:
    """It runs with CONFIG; a person has written NEW."""
    found = MagicMock(config=configuration(tmp_path), rejected_at=1.0, directory=tmp_path / "conf.d")
    found.db = Store(tmp_path / "catalog.db")
    found.configuring = Configuring(found.directory, found.db)
    configuration(tmp_path, NEW)
    found.configuring._authors = {digest_files(found.configuring.files()): Author("sa", "the court")}
    yield found
    found.db.close()


def configured(gateway: MagicMock) -> list[tuple[str, Any]]:
    """Who has changed what, by the ledger."""
    with gateway.db.reading() as conn:
        rows = conn.execute("SELECT who, payload FROM ledger WHERE event = 'configured'").fetchall()
    return [(who, json.loads(payload)["keys"]) for who, payload in rows]


def test_a_new_configuration_that_is_hindered_is_not_used_in_part_and_is_used_whole_later(
    gateway: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    running, policy, write = gateway.config, gateway.intake.policy, gateway.db.write

    def fail(work: Callable[[Transaction], Any]) -> Any:
        def work_on_a_full_disk(conn: Transaction) -> None:
            work(conn)
            raise StorageFull("no room")

        return write(work_on_a_full_disk)

    with monkeypatch.context() as patch:
        patch.setattr(gateway.db, "write", fail)
        with pytest.raises(StorageFull):
            reload(gateway)
    assert (gateway.config, gateway.intake.policy, gateway.rejected_at) == (running, policy, 1.0)
    parts = gateway.doors.configure, gateway.outbound.join_destinations, gateway.relays.join
    assert not any(each.called for each in parts)
    assert configured(gateway) == []
    assert reload(gateway) == []
    assert [*gateway.config.holds] == ["trial"]
    assert gateway.intake.policy.rules.holds[0].name == "trial"
    assert all(each.call_count == 1 for each in parts)
    assert configured(gateway) == [("sa", ["hold.trial"])], "as who made it, though it was tried before"
    assert gateway.rejected_at is None


def test_a_part_that_cannot_use_it_keeps_no_other_from_it(gateway: MagicMock, caplog: pytest.LogCaptureFixture) -> None:
    gateway.doors.configure.side_effect = ZeroDivisionError("Miller^Anna")
    assert reload(gateway) == []
    assert [*gateway.config.holds] == ["trial"]
    assert gateway.outbound.join_destinations.called
    assert "the doors cannot use the new configuration" in caplog.text
    assert "Miller" not in caplog.text
    assert configured(gateway) == [("sa", ["hold.trial"])]


def test_a_reload_that_is_hindered_is_tried_again_and_holds_up_no_task(monkeypatch: pytest.MonkeyPatch) -> None:
    life = Lifecycle.__new__(Lifecycle)
    life.gateway, life._tick, life._notify = MagicMock(), MagicMock(), MagicMock()
    life._signals, life._signalled = {signal.SIGHUP}, threading.Event()
    ends = [StorageFull("no room"), MemoryError(), None]

    def end_late() -> None:
        if life._tick.run_due.call_count == 10:
            life._signals.add(signal.SIGTERM)

    life._tick.run_due.side_effect = end_late

    def play(_gateway: MagicMock) -> None:
        if (end := ends.pop(0)) is not None:
            raise end
        life._signals.add(signal.SIGTERM)

    monkeypatch.setattr(lifecycle, "reload", play)
    monkeypatch.setattr(lifecycle, "TICK_SECONDS", 0.0)
    life.loop()
    assert (ends, life._tick.run_due.call_count) == ([], 3)


def test_what_a_change_has_written_and_the_gateway_rejects_the_next_change_corrects(
    gateway: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a certificate that is gone: a person who edits the files by hand is another matter."""
    monkeypatch.setattr(configuring, "READ_SECONDS", 0.0)
    made = gateway.configuring
    made.note_read(made.files())

    def add(name: str) -> bool:
        fields = {"name": name, "ae_title": name, "hosts": ["127.0.0.1"], "services": ["store"], "port": None}
        answer = made.change("modality-add", {**fields, "certificate": "", "who": "anna", "reason": "new"})
        return bool(answer["read"])

    assert (add("ct8"), add("ct9")) == (False, False)
    (gateway.directory / "90-half.toml").write_text('[retention]\nkeep = "1d"\n')
    with pytest.raises(EdgeError, match="somebody may be editing"):
        add("ct10")
