"""The request of a change (edge.daemon.changes)."""

from __future__ import annotations

from typing import Any

from edge.errors import EdgeError

Params = dict[str, Any]


def require_reason(request: Params) -> str:
    """Why a person decides so: the ledger keeps it. Raises EdgeError where it is not said."""
    reason = str(request.get("reason", "")).strip()
    if not reason:
        raise EdgeError("say why: a decision needs its reason")
    return reason
