"""A reload that meets a fault of the gateway itself: it changes nothing, and ends nothing."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest

from edge import config
from edge.daemon.reload import reload
from edge.errors import StorageFull


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
