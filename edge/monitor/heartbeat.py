"""The heartbeat: the status that a site sends to the central office every minute.

A document holds what its schema names, and nothing else of the status: the schema is the list of what may leave the
site, and it names no patient. Documents are numbered without end and wait in the outbox, unsigned, until they are sent,
the oldest first. While the line is down they are thinned: each of the last hour stays, one for each ten minutes of the
last day, one for each hour before that, and each with notices. `covers` of the one that stays has the numbers that it
stands for. At most MOST_QUEUED_BYTES wait.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import resources
from typing import Any

from edge.config.channels import HEARTBEAT_CHANNEL, NOTICES
from edge.store import ledger, ledger_rows, outbox, queued_heartbeats
from edge.store.database import Transaction
from edge.store.gateway_values import count_up, recall, remember
from edge.store.queued_heartbeats import QueuedHeartbeat
from edge.store.samples import DAY, HOUR
from edge.text import iso

HEARTBEAT_SCHEMA = "edge-heartbeat/1"
#: Kinds of message in HEARTBEAT_CHANNEL.
WITHOUT_NOTICES, WITH_NOTICES = "heartbeat", "heartbeat+notices"
#: The header that carries the signature.
SIGNATURE = "Edge-Signature"

#: Up to this age, in seconds, one document is kept for each span of this width.
KEEP = ((HOUR, 0.0), (DAY, 600.0), (float("inf"), HOUR))
MOST_QUEUED_BYTES = 16_000_000
#: Thinning reads all that waits, so it is done once in this number of heartbeats.
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
    """Was `body` signed with `key`? Takes the same time for each answer."""
    return hmac.compare_digest(sign(key, body).encode(), signature.encode("utf-8", "replace"))


# -- the document ------------------------------------------------------------------------------------------------------


def document(
    status: Mapping[str, Any],
    number: int,
    boot: str,
    at: float,
    head: ledger.Head,
    notices: Sequence[Mapping[str, Any]] = (),
    every: float | None = None,
    shown: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """One heartbeat: the part of `status` (status_json's) in the schema; `shown`: more of the ledger."""
    made = {
        "schema": HEARTBEAT_SCHEMA,
        "site": status["site"],
        "number": number,
        "at": iso(at),
        "boot": boot,
        "version": status["version"],
        "status": status,
        "ledger": {"seq": head.seq, "head": head.hash.hex() if head.seq else "", **(shown or {})},
        "notices": list(notices),
    }
    if every:
        made["every_seconds"] = every
    picked: dict[str, Any] = pick(made, schema())
    return picked


def pick(value: Any, shape: Mapping[str, Any]) -> Any:
    """The part of a value that a schema names: other keys are left out, and what is too long or too great is cut."""
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
    return _limit_number(value, shape) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _writable(text: str) -> str:
    """Without U+0000 and halves of surrogate pairs, which no database takes."""
    if text.isprintable():
        return text
    return "".join("?" if char == "\0" or "\ud800" <= char <= "\udfff" else char for char in text)


def _limit_number(value: float, shape: Mapping[str, Any]) -> float | None:
    """A number within the schema's bounds; none where it is no number at all."""
    if math.isnan(value):
        return None
    least: float = shape.get("minimum", value)
    most: float = shape.get("maximum", value)
    return max(least, min(value, most))


# -- the outbox --------------------------------------------------------------------------------------------------------


def post_heartbeat(conn: Transaction, status: Mapping[str, Any], boot: str, now: float, every: float) -> int:
    """Post the next heartbeat, with the notices since the one before, and thin what waits. Returns its number."""
    number = count_up(conn, "heartbeat_number")
    waiting = outbox.oldest(conn, NOTICES, MOST_NOTICES)
    notices = [json.loads(message.body) for message in waiting]
    made = document(status, number, boot, now, ledger.head(conn), notices, every, {"proof": proof(conn)})
    outbox.remove_delivered(conn, [message.id for message in waiting])
    kind = WITH_NOTICES if notices else WITHOUT_NOTICES
    outbox.post(conn, HEARTBEAT_CHANNEL, kind, now, json.dumps(made, separators=(",", ":")))
    if number % THIN_EVERY == 0:
        thin_heartbeats(conn, now)
    return number


# -- the proof of the ledger -------------------------------------------------------------------------------------------

#: The entry of the ledger that the centre acknowledged last, as `era:seq` in the table gateway.
ACKNOWLEDGED = "ledger_acknowledged"
MOST_ANSWER_BYTES = 4096


def note_answer(conn: Transaction, answer: bytes) -> None:
    """Remember what the centre acknowledges in its answer to a heartbeat; another answer changes nothing."""
    asked = acknowledged_in(answer)
    if asked is not None:
        remember(conn, ACKNOWLEDGED, f"{asked[0]}:{asked[1]}")


def acknowledged_in(answer: bytes) -> tuple[int, int] | None:
    """Era and entry that an answer acknowledges: `{"ledger": {"era": 1, "seq": 4711, "head": "..."}}`."""
    try:
        head = json.loads(answer[:MOST_ANSWER_BYTES])["ledger"]
        era, seq = head["era"], head["seq"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    whole = all(type(each) is int and 0 <= each < 2**53 for each in (era, seq))
    return (era, seq) if whole else None


def proof(conn: Transaction) -> dict[str, Any] | None:
    """The present hash of the entry that was acknowledged last; None while there is none."""
    acknowledged = recall(conn, ACKNOWLEDGED)
    if acknowledged is None:
        return None
    era, seq = map(int, acknowledged.split(":"))
    found = ledger_rows.hash_at(conn, seq)
    return {"era": era, "seq": seq, "head": found.hex() if found else ""}


# -- thinning ----------------------------------------------------------------------------------------------------------


def thin_heartbeats(conn: Transaction, now: float) -> None:
    """Delete what a long outage makes superfluous; the next that stays covers the deleted numbers."""
    waiting = queued_heartbeats.waiting_heartbeats(conn, HEARTBEAT_CHANNEL, WITH_NOTICES)
    superfluous = {each.id for each in surplus(waiting, now)}
    for gone, stays in covering([each.id for each in waiting], superfluous):
        queued_heartbeats.cover(conn, gone, stays)
    outbox.remove_delivered(conn, superfluous)


def surplus(waiting: Sequence[QueuedHeartbeat], now: float) -> Iterator[QueuedHeartbeat]:
    """List those to remove: not the last of their span; beyond MOST_QUEUED_BYTES, those without notices first.

    The newest always stays.
    """
    room = MOST_QUEUED_BYTES
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
    """Each run of deleted ones: its first, and the one directly after it, which stays."""
    first: int | None = None
    for each in waiting:
        if each in gone:
            first = each if first is None else first
        elif first is not None:
            yield first, each
            first = None
