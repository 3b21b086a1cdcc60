"""The states of a delivery change as edge.model.TRANSITIONS says, and in no other way; on real SQLite."""

from __future__ import annotations

import re
import runpy
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge.dicom.rejection import RejectionCode, RejectionNote
from edge.model import (
    EMPTY_REASON,
    TRANSITIONS,
    Assignment,
    AttemptResult,
    ContextKey,
    DeliveryState,
    Lease,
    Outcome,
    Priority,
    Reason,
    ReasonCode,
    ReasonRule,
    StateChange,
)
from edge.store import (
    commitments,
    companions,
    deliveries,
    destinations,
    leases,
    operator_actions,
    rejection_notes,
    replicas,
    restored,
    transitions,
)
from edge.store.commitments import Unconfirmed
from edge.store.database import Store, Transaction
from edge.store.reasons import reason_of, words
from edge.store.replicas import LapsedReplica
from tests.support.peers import REPOSITORY

NOW = 1_000_000.0
LEASE = Lease(
    1,
    1,
    "archive",
    Priority.ROUTINE,
    0,
    ContextKey("1.2", "1.3"),
    "1.5",
    1,
    "1.4",
    "a",
    9,
    0,
    b"",
    None,
    1.0,
    "CT",
    epoch=1,
)
SENT = Unconfirmed(1, 1, "1.2", "1.5", "1.4", "1.6", 0, NOW - 9, 1)
LAPSED = LapsedReplica(1, 1, 1)
INSTANCE = """
INSERT INTO instance (id, sop_instance_uid, sha256, kind_id, study_id, series_uid, state, path, size, dataset_offset,
    received_at, calling_ae, called_ae, address)
VALUES (1, '1.5', x'00', 1, 1, '1.6', :instance_state, 'a', 9, 0, 1, 'CT', 'EDGE', '127.0.0.1')
"""
DELIVERY = """
INSERT INTO delivery (id, instance_id, destination, kind_id, bytes, priority, state, reason_code, queued_at, breaks,
    not_before, lease_until, lease_owner, lease_epoch, sent_at)
VALUES (1, 1, :destination, 1, 9, :priority, :state, :reason_code, 1, :breaks, :not_before, :lease_until, 'node', 1, 1)
"""


@pytest.fixture
def db(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "catalog.db")
    yield opened
    opened.close()


def enter(conn: Transaction, state: DeliveryState | None, **given: Any) -> None:
    """One instance, and its one delivery in a state."""
    notes = ("rejection_reference", "rejection_note", "rejected_instance")
    for table in (*notes, "delivery", "instance", "study", "kind"):
        conn.execute(f"DELETE FROM {table}")
    conn.execute("INSERT INTO kind (id, sop_class_uid, transfer_syntax_uid) VALUES (1, '1.2', '1.3')")
    conn.execute("INSERT INTO study (id, study_uid, first_received, last_received) VALUES (1, '1.4', 1, 1)")
    values = {
        "destination": "archive",
        "priority": 2,
        "reason_code": "refused",
        "breaks": 0,
        "not_before": NOW + 99 if state is DeliveryState.DEFERRED else None,
        "lease_until": NOW + 99 if state is DeliveryState.ACTIVE else None,
        "instance_state": "stored",
        "state": state.value if state else "",
        **given,
    }
    conn.execute(INSTANCE, values)
    if state is not None:
        conn.execute(DELIVERY, values)


def row_of(conn: Transaction) -> Any:
    return conn.execute("SELECT * FROM delivery").fetchone()


def lease_any(conn: Transaction) -> None:
    leases.lease(conn, "archive", "node", NOW, 9, 1 << 40)
    leases.lease_suspect(conn, "archive", "node", NOW)


def record(
    outcome: Outcome, code: ReasonCode = ReasonCode.NONE, proved: bool = False
) -> Callable[[Transaction], object]:
    result = AttemptResult(LEASE, outcome, Reason(code, {"error": "why"}) if code else EMPTY_REASON, 0, NOW + 9)
    return lambda conn: deliveries.record_attempts(conn, [result], NOW, proved_by_status=proved)


def enqueue(reason: Reason) -> Callable[[Transaction], object]:
    return lambda conn: deliveries.enqueue(conn, 1, 1, 9, [Assignment("archive", Priority.STAT, "r")], NOW, reason)


