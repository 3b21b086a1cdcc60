"""A notice as channels, webhooks and the central office receive it. Stable: keys are added, never changed. No PHI."""

from __future__ import annotations

from typing import Any

from edge import __version__
from edge.text import iso, iso_or_none


def notice_json(
    number: int | str,
    event: str,
    site: tuple[str, str],
    at: float,
    *,
    kind: str,
    subject: str,
    severity: str,
    since: float,
    ended: float | None,
    text: str,
    means: str,
    do: str,
    **more: Any,
) -> dict[str, Any]:
    """A notice at the moment `at`. `site`: id and name. `more`: keys that only some kinds of notice have."""
    return {
        "notice": number,
        "event": event,
        "kind": kind,
        "subject": subject,
        "severity": severity,
        "since": iso(since),
        "at": iso(at),
        "ended": iso_or_none(ended),
        "duration_seconds": None if ended is None else round(max(0.0, ended - since), 1),
        "text": text,
        "means": means,
        "do": do,
        "site": {"id": site[0], "name": site[1]},
        "version": __version__,
        **more,
    }
