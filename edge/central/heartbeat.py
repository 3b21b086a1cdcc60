"""A heartbeat as it came: checked, and the few numbers of it that the centre keeps. Pure.

What a site may leave out counts as unknown or nothing: sites of several versions report to one centre.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edge.central.shape import Misfit, compile_schema
from edge.errors import Permanent
from edge.monitor.heartbeat import schema
from edge.text import from_iso

SEVERITIES = ("", "minor", "major", "critical")
_checked = compile_schema(schema())
#: How often a site reports that does not say so, in seconds; and the least that is believed.
USUAL_SECONDS, LEAST_SECONDS = 60.0, 1.0
#: Lists and objects in a document, counted before they are made: each takes a hundred times its two bytes.
MOST_PARTS = 50_000
#: Values, counted by the commas between them: while JSON is read, nothing else happens in this process. No heartbeat
#: has more, for the names that the schema gives them take their room.
MOST_VALUES = 200_000
#: What a JSON text can write and no database takes: U+0000, and half of a surrogate pair.
_SUSPICIOUS = re.compile(r"\\u(?:0000|[dD][89a-fA-F])").search


class HeartbeatError(Permanent):
    """Not a heartbeat: the text says where it departs from the schema, without quoting values."""


class NotJson(HeartbeatError):
    """Not even JSON (RFC 8259) in UTF-8."""


@dataclass(frozen=True, slots=True)
class Proof:
    """What the site's ledger says at an entry that we have acknowledged; `head` is empty where it has no such entry."""

    era: int
    seq: int
    head: str


@dataclass(frozen=True, slots=True)
class ReceivedHeartbeat:
    """One heartbeat. `at` is when it arose by the site's clock; `digest` the SHA-256 of its bytes.

    It stands for the numbers from `first` to `number`: more than one where an outage made the site thin what waited.
    """

    site: str
    name: str
    number: int
    first: int
    at: float
    every: float
    boot: str
    version: str
    digest: str
    seq: int
    head: str
    proof: Proof | None
    can_prove: bool  # since version 0.2 a site shows that its ledger still holds what was acknowledged
    status: Mapping[str, Any]
    notices: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class SiteNumbers:
    """What is measured and sorted by; bytes, seconds, instances."""

    state: str
    severity: str
    alerts: int
    used_fraction: float | None
    used: float | None
    total: float | None
    full_in: float | None
    backlog: int
    backlog_bytes: int
    oldest: float
    links_down: int
    received: int
    stored_bytes: int
    uptime: float


def parse(body: bytes) -> ReceivedHeartbeat:
    """Read and check a document: nothing of it is used that the schema does not bound. Raises HeartbeatError."""
    content = _read(body)
    try:
        content = _checked(content)
    except Misfit as fault:
        raise HeartbeatError(f"{fault.place}: not as the schema says ({fault.keyword})") from None
    try:
        at = from_iso(content["at"])
    except ValueError:
        raise HeartbeatError("$.at: not a moment such as 2026-11-21T20:11:23Z") from None
    site, ledger = content["site"], content["ledger"]
    return ReceivedHeartbeat(
        site=site["id"],
        name=site["name"],
        number=content["number"],
        first=min(content.get("covers", [content["number"]])[0], content["number"]),
        at=at,
        every=max(LEAST_SECONDS, float(content.get("every_seconds", USUAL_SECONDS))),
        boot=content["boot"],
        version=content["version"],
        digest=hashlib.sha256(body).hexdigest(),
        seq=ledger["seq"],
        head=ledger["head"],
        proof=Proof(**ledger["proof"]) if ledger.get("proof") else None,
        can_prove="proof" in ledger,
        status=content["status"],
        notices=content["notices"],
    )


def _read(body: bytes) -> Any:
    """JSON in which every name is there once, every number is one, and every text can be written as UTF-8."""
    if body.count(b"[") + body.count(b"{") > MOST_PARTS:
        raise HeartbeatError(f"$: more than {MOST_PARTS} lists and objects")
    if body.count(b",") > MOST_VALUES:
        raise HeartbeatError(f"$: more than {MOST_VALUES} values")
    try:
        text = body.decode("utf-8")
        content = json.loads(text, object_pairs_hook=_reject_duplicates, parse_constant=_no_number)
    except (ValueError, RecursionError):
        raise NotJson("not JSON") from None
    if _SUSPICIOUS(text) and not _is_text(content):
        raise HeartbeatError("$: a text with U+0000, or with half of a surrogate pair")
    return content


def _reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name twice")
    return made


def _no_number(word: str) -> None:
    raise ValueError(word)


def _is_text(content: object) -> bool:
    """Can all its texts be written as UTF-8, and kept by PostgreSQL? Without recursion: it may be deep."""
    left = [content]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left += each.keys()
            left += each.values()
        elif isinstance(each, list):
            left += each
        elif isinstance(each, str) and ("\0" in each or any("\ud800" <= char <= "\udfff" for char in each)):
            return False
    return True


def site_numbers(status: Mapping[str, Any]) -> SiteNumbers:
    """The numbers of a status."""
    storage, queue = status.get("storage") or {}, status.get("queue") or {}
    instances, alerts = status.get("instances") or {}, status.get("alerts") or []
    destinations = (status.get("destinations") or {}).values()
    used_fraction = _number(storage.get("used_fraction"))
    total = _total(storage, used_fraction)
    return SiteNumbers(
        state=str(status.get("state", "unknown")),
        severity=worst(str(alert.get("severity", "")) for alert in alerts),
        alerts=len(alerts),
        used_fraction=used_fraction,
        used=None if total is None or used_fraction is None else used_fraction * total,
        total=total,
        full_in=_number(storage.get("full_in_seconds")),
        backlog=sum(int(queue.get(state) or 0) for state in ("pending", "active", "deferred", "held")),
        backlog_bytes=int(queue.get("bytes") or 0),
        oldest=float(queue.get("oldest_seconds") or 0.0),
        links_down=sum(each.get("state") == "down" for each in destinations),
        received=int(instances.get("received") or 0),
        stored_bytes=int(instances.get("stored_bytes") or 0),
        uptime=float(status.get("uptime_seconds") or 0.0),
    )


def worst(severities: Any) -> str:
    """The worst of some severities; empty where there is none."""
    return max((each for each in severities if each in SEVERITIES), key=SEVERITIES.index, default="")


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, (int, float)) else None


def _total(storage: Mapping[str, Any], used_fraction: float | None) -> float | None:
    """The file system's size; older sites tell only what is free."""
    total, free = _number(storage.get("total_bytes")), _number(storage.get("free_bytes"))
    if total is not None or free is None or used_fraction is None or used_fraction >= 1:
        return total
    return free / (1 - used_fraction)
