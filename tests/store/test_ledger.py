"""The custody ledger: whoever touches the past is found out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge.cli import cli
from edge.errors import CatalogError
from edge.storage.ledger_check import Chain
from edge.store import ledger
from edge.store.database import Transaction
from edge.store.ledger import Head
from tests.support.effort import count_calls, counted_steps
from tests.support.filled import Filled

ROWS = 20


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with Filled(tmp_path) as filled:
        yield filled


@pytest.fixture
def written(filled: Filled) -> Filled:
    def work(conn: Transaction) -> None:
        for number in range(1, ROWS + 1):
            ledger.append(
                conn, number * 1.5, "received", "CT1", [number], study_id=1, payload={"fault": f"object {number}"}
            )

    filled.db.write(work)
    return filled


def edge(filled: Filled, *args: str) -> Result:
    return CliRunner().invoke(cli, ["--config", str(filled.directory), *args])


def forge(conn: Transaction, after: int) -> None:
    """Make the chain anew behind a row, as one would who knows how it is made."""
    (before,) = conn.execute("SELECT hash FROM ledger WHERE seq = ?", (after,)).fetchone()
    for row in conn.execute("SELECT * FROM ledger WHERE seq > ? ORDER BY seq", (after,)).fetchall():
        before = ledger.row_hash(before, *(row[name] for name in ledger.COLUMNS.split(", ")))
        conn.execute("UPDATE ledger SET hash = ? WHERE seq = ?", (before, row["seq"]))


def sql(*statements: str) -> Callable[[Transaction], None]:
    def tamper(conn: Transaction) -> None:
        for statement in statements:
            conn.execute(statement)

    return tamper


def rewritten(conn: Transaction) -> None:
    conn.execute("UPDATE ledger SET who = 'MALLORY' WHERE seq = 7")
    forge(conn, 6)


def shortened(conn: Transaction) -> None:
    """A row taken out, the others moved up, and the chain made anew."""
    conn.execute("DELETE FROM ledger WHERE seq = 7")
    for seq in range(8, ROWS + 1):
        conn.execute("UPDATE ledger SET seq = ? WHERE seq = ?", (seq - 1, seq))
    forge(conn, 6)


COPY = f"{ledger.COLUMNS}, hash"
#: What is done to the rows; the row at which it shows; None: only a head that was kept elsewhere shows it.
TAMPERING: dict[str, tuple[Callable[[Transaction], None], int | None]] = {
    "a time": (sql("UPDATE ledger SET at = at + 1 WHERE seq = 7"), 7),
    "an event": (sql("UPDATE ledger SET event = 'confirmed' WHERE seq = 7"), 7),
    "a person": (sql("UPDATE ledger SET who = 'MALLORY' WHERE seq = 7"), 7),
    "a study": (sql("UPDATE ledger SET study_id = 2 WHERE seq = 7"), 7),
    "instances": (sql("UPDATE ledger SET instances = '[9]' WHERE seq = 7"), 7),
    "a destination": (sql("UPDATE ledger SET destination = 'x' WHERE seq = 7"), 7),
    "a text": (sql("UPDATE ledger SET detail = 'x' WHERE seq = 7"), 7),
    "a payload": (sql("""UPDATE ledger SET payload = '{"fault":"object 8"}' WHERE seq = 7"""), 7),
    "no payload": (sql("UPDATE ledger SET payload = NULL WHERE seq = 7"), 7),
    "a payload as a text": (sql("UPDATE ledger SET detail = payload, payload = NULL WHERE seq = 7"), 7),
    "a hash": (sql("UPDATE ledger SET hash = zeroblob(32) WHERE seq = 7"), 7),
    "a value of another kind": (sql("UPDATE ledger SET detail = x'00ff' WHERE seq = 7"), 7),
    "the first row": (sql("UPDATE ledger SET who = 'MALLORY' WHERE seq = 1"), 1),
    "the last row": (sql(f"UPDATE ledger SET who = 'MALLORY' WHERE seq = {ROWS}"), ROWS),
    "a row removed": (sql("DELETE FROM ledger WHERE seq = 7"), 8),
    "the first rows removed": (sql("DELETE FROM ledger WHERE seq < 7"), 7),
    "a row inserted": (
        sql(
            *(f"UPDATE ledger SET seq = {seq + 1} WHERE seq = {seq}" for seq in range(ROWS, 6, -1)),
            f"INSERT INTO ledger (seq, {COPY}) SELECT 7, {COPY} FROM ledger WHERE seq = 3",
        ),
        7,
    ),
    "a row appended": (
        sql(f"INSERT INTO ledger (seq, {COPY}) SELECT {ROWS + 1}, {COPY} FROM ledger WHERE seq = 3"),
        ROWS + 1,
    ),
    "two rows exchanged": (
        sql("UPDATE ledger SET seq = -1 WHERE seq = 7", "UPDATE ledger SET seq = 7 WHERE seq = 8",
            "UPDATE ledger SET seq = 8 WHERE seq = -1"),
        7,
    ),
    "the end cut off": (sql("DELETE FROM ledger WHERE seq > 15"), None),
    "all of it gone": (sql("DELETE FROM ledger"), None),
    "a row changed, and the chain made anew": (rewritten, None),
    "a row taken out, and the chain made anew": (shortened, None),
}  # fmt: skip


@pytest.mark.parametrize("what", TAMPERING)
def test_tampering_is_found(written: Filled, what: str) -> None:
    with written.db.reading() as conn:
        kept = ledger.head(conn)
    assert edge(written, "ledger", "verify", "--head", str(kept)).exit_code == 0
    tamper, shows_at = TAMPERING[what]

    def work(conn: Transaction) -> None:
        for name in ("update", "delete"):
            conn.execute(f"DROP TRIGGER ledger_is_append_only_{name}")
        tamper(conn)

    written.db.write(work)
    found = edge(written, "ledger", "verify", "--json", "--head", str(kept))
    assert found.exit_code == 1
    told = json.loads(found.stdout)
    assert not told["whole"]
    assert (told["broken"] and told["broken"]["seq"]) == shows_at
    if shows_at is None:
        assert told["heads_not_found"] == [str(kept)]
        text = edge(written, "ledger", "verify", "--head", str(kept)).stdout
        assert "were removed" in text or "rewritten" in text


def test_the_database_itself_refuses_to_change_the_past(written: Filled) -> None:
    for statement in ("UPDATE ledger SET who = ''", "DELETE FROM ledger"):
        with pytest.raises(CatalogError, match="append-only"):
            written.execute(statement)


def test_head_prints_what_verify_takes(written: Filled) -> None:
    printed = edge(written, "ledger", "head").stdout.strip()
    assert printed.startswith(f"{ROWS}:")
    assert str(Head.parse(printed)) == printed
    assert json.loads(edge(written, "ledger", "head", "--json").stdout) == {
        "seq": ROWS,
        "head": printed.partition(":")[2],
    }
    bad = edge(written, "ledger", "verify", "--head", "7:beef")
    assert bad.exit_code == 2
    assert "edge ledger head" in bad.stderr


def test_a_long_ledger_is_checked_in_one_pass(filled: Filled) -> None:
    def work(conn: Transaction) -> None:
        for number in range(50_000):
            ledger.append(
                conn, 1_790_000_000.5 + number, "received", "CT1", [number], study_id=1, payload={"fault": "x" * 120}
            )

    filled.db.write(work)
    ticks, statements = list[int](), list[str]()
    with filled.db.reading() as conn, counted_steps(conn) as steps:
        conn.set_trace_callback(statements.append)
        calls = count_calls(lambda: ledger.check(conn, tick=ticks.append))
        conn.set_trace_callback(None)
    assert ticks == [10_000, 20_000, 30_000, 40_000, 50_000]
    assert len(statements) < 10
    assert (calls / 50_000, steps[0] / 50_000) < (15, 30), "the same work for each row, however many there are"


# -- verified by itself ------------------------------------------------------------------------------------------------


def round_of(chain: Chain) -> None:
    """From the first row to the last."""
    while True:
        chain.step()
        if chain._after == 0:
            return


def test_a_gateway_follows_its_ledger_by_itself_a_few_rows_at_a_time(
    written: Filled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.storage.ledger_check._BATCH", 3)
    chain = Chain(written.db)
    round_of(chain)
    assert chain.broken == ""
    written.db.write(sql("DROP TRIGGER ledger_is_append_only_update", "UPDATE ledger SET who = 'X' WHERE seq = 11"))
    round_of(chain)
    assert chain.broken.startswith("row 11:")


def test_a_chain_made_anew_while_it_runs_is_found_in_the_next_round(written: Filled) -> None:
    chain = Chain(written.db)
    round_of(chain)

    def work(conn: Transaction) -> None:
        sql("DROP TRIGGER ledger_is_append_only_update", "UPDATE ledger SET who = 'X' WHERE seq = 11")(conn)
        forge(conn, 10)

    written.db.write(work)
    round_of(chain)
    assert "another one, or none" in chain.broken


def test_a_round_is_an_hour_or_a_thousand_rows_a_second() -> None:
    chain = Chain.__new__(Chain)
    for rows, batch_seconds in ((10, 1800 * 100), (1_000_000, 1.8), (10_000_000, 1.0)):
        chain._end = Head(rows, b"")
        assert chain._seconds(1000) == pytest.approx(batch_seconds)
