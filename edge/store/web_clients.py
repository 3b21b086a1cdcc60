"""Machines that call the DICOMweb services, as the catalog knows them. The caller owns the connection; reads only."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from edge.config.sections import WebClient
from edge.store.database import Transaction

#: Under which configured callers of the web door are known, before the name.
CLIENT_PREFIX = "client."


@dataclass(frozen=True, slots=True)
class ListedClient:
    """A [client.NAME], and what is known of its calls; None: not yet."""

    name: str
    ae_title: str
    services: tuple[str, ...]
    signs_in_with: str  # "token", "certificate", or both
    addresses: tuple[str, ...]  # from which it has called, the last first
    last_seen_at: float | None
    last_stored_at: float | None
    stored: int  # objects
    certificate_expires_at: float | None
    is_configured: bool = True


def list_clients(conn: Transaction, configured: Collection[WebClient]) -> list[ListedClient]:
    """The configured ones by name, then those that have called and are not configured any more."""
    rows = conn.execute(
        "SELECT modality, ae_title, address, last_seen, last_stored, stored, certificate_expires FROM peer"
        " WHERE modality >= 'client.' AND modality < 'client/' ORDER BY last_seen DESC"
    ).fetchall()
    known = {each.name for each in configured}
    gone = sorted({row[0].removeprefix(CLIENT_PREFIX) for row in rows} - known)
    found = []
    for client in [*sorted(configured, key=lambda each: each.name), *(WebClient(name, services=()) for name in gone)]:
        calls = [row for row in rows if row[0] == CLIENT_PREFIX + client.name]
        ways = [word for word, is_set in (("token", client.token), ("certificate", client.certificate)) if is_set]
        found.append(
            ListedClient(
                client.name,
                calls[0][1] if calls and client.name not in known else client.title,
                client.services,
                " and ".join(ways),
                tuple(row[2] for row in calls),
                max((row[3] for row in calls), default=None),
                max((row[4] for row in calls if row[4] is not None), default=None),
                sum(row[5] for row in calls),
                next((row[6] for row in calls if row[6] is not None), None),
                client.name in known,
            )
        )
    return found