def missing(retry_at: float) -> Callable[[Transaction], object]:
    return lambda conn: commitments.mark_missing(conn, "archive", [SENT], NOW, Reason(ReasonCode.MISSING), retry_at)


def person(verb: Callable[..., object], **more: Any) -> Callable[[Transaction], object]:
    return lambda conn: verb(conn, [1], now=NOW, who="anna", why="why", **more)


def note(code: str, names: str = "1.7", *, other: str = "active", is_allowed: bool = True) -> Any:
    """A rejection note arrives that names an instance: the row's, or another one, whose delivery is in state `other`.

    The note is whichever of the two is not named.
    """

    def work(conn: Transaction) -> None:
        values = {"destination": "archive", "priority": 2, "reason_code": "", "breaks": 0, "not_before": None}
        values |= {"lease_until": None, "instance_state": "stored", "state": other}
        second = INSTANCE.replace("VALUES (1, '1.5', x'00'", "VALUES (2, '1.7', x'01'").replace("'a'", "'b'")
        conn.execute(second, values)
        conn.execute(DELIVERY.replace("VALUES (1, 1,", "VALUES (2, 2,"), values)
        found = RejectionNote(RejectionCode(code), (names,))
        instance, uid = (1, "1.5") if names == "1.7" else (2, "1.7")
        given = {"is_allowed": is_allowed, "hides_quality": True}
        rejection_notes.enter_note(conn, instance, uid, found, "CT", NOW, **given)

    return work


P, A, D, H, S, F, C = (
    DeliveryState[name] for name in ("PENDING", "ACTIVE", "DEFERRED", "HELD", "SENT", "CONFIRMED", "CANCELLED")
)
NO_ROUTE = {"destination": "", "reason_code": "unroutable"}
DUE: dict[str, Any] = {"not_before": NOW - 1}
BROKE: dict[str, Any] = {"breaks": 1}
BREAKS_PROOF = Reason(ReasonCode.BREAKS_PROOF, {"breaks": 1})
PROOF_REFUSED = Reason(ReasonCode.PROOF_REFUSED, {"error": "it has no such service"})
REASSIGN = person(operator_actions.reassign, destination="other")
#: (event, target) -> what the row is like, and what makes the change.
DRIVERS: dict[tuple[str, DeliveryState], tuple[dict[str, Any], Callable[[Transaction], object]]] = {
    ("enqueue", P): ({}, enqueue(EMPTY_REASON)),
    ("enqueue", H): ({}, enqueue(Reason(ReasonCode.CONFLICT))),
    ("await study", D): (NO_ROUTE, lambda conn: companions.await_study(conn, 1, NOW)),
    ("study is missing", H): (NO_ROUTE | DUE, lambda conn: deliveries.requeue_due(conn, NOW)),
    ("find mismatch", H): (
        {},
        lambda conn: deliveries.hold_mismatch(conn, 1, Reason(ReasonCode.MISMATCH), stat=True),
    ),
    ("resolve mismatch", P): ({"reason_code": "mismatch"}, lambda conn: deliveries.resolve_mismatch(conn, 1)),
    ("hold note", H): ({}, note("113001", is_allowed=False)),
    ("await images", D): ({}, note("113001")),
    ("withdraw", C): ({}, note("113037", "1.5", other="pending")),
    ("restore", S): ({}, lambda conn: restored.settle_restored(conn, 1, 1, set(), {"archive"}, NOW)),
    ("lease", A): (BROKE | DUE, lease_any),
    ("reject row", H): (BROKE | DUE | {"priority": 9}, lease_any),
    ("return", P): ({}, lambda conn: leases.return_leases(conn, [LEASE])),
    ("return", D): (BROKE, lambda conn: leases.return_leases(conn, [LEASE])),
    ("expire", P): ({"lease_until": NOW - 1}, lambda conn: deliveries.requeue_due(conn, NOW)),
    ("expire", D): (BROKE | {"lease_until": NOW - 1}, lambda conn: deliveries.requeue_due(conn, NOW)),
    ("record", S): ({}, record(Outcome.SENT)),
    ("record", F): ({}, record(Outcome.SENT, proved=True)),
    ("record", D): ({}, record(Outcome.DEFER, ReasonCode.UNREACHABLE)),
    ("record", H): ({}, record(Outcome.HOLD, ReasonCode.REFUSED)),
    ("record", C): ({}, record(Outcome.SKIP, ReasonCode.CANCELLED)),
    ("requeue due", P): (DUE, lambda conn: deliveries.requeue_due(conn, NOW)),
    ("requeue repaired", P): ({"reason_code": "damaged"}, lambda conn: deliveries.requeue_repaired(conn, 1)),
    ("confirm", F): ({}, lambda conn: commitments.confirm(conn, "archive", [SENT], NOW, "by C-FIND")),
    ("mark missing", P): ({}, missing(NOW)),
    ("mark missing", D): ({}, missing(NOW + 9)),
    ("mark refused", H): (
        {},
        lambda conn: commitments.mark_refused(conn, "archive", [SENT], NOW, Reason(ReasonCode.NOT_COMMITTED)),
    ),
    ("suspect proof", S): ({}, lambda conn: commitments.note_suspect(conn, 1, BREAKS_PROOF)),
    ("clear suspect", S): ({"reason_code": "breaks-proof"}, lambda conn: commitments.clear_suspect(conn, 1)),
    ("refuse proof", S): (
        {},
        lambda conn: commitments.explain_unconfirmed(conn, "archive", PROOF_REFUSED, 9),
    ),
    ("retry", P): ({}, person(operator_actions.retry)),
    ("release", P): ({}, person(operator_actions.release, named=True)),
    ("hold", H): ({}, person(operator_actions.hold)),
    ("reassign", P): ({}, REASSIGN),
    ("reassign", H): ({"reason_code": "conflict"}, REASSIGN),
    ("reassign conflict", H): ({"reason_code": "unroutable", "instance_state": "conflict"}, REASSIGN),
    ("cancel", C): ({}, person(operator_actions.cancel)),
    ("release replica", C): ({}, lambda conn: replicas.release_lapsed(conn, "archive", [LAPSED], 9.0, NOW)),
    ("retire", C): ({}, lambda conn: destinations.retire(conn, "archive", 0, NOW, "anna", "why")),
}  # fmt: skip


