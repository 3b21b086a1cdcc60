"""Destinations that have gone: what is left for them is ended or renamed, on record, and no image is left to nobody."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from edge.model import DeliveryState
from edge.store import destinations, leases, ledger, operator_actions
from tests.support.filled import Filled
from tests.support.ledger_rows import with_words
from tests.support.objects import ct_files
from tests.support.peers import Edge, StoreScp, routes_to, storescu, wait_until
from tests.support.scripted import ScriptedScp, answer_with

NOW = 1_800_000_000.0
STATES = ("pending", "deferred", "held", "active", "sent", "confirmed", "cancelled")


class Catalog:
    """A catalog in which an instance is in each state for `old`, and as wished for others."""

    def __init__(self, filled: Any) -> None:
        self.db = filled.db

    def add(self, **states: str) -> int:
        """An instance with a delivery for each destination, in a state."""

        def work(conn: Any) -> int:
            conn.execute("INSERT OR IGNORE INTO kind VALUES (1, '1.2', '1.2')")
            (number,) = conn.execute(
                "INSERT INTO instance (sop_instance_uid, sha256, kind_id, state, path, size, dataset_offset,"
                " calling_ae, called_ae, address, received_at)"
                " VALUES (hex(randomblob(8)), x'00', 1, 'stored', hex(randomblob(8)), 9, 0, '', '', '', 0) RETURNING id"
            ).fetchone()
            for name, state in states.items():
                conn.execute(
                    "INSERT INTO delivery (instance_id, destination, kind_id, bytes, priority, state, queued_at)"
                    " VALUES (?, ?, 1, 9, 2, ?, 0)",
                    (number, name, state),
                )
            return int(number)

        return int(self.db.write(work))

    def states(self, instance: int) -> dict[str, str]:
        with self.db.reading() as conn:
            rows = conn.execute("SELECT destination, state FROM delivery WHERE instance_id = ?", (instance,))
            return {row[0]: row[1] for row in rows}

    def open_count(self, instance: int) -> int:
        with self.db.reading() as conn:
            sql = "SELECT open_deliveries FROM instance WHERE id = ?"
            return int(conn.execute(sql, (instance,)).fetchone()[0])

    def events(self, event: str) -> list[tuple[str, list[int], str, str]]:
        with self.db.reading() as conn:
            columns = "who, instances, destination, words(event, detail, payload)"
            sql = f"SELECT {columns} FROM ledger WHERE event = ? ORDER BY seq"
            rows = with_words(conn).execute(sql, (event,))
            return [(row[0], json.loads(row[1]), row[2], row[3]) for row in rows]

    def retire(self, name: str = "old") -> destinations.Progress:
        def batch(after: int) -> destinations.Progress:
            return self.db.write(lambda conn: destinations.retire(conn, name, after, NOW, "ann", "replaced"))

        return destinations.all_batches(batch)

    def rename(self, old: str = "old", new: str = "new") -> destinations.Progress:
        self.db.write(lambda conn: destinations.begin_rename(conn, old, new, NOW, "ann"))
        return destinations.all_batches(
            lambda after: self.db.write(lambda conn: destinations.rename(conn, old, new, after))
        )


@pytest.fixture
def catalog(tmp_path: Path) -> Any:
    filled = Filled(tmp_path)
    yield Catalog(filled)
    filled.close()


@pytest.mark.parametrize("state", STATES)
def test_what_is_left_for_a_retired_destination_is_ended(catalog: Catalog, state: str) -> None:
    instance = catalog.add(old=state, archive="confirmed")
    catalog.retire()
    kept = state == "confirmed"
    assert catalog.states(instance) == {"old": "confirmed" if kept else "cancelled", "archive": "confirmed"}
    assert catalog.open_count(instance) == 0, "retention is no longer bound by it"


@pytest.mark.parametrize("state", [state for state in STATES if state not in ("confirmed", "cancelled")])
@pytest.mark.parametrize("other", [None, "cancelled"])
def test_an_image_that_nobody_else_gets_becomes_unroutable(catalog: Catalog, state: str, other: str | None) -> None:
    instance = catalog.add(old=state, **({"other": other} if other else {}))
    done = catalog.retire()
    assert done.unroutable == 1
    assert catalog.states(instance)[""] == "held"
    assert catalog.open_count(instance) == 1, "it is kept until a person has decided"


def test_retiring_is_on_record(catalog: Catalog) -> None:
    first, second = catalog.add(old="pending", archive="sent"), catalog.add(old="sent", archive="sent")
    catalog.retire()
    assert catalog.events(ledger.CANCELLED) == [
        ("ann", [first, second], "old", "destination old was retired: replaced")
    ]


def test_many_are_retired_in_batches(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(destinations, "DELIVERY_BATCH", 3)
    for _ in range(10):
        catalog.add(old="pending", archive="sent")
    assert catalog.retire().ended == 10
    assert catalog.retire().ended == 0


@pytest.mark.parametrize(
    ("old", "new", "result"),
    [
        ("pending", None, "pending"),
        ("confirmed", None, "confirmed"),
        ("confirmed", "pending", "confirmed"),
        ("sent", "held", "sent"),
        ("pending", "confirmed", "confirmed"),
        ("held", "pending", "pending"),
        ("sent", "confirmed", "confirmed"),
    ],
)
def test_a_new_name_takes_over_what_is_further(catalog: Catalog, old: str, new: str | None, result: str) -> None:
    instance = catalog.add(old=old, **({"new": new} if new else {}))
    catalog.rename()
    assert catalog.states(instance) == {"new": result}
    assert catalog.open_count(instance) == (0 if result == "confirmed" else 1)
    assert catalog.events(ledger.RENAMED) == [("ann", [], "new", "old")]


def test_an_open_request_for_proof_follows_the_name(catalog: Catalog) -> None:
    request = "INSERT INTO commitment VALUES (1, '1.2.3', 'old', 0, 9, NULL)"
    catalog.db.write(lambda conn: conn.execute(request).rowcount)
    catalog.rename()
    with catalog.db.reading() as conn:
        assert conn.execute("SELECT destination FROM commitment").fetchone()[0] == "new"


def test_the_list_names_what_is_configured_and_what_is_left(catalog: Catalog) -> None:
    catalog.add(old="pending", archive="sent")
    with catalog.db.reading() as conn:
        found = {each.name: each for each in destinations.count_destinations(conn, ["archive", "unused"])}
        gone = destinations.list_removed_destinations(conn, ["archive", "unused"])
    assert {name: (each.configured, each.left) for name, each in found.items()} == {
        "archive": (True, 1),
        "unused": (True, 0),
        "old": (False, 1),
    }
    assert [each.name for each in gone] == ["old"]


def test_rerouting_to_where_it_goes_anyway_cancels(catalog: Catalog) -> None:
    instance = catalog.add(old="held", archive="sent")
    with catalog.db.reading() as conn:
        (number,) = conn.execute("SELECT id FROM delivery WHERE destination = 'old'").fetchone()
    moved = catalog.db.write(
        lambda conn: operator_actions.reassign(conn, [number], "archive", NOW, "ann", "old is gone")
    )
    assert moved == 1
    assert catalog.states(instance) == {"old": "cancelled", "archive": "sent"}


def test_a_success_after_its_end_does_not_reopen_a_delivery(catalog: Catalog) -> None:
    """What was under way when the destination was retired may still answer."""
    from edge.model import AttemptResult, Outcome
    from edge.store import deliveries

    instance = catalog.add(old="pending", archive="confirmed")
    works = catalog.db.write(lambda conn: leases.lease(conn, "old", "node", NOW, 1, 1 << 40))
    catalog.retire()
    ends = [AttemptResult(work, Outcome.SENT, status=0) for work in works]
    catalog.db.write(lambda conn: deliveries.record_attempts(conn, ends, NOW, proved_by_status=False))
    assert catalog.states(instance)["old"] == DeliveryState.CANCELLED
    assert catalog.open_count(instance) == 0


def test_a_destination_that_is_gone_can_be_ended_by_command(tmp_path: Path, running: ExitStack) -> None:
    """Two destinations; one goes from the configuration with work left. The alert's advice is followed."""
    archive = running.enter_context(StoreScp(tmp_path / "archive"))
    old = running.enter_context(ScriptedScp([answer_with(0xC000)]))
    both = f'[destination.old]\nae_title = "OLD"\nhost = "127.0.0.1"\nport = {old.port}\n'
    edge = running.enter_context(Edge(tmp_path / "edge", both + _to(archive, '["archive", "old"]')))
    storescu(ct_files(tmp_path / "ct", 2, 1000), edge.port)
    wait_until(lambda: edge.api_status()["queue"]["held"] == 2, 20, "the old one refuses both")
    done = edge.cli("destination", "retire", "old", "--reason", "replaced")
    assert (done.returncode, "still configured" in done.stderr) == (1, True)
    edge.configure(_to(archive, '["archive"]'))
    assert "edge destination retire old" in edge.cli("check").stdout
    edge.reload()
    wait_until(lambda: "are left for destination old" in edge.output(), 10, "the reload warns")
    listed = json.loads(edge.cli("destination", "list", "--json").stdout)
    assert {each["name"]: (each["configured"], each["left"]) for each in listed} == {
        "archive": (True, 0),
        "old": (False, 2),
    }
    done = edge.cli("destination", "retire", "old", "--reason", "replaced")
    assert (done.returncode, done.stdout) == (0, "2 deliveries cancelled; confirmed deliveries stay on record.\n")
    assert not [each for each in edge.api_status()["alerts"] if each["kind"] == "destination-removed"]
    assert edge.cli("destination", "retire", "old", "--reason", "again").returncode == 0, "again is no harm"


