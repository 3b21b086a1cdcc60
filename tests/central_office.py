"""A central office under test: its store on either database, a clock that is told the time, and sites that report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.central import config, intake, watch
from edge.central.beat import parse
from edge.central.config import Config
from edge.central.judge import Verdict
from edge.central.store import Connection, Row, Store, rows
from edge.ops.words import iso

#: A Monday, 09:00 UTC.
MORNING = 1_767_603_600.0


def write_config(directory: Path, sites: str, central: str = "") -> Config:
    """A configuration whose sites share one key."""
    directory.mkdir(parents=True, exist_ok=True)
    key = directory / "site.key"
    key.touch(mode=0o600)
    key.write_bytes(b"secret of the site\n")
    (directory / "central.toml").write_text(f'[central]\nhost = "127.0.0.1"\ndata_dir = "data"\n{central}\n{sites}\n')
    return config.load(directory)


def some_sites(count: int, provider: str = "") -> str:
    """TOML of sites "1" to `count`."""
    behind = f'provider = "{provider}"\n' if provider else ""
    return "\n".join(f'[site."{n}"]\nkey = "site.key"\n{behind}' for n in range(1, count + 1))


def status(**told: Any) -> dict[str, Any]:
    """The status of a site that is well."""
    return {
        "state": "running",
        "uptime_seconds": 3600.0,
        "instances": {"received": 100, "stored": 100, "stored_bytes": 50_000_000},
        "queue": {"pending": 3, "active": 0, "deferred": 0, "held": 0, "bytes": 900, "oldest_seconds": 2.0},
        "destinations": {},
        "storage": {"used_fraction": 0.5, "free_bytes": 10**12, "total_bytes": 2 * 10**12, "full_in_seconds": None},
        "alerts": [],
        **told,
    }


def document(site: str, number: int, at: float, **told: Any) -> dict[str, Any]:
    """A heartbeat."""
    made = {
        "schema": "edge-heartbeat/1",
        "site": {"id": site, "name": f"Site {site}"},
        "number": number,
        "at": iso(at),
        "boot": "first",
        "version": "1.0",
        "every_seconds": 60,
        "status": status(),
        "ledger": {"seq": number, "head": f"{number:064x}"},
        "notices": [],
    }
    return {**made, **told}


def encoded(made: dict[str, Any]) -> bytes:
    return json.dumps(made).encode()


class Office:
    """The office's store and what happens to it. Time is what a test says."""

    def __init__(self, config: Config, store: Store) -> None:
        self.config, self.store, self.started = config, store, 0.0

    def hear(self, site: str, number: int, at: float, *, now: float | None = None, **told: Any) -> Verdict:
        """A heartbeat comes, at its own time unless `now` says otherwise."""
        beat = parse(encoded(document(site, number, at, **told)))
        with self.store.writing() as conn:
            return intake.record(conn, beat, at if now is None else now)

    def look(self, now: float) -> None:
        """The dead-man switch."""
        with self.store.writing() as conn:
            watch.look_for_silence(conn, self.config, self.started, now)

    def rows(self, sql: str, **given: object) -> Sequence[Row]:
        with self.store.reading() as conn:
            return rows(conn, sql, **given)

    def incidents(self, *, open_only: bool = False) -> list[Row]:
        """All that are not part of another, in order."""
        found = self.rows("SELECT * FROM incident WHERE merged_into IS NULL ORDER BY id")
        return [each for each in found if not open_only or each["closed_at"] is None]

    def notes(self, incident: int) -> list[str]:
        found = self.rows("SELECT text FROM incident_note WHERE incident = :id ORDER BY id", id=incident)
        return [each["text"] for each in found]


__all__ = ["MORNING", "Connection", "Office", "document", "encoded", "some_sites", "status", "write_config"]