def named(each: StateChange) -> str:
    return f"{each.event} to {each.target.value}"


def test_each_transition_has_a_driver() -> None:
    assert set(DRIVERS) == {(each.event, each.target) for each in TRANSITIONS}


@pytest.mark.parametrize("each", TRANSITIONS, ids=named)
def test_each_transition_is_made_as_the_table_says(db: Store, each: StateChange) -> None:
    given, drive = DRIVERS[each.event, each.target]
    for source in each.sources:

        def work(conn: Transaction, source: DeliveryState | None = source) -> tuple[Any, Any]:
            enter(conn, source, **given)
            before = row_of(conn)
            drive(conn)
            return before, row_of(conn)

        before, after = db.write(work)
        assert after["state"] == each.target.value, source
        code = ReasonCode(after["reason_code"])
        match each.reason:
            case ReasonRule.REQUIRED:
                assert code in each.codes
                assert words(reason_of(after))
            case ReasonRule.KEPT:
                assert code == before["reason_code"]
            case _:
                assert (after["reason"], code, after["reason_parameters"]) == ("", ReasonCode.NONE, "")
        assert (after["not_before"] is not None) == (each.target is D) or each.event == "lease"
        assert (after["lease_until"] is not None) == (each.target is A)


@pytest.mark.parametrize("event", sorted({each.event for each in TRANSITIONS}))
def test_no_event_changes_a_state_that_it_does_not_begin_in(db: Store, event: str) -> None:
    sources = {source for each in TRANSITIONS if each.event == event for source in each.sources}
    for (name, _), (given, drive) in DRIVERS.items():
        for state in DeliveryState:
            if name != event or state in sources:
                continue

            def work(conn: Transaction, state: DeliveryState = state, given: Any = given, drive: Any = drive) -> str:
                enter(conn, state, **given)
                drive(conn)
                return str(row_of(conn)["state"])

            assert db.write(work) == state.value


def test_a_change_that_the_table_does_not_have_is_refused() -> None:
    for event, target in (("lease", DeliveryState.SENT), ("forget", DeliveryState.CANCELLED)):
        with pytest.raises(LookupError):
            transitions.update_statement(event, target)


def test_no_other_statement_changes_the_state_of_a_delivery() -> None:
    found = []
    for path in sorted((REPOSITORY / "edge").rglob("*.py")):
        text = re.sub(r'"\s*\+?\s*f?"', "", path.read_text("utf-8"))  # parts of one text
        for statement in re.findall(r"(?is)\bUPDATE\s+delivery\b.*?(?:\bWHERE\b|\Z)", text):
            if re.search(r"[\s,.]state\s*=", statement):
                found.append((path.name, statement))
    assert {name for name, _ in found} <= {"transitions.py"}, found