def _to(archive: StoreScp, names: str) -> str:
    table = routes_to(archive).split("[route.everything]", maxsplit=1)[0]
    return f"{table}[route.everything]\nto = {names}\n"


# -- what waits for a decision ----------------------------------------------------------------------------------------


def _undecided(catalog: Catalog, instance: int, code: str, name: str = "old", state: str = "conflict") -> None:
    def work(conn: Any) -> None:
        conn.execute("UPDATE instance SET state = ? WHERE id = ?", (state, instance))
        sql = "UPDATE delivery SET state = 'held', reason_code = ? WHERE instance_id = ? AND destination = ?"
        conn.execute(sql, (code, instance, name))

    catalog.db.write(work)


def _can_be_ended(catalog: Catalog, instance: int) -> bool:
    """Is it like any other, or does it wait for a decision that a person can make?"""
    with catalog.db.reading() as conn:
        (state,) = conn.execute("SELECT state FROM instance WHERE id = ?", (instance,)).fetchone()
        return state == "stored" or bool(operator_actions.undecided_deliveries(conn, instance))


@pytest.mark.parametrize("code", ["conflict", "mismatch", "person"])
@pytest.mark.parametrize("other", [None, "confirmed", "sent", "pending", "cancelled", "undecided"])
def test_no_alert_stays_that_nobody_can_end(catalog: Catalog, code: str, other: str | None) -> None:
    instance = catalog.add(old="held", **({"archive": "held" if other == "undecided" else other} if other else {}))
    if other == "undecided":
        _undecided(catalog, instance, code, "archive")
    _undecided(catalog, instance, code)
    catalog.retire()
    assert _can_be_ended(catalog, instance)
    with catalog.db.reading() as conn:
        is_undecided = bool(operator_actions.undecided_deliveries(conn, instance))
    assert is_undecided == (other in (None, "cancelled", "undecided")), "what nobody else has or gets is decided about"


@pytest.mark.parametrize("other", ["confirmed", "sent"])
def test_two_names_of_one_destination_leave_no_conflict_without_a_decision(catalog: Catalog, other: str) -> None:
    instance = catalog.add(old="held", new=other)
    _undecided(catalog, instance, "conflict")
    catalog.rename()
    assert _can_be_ended(catalog, instance)


@pytest.mark.parametrize("there", [True, False])
def test_rerouting_the_last_that_waits_leaves_no_conflict_without_a_decision(catalog: Catalog, there: bool) -> None:
    instance = catalog.add(old="held", **({"archive": "sent"} if there else {}))
    _undecided(catalog, instance, "person")
    with catalog.db.reading() as conn:
        (number,) = conn.execute("SELECT id FROM delivery WHERE destination = 'old'").fetchone()
    catalog.db.write(lambda conn: operator_actions.reassign(conn, [number], "archive", NOW, "ann", "old is gone"))
    assert _can_be_ended(catalog, instance)
