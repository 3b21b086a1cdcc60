"""The heartbeat: what a site tells the central office every minute, so that its silence means something.

A document holds what SCHEMA names, and nothing else of the status: the schema is the list of what may leave the site,
and it names no patient. Documents are numbered for ever and wait in the outbox, unsigned, until they are sent; the
oldest go first. While the line is down they are thinned: each of the last hour stays, one for each ten minutes of the
last day, one for each hour before that, and whatever carries notices. The one that stays tells in `covers` which
numbers it stands for. More than MOST_BYTES never wait.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

from edge.store import outbox
from edge.store.database import Connection
from edge.text import iso, own_words

NAME = "edge-heartbeat/1"
#: The outbox's channels: of the documents, and of the notices that the next document takes along.
CHANNEL, NOTICES = "heartbeat", "heartbeat.notices"
#: Kinds of message in CHANNEL.
PLAIN, WITH_NOTICES = "heartbeat", "heartbeat+notices"
#: The header that carries the signature.
SIGNATURE = "Edge-Signature"

HOUR, DAY = 3600.0, 86400.0
#: Up to which age, in seconds, one document is kept for each so many seconds.
KEEP = ((HOUR, 0.0), (DAY, 600.0), (float("inf"), HOUR))
MOST_BYTES = 16_000_000
#: Thinning looks at all that waits: every so many heartbeats is enough.
THIN_EVERY = 10
MOST_NOTICES = 100


@cache
def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a heartbeat."""
    return dict(json.loads((resources.files("edge.monitor") / "heartbeat.schema.json").read_text(encoding="utf-8")))


# -- the signature -----------------------------------------------------------------------------------------------------


def sign(key: bytes, body: bytes) -> str:
    """The value of the header Edge-Signature: HMAC-SHA256 (RFC 2104) of the body."""
    return f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"


def verify(key: bytes, body: bytes, signature: str) -> bool:
    """Was `body` signed with `key`? Takes the same time whatever the answer."""
    return hmac.compare_digest(sign(key, body).encode(), signature.encode("utf-8", "replace"))


# -- the document ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """The newest row of the custody ledger; (0, "") while it is empty."""

    seq: int = 0
    hash: str = ""


