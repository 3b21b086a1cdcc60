"""What callers did is recorded once the catalog takes it, whatever hinders that meanwhile."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest

from edge.daemon.gateway import Gateway
from edge.daemon.housekeeping import record_due
from edge.daemon.retrievals import QueryRegister
from edge.errors import StorageFull
from edge.messaging.audit.refused import Register
from edge.query.asking import NotedQuery
from edge.scp.callers import Callers
from edge.scp.rejections import Refusals
from edge.store.database import Store

ASKED = NotedQuery(
    count=1, status=0, sent={}, at=1.0, what="C-MOVE", top="STUDY", syntax="1.2", called_ae="EDGE", calling_ae="WS1",
    address="10.0.0.1", identifier="",
)  # fmt: skip


@pytest.fixture
def gateway(tmp_path: Path) -> Gateway:
    found = Gateway.__new__(Gateway)
    found.db, found.outbound, found.unrecorded = Store(tmp_path / "catalog.db"), Mock(), []
    found.callers, found.refusals, found._refused = Callers(), Refusals(), Register()
    found.queries = QueryRegister()
    return found


def events(gateway: Gateway) -> list[str]:
    with gateway.db.reading() as conn:
        return [row[0] for row in conn.execute("SELECT event FROM ledger ORDER BY seq")]


def test_what_was_asked_and_refused_on_a_full_disk_is_in_the_ledger_later(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.queries.note(ASKED)
    with monkeypatch.context() as patch:
        patch.setattr(gateway.db, "write", Mock(side_effect=StorageFull("no room")))
        with pytest.raises(StorageFull):
            record_due(gateway)
        gateway.refusals.note_refused("10.0.0.2", "WHO", "it is not known")
        with pytest.raises(StorageFull):
            record_due(gateway)
    assert events(gateway) == []
    record_due(gateway)
    record_due(gateway)
    assert events(gateway) == ["queried", "refused"]
    record_due(gateway)
    assert len(events(gateway)) == 2
    gateway.db.close()


def test_the_last_records_of_a_run_are_all_of_them(gateway: Gateway) -> None:
    gateway.queries.note(ASKED)
    gateway.unrecorded = gateway.take_records()
    gateway.queries.note(ASKED)
    assert len(gateway.take_records(last=True)) == 2
    gateway.db.close()