def test_the_document_has_todays_table() -> None:
    program = runpy.run_path(str(REPOSITORY / "packaging" / "states"))
    text = (REPOSITORY / "docs" / "design.md").read_text("utf-8")
    assert program["document"](text) == text, "run packaging/states"


# -- leases ------------------------------------------------------------------------------------------------------------


def leased(db: Store, owner: str = "node", at: float = NOW) -> Lease:
    (found,) = db.write(lambda conn: leases.lease(conn, "archive", owner, at, 1, 1 << 40))
    return found


@pytest.mark.parametrize("outcome", list(Outcome))
def test_an_attempt_whose_lease_was_superseded_changes_nothing(
    db: Store, outcome: Outcome, caplog: pytest.LogCaptureFixture
) -> None:
    db.write(lambda conn: enter(conn, P))
    late = leased(db, "one")
    lapsed = NOW + leases.LEASE_SECONDS + 1
    assert db.write(lambda conn: deliveries.requeue_due(conn, lapsed)) == ["archive"]
    result = AttemptResult(late, outcome, Reason(ReasonCode.REFUSED), 0xC000, lapsed, peer_text="no")

    def settle(conn: Transaction) -> list[AttemptResult]:
        leases.renew(conn, [late], lapsed)
        leases.return_leases(conn, [late])
        return deliveries.record_attempts(conn, [result], lapsed, proved_by_status=False)

    def unchanged(state: DeliveryState) -> bool:
        with db.reading() as conn:
            before = tuple(row_of(conn))
        assert db.write(settle) == []
        with db.reading() as conn:
            row = row_of(conn)
            assert conn.execute("SELECT count(*) FROM ledger").fetchone()[0] == 0
            return tuple(row) == before and row["state"] == state.value

    assert unchanged(P), "lapsed"
    again = leased(db, "two", lapsed)
    assert (again.owner, again.epoch) == ("two", late.epoch + 1)
    assert unchanged(A), "superseded"
    assert len([each for each in caplog.messages if "after its lease" in each]) == 2
    current = replace(result, lease=again)
    assert db.write(lambda conn: deliveries.record_attempts(conn, [current], lapsed, proved_by_status=False)) == [
        current
    ]


def test_a_node_that_starts_takes_back_its_own_leases_only(db: Store) -> None:
    db.write(lambda conn: enter(conn, P))
    leased(db, "one")
    assert db.write(lambda conn: leases.return_all_leases(conn, "two")) == 0
    assert db.write(lambda conn: leases.return_all_leases(conn, "one")) == 1
    with db.reading() as conn:
        assert row_of(conn)["state"] == P.value


def test_a_lease_of_before_there_were_owners_is_taken_back_at_the_start(db: Store) -> None:
    db.write(lambda conn: enter(conn, A))
    db.write(lambda conn: conn.execute("UPDATE delivery SET lease_owner = '', lease_epoch = 0").rowcount)
    assert db.write(lambda conn: leases.return_all_leases(conn, "one")) == 1


# -- reasons -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [code for code in ReasonCode if code])
def test_each_code_has_words_whatever_is_known(code: ReasonCode) -> None:
    assert isinstance(words(Reason(code, {"breaks": 3, "failure": 0x0112, "status": 0xC000, "error": "why"})), str)
    assert words(Reason(code, {"breaks": 3, "failure": 0x0112, "status": 0xC000, "error": "why"}))


def test_only_those_who_may_see_patients_read_what_a_person_wrote() -> None:
    for code in (ReasonCode.PERSON, ReasonCode.CANCELLED):
        made = Reason(code, {"who": "anna", "why": "Doe^John"})
        assert words(made).endswith('by anna: "Doe^John"')
        old = Reason(code, {}, 'held by anna: "Doe^John"')
        assert words(old) == old.text
        for each in (made, old):
            assert "Doe" not in words(each, with_quotes=False)
            assert words(each, with_quotes=False)


def test_a_row_of_before_there_were_parameters_shows_its_words(db: Store) -> None:
    db.write(lambda conn: enter(conn, H))
    db.write(lambda conn: conn.execute("UPDATE delivery SET reason = 'it answers C000'").rowcount)
    with db.reading() as conn:
        assert words(reason_of(row_of(conn))) == "it answers C000"