def document(
    status: Mapping[str, Any],
    number: int,
    boot: str,
    at: float,
    ledger: Head,
    notices: Sequence[Mapping[str, Any]] = (),
    every: float | None = None,
    shown: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One heartbeat: of `status` (monitor.health.as_json) what the schema names; `shown`: more about the ledger."""
    made = {
        "schema": NAME,
        "site": status["site"],
        "number": number,
        "at": iso(at),
        "boot": boot,
        "version": status["version"],
        "status": _in_own_words(status),
        "ledger": {"seq": ledger.seq, "head": ledger.hash, **(shown or {})},
        "notices": list(notices),
    }
    if every:
        made["every_seconds"] = every
    picked: dict[str, Any] = pick(made, schema())
    return picked


def pick(value: Any, shape: Mapping[str, Any]) -> Any:
    """Of a value what a schema names: other keys are left out, and what is too long or too great is cut."""
    if "$ref" in shape:
        return pick(value, schema()["$defs"][shape["$ref"].rpartition("/")[2]])
    for each in shape.get("anyOf", ())[:1] if value is not None else ():
        return pick(value, each)
    if isinstance(value, Mapping):
        known, rest = shape.get("properties", {}), shape.get("additionalProperties")
        if rest is not None:
            return {str(key)[:256]: pick(each, rest) for key, each in list(value.items())[: shape["maxProperties"]]}
        return {key: pick(each, known[key]) for key, each in value.items() if key in known}
    if isinstance(value, (list, tuple)):
        return [pick(each, shape["items"]) for each in value[: shape["maxItems"]]]
    if isinstance(value, str):
        return _writable(value)[: shape.get("maxLength")]
    return _bounded(value, shape) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _writable(text: str) -> str:
    """Without U+0000 and halves of surrogate pairs, which no database takes."""
    if text.isprintable():
        return text
    return "".join("?" if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in text)


def _bounded(value: float, shape: Mapping[str, Any]) -> float | None:
    """A number within the schema's bounds; none where it is no number at all."""
    if math.isnan(value):
        return None
    least: float = shape.get("minimum", value)
    most: float = shape.get("maximum", value)
    return max(least, min(value, most))


def _in_own_words(status: Mapping[str, Any]) -> dict[str, Any]:
    """Without what archives and people said: it could name a patient."""
    told = dict(status)
    told["destinations"] = {name: _quoting_nobody(each) for name, each in status.get("destinations", {}).items()}
    for key in ("held", "deferred"):
        if key in status:
            told[key] = [_quoting_nobody(each) for each in status[key]]
    return told


def _quoting_nobody(facts: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: own_words(each) if key in ("last_error", "reason") and isinstance(each, str) else each
        for key, each in facts.items()
    }


# -- the outbox --------------------------------------------------------------------------------------------------------


def beat(conn: Connection, status: Mapping[str, Any], boot: str, now: float, every: float) -> int:
    """Post the next heartbeat, with the notices since the one before, and thin what waits. Returns its number."""
    number = _next_number(conn)
    waiting = outbox.oldest(conn, NOTICES, MOST_NOTICES)
    notices = [json.loads(message.body) for message in waiting]
    made = document(status, number, boot, now, ledger_head(conn), notices, every, {"proof": proof(conn)})
    outbox.delivered(conn, [message.id for message in waiting])
    outbox.post(conn, CHANNEL, WITH_NOTICES if notices else PLAIN, now, json.dumps(made, separators=(",", ":")))
    if number % THIN_EVERY == 0:
        thin(conn, now)
    return number


def _next_number(conn: Connection) -> int:
    row = conn.execute(
        "INSERT INTO gateway (name, value) VALUES ('heartbeat_number', '1')"
        " ON CONFLICT DO UPDATE SET value = CAST(value AS INTEGER) + 1 RETURNING value"
    ).fetchone()
    return int(row[0])


def ledger_head(conn: Connection) -> Head:
    row = conn.execute("SELECT seq, hash FROM ledger ORDER BY seq DESC LIMIT 1").fetchone()
    return Head(row[0], row[1].hex()) if row else Head()


# -- the proof of the ledger -------------------------------------------------------------------------------------------

#: The entry of the ledger that the centre acknowledged last, as `era:seq` in the table gateway.
ACKNOWLEDGED = "ledger_acknowledged"
MOST_ANSWER = 4096


def note_answer(conn: Connection, answer: bytes) -> None:
    """Remember what the centre acknowledges in its answer to a heartbeat; another answer changes nothing."""
    asked = acknowledged_in(answer)
    if asked is not None:
        conn.execute("INSERT OR REPLACE INTO gateway VALUES (?, ?)", (ACKNOWLEDGED, f"{asked[0]}:{asked[1]}"))


def acknowledged_in(answer: bytes) -> tuple[int, int] | None:
    """Era and entry that an answer acknowledges: `{"ledger": {"era": 1, "seq": 4711, "head": "..."}}`."""
    try:
        ledger = json.loads(answer[:MOST_ANSWER])["ledger"]
        era, seq = ledger["era"], ledger["seq"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    whole = all(type(each) is int and 0 <= each < 2**53 for each in (era, seq))
    return (era, seq) if whole else None


def proof(conn: Connection) -> dict[str, Any] | None:
    """What the ledger says now at the entry that was acknowledged last; None while there is none."""
    row = conn.execute("SELECT value FROM gateway WHERE name = ?", (ACKNOWLEDGED,)).fetchone()
    if row is None:
        return None
    era, seq = map(int, row[0].split(":"))
    found = conn.execute("SELECT hash FROM ledger WHERE seq = ?", (seq,)).fetchone()
    return {"era": era, "seq": seq, "head": found[0].hex() if found else ""}


# -- thinning ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class QueuedHeartbeat:
    """One document that waits, as far as thinning looks at it."""

    id: int
    at: float
    size: int
    has_notices: bool


def thin(conn: Connection, now: float) -> None:
    """Remove what a long outage makes superfluous; the next that stays covers the numbers of those that go."""
    waiting = _waiting(conn)
    superfluous = {each.id for each in surplus(waiting, now)}
    for gone, stays in covering([each.id for each in waiting], superfluous):
        conn.execute(
            "UPDATE message SET body = json_set(body, '$.covers',"
            " json_array((SELECT coalesce(json_extract(body, '$.covers[0]'), json_extract(body, '$.number'))"
            "  FROM message WHERE id = ?), json_extract(body, '$.number'))) WHERE id = ?",
            (gone, stays),
        )
    outbox.delivered(conn, superfluous)


def _waiting(conn: Connection) -> list[QueuedHeartbeat]:
    rows = conn.execute(
        "SELECT id, at, length(body), kind = ? FROM message WHERE channel = ? AND parked_at IS NULL ORDER BY id",
        (WITH_NOTICES, CHANNEL),
    )
    return [QueuedHeartbeat(*row) for row in rows]


def surplus(waiting: Sequence[QueuedHeartbeat], now: float) -> Iterator[QueuedHeartbeat]:
    """Those that may go: not the last of their span, or beyond MOST_BYTES, those without notices first. The newest
    always stays."""
    room = MOST_BYTES
    kept: list[QueuedHeartbeat] = []
    for each, after in zip(reversed(waiting), [None, *reversed(waiting)], strict=False):
        if after is not None and not each.has_notices and _span(each.at, now) == _span(after.at, now) is not None:
            yield each
        else:
            kept.append(each)
    for each in sorted(kept[1:], key=lambda one: (not one.has_notices, -one.at)):
        room -= each.size
        if room < 0:
            yield each


def _span(at: float, now: float) -> tuple[float, int] | None:
    """The span of time of which one document stays; None where each does."""
    width = next(width for age, width in KEEP if now - at <= age)
    return (width, int(at // width)) if width else None


def covering(waiting: Iterable[int], gone: set[int]) -> Iterator[tuple[int, int]]:
    """For each run of those that go: its first, and the one directly after it, which stays."""
    first: int | None = None
    for each in waiting:
        if each in gone:
            first = each if first is None else first
        elif first is not None:
            yield first, each
            first = None
