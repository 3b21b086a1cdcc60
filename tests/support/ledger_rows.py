"""The ledger's rows with what they say: in SQL, `words(event, detail, payload)`; and rows as 0.1.0 wrote them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from sqlite3 import Connection

from edge.store.ledger_text import render_words


def with_words(conn: Connection) -> Connection:
    conn.create_function("words", 3, render_words)
    return conn


def append_0_1_0(
    conn: Connection,
    at: float,
    event: str,
    who: str,
    detail: str,
    instances: Sequence[int] = (),
    study_id: int | None = 1,
    destination: str = "",
) -> None:
    """A row with a text and no payload, hashed as 0.1.0 did."""
    last = conn.execute("SELECT hash FROM ledger ORDER BY seq DESC LIMIT 1").fetchone()
    values = (at, event, who, study_id, json.dumps(list(instances)), destination, detail)
    text = json.dumps(list(values), separators=(",", ":"))
    digest = hashlib.sha256((last[0] if last else bytes(32)) + text.encode()).digest()
    conn.execute(
        "INSERT INTO ledger (at, event, who, study_id, instances, destination, detail, hash)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (*values, digest),
    )
