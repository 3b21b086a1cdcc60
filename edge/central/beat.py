"""A heartbeat as it came: checked, and the few numbers of it that the office keeps. Pure.

What a site may leave out counts as unknown or nothing: sites of several versions report to one office.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jsonschema.exceptions import best_match
from jsonschema.validators import Draft202012Validator

from edge.errors import Permanent
from edge.ops.heartbeat import schema
from edge.ops.words import from_iso

SEVERITIES = ("", "minor", "major", "critical")
_VALIDATOR = Draft202012Validator(schema())
#: How often a site reports that does not say it, in seconds.
USUAL_SECONDS = 60.0


class BeatError(Permanent):
    """Not a heartbeat: the text says where it departs from the schema, without quoting values."""


@dataclass(frozen=True, slots=True)
class Beat:
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
    status: Mapping[str, Any]
    notices: Sequence[Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Facts:
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


def parse(body: bytes) -> Beat:
    """Read and check a document. Raises BeatError."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        raise BeatError("not JSON") from None
    fault = best_match(_VALIDATOR.iter_errors(told))
    if fault is not None:
        raise BeatError(f"{fault.json_path}: not as the schema says ({fault.validator})")
    try:
        at = from_iso(told["at"])
    except ValueError:
        raise BeatError("$.at: not a moment such as 2026-11-21T20:11:23Z") from None
    site, ledger = told["site"], told["ledger"]
    return Beat(
        site=site["id"],
        name=site["name"],
        number=told["number"],
        first=min(told.get("covers", [told["number"]])[0], told["number"]),
        at=at,
        every=float(told.get("every_seconds", USUAL_SECONDS)),
        boot=told["boot"],
        version=told["version"],
        digest=hashlib.sha256(body).hexdigest(),
        seq=ledger["seq"],
        head=ledger["head"],
        status=told["status"],
        notices=told["notices"],
    )


def facts(status: Mapping[str, Any]) -> Facts:
    """The numbers of a status."""
    storage, queue = status.get("storage") or {}, status.get("queue") or {}
    instances, alerts = status.get("instances") or {}, status.get("alerts") or []
    destinations = (status.get("destinations") or {}).values()
    used_fraction = _number(storage.get("used_fraction"))
    total = _total(storage, used_fraction)
    return Facts(
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
