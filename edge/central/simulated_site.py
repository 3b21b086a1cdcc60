"""A site that does not exist: the heartbeats of its gateway, the same ones each time but for their moments."""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass, field
from typing import Any

from edge import __version__
from edge.monitor import heartbeat
from edge.text import iso

KINDS = ("CT", "MR", "CR", "US", "DX", "MG", "PX")
TB = 10**12


@dataclass(slots=True)
class SimulatedSite:
    """One simulated site; `head` stands for its ledger's."""

    id: str
    key: bytes
    number: int = 0
    boot: str = "simulated"
    started: float = 0.0
    received: int = 0
    used: float = 0.4
    total: int = 4 * TB
    titles: tuple[str, ...] = ()
    chance: random.Random = field(default_factory=lambda: random.Random(0))

    def document(self, at: float) -> dict[str, Any]:
        """Its next heartbeat."""
        self.number += 1
        came = self.chance.randrange(400)
        self.received += came
        self.used = min(0.93, self.used + came * 500_000 / self.total)
        return {
            "schema": heartbeat.HEARTBEAT_SCHEMA,
            "site": {"id": self.id, "name": f"Simulated {self.id}"},
            "number": self.number,
            "at": iso(at),
            "boot": self.boot,
            "version": __version__,
            "every_seconds": 60,
            "status": self._status(at),
            "ledger": {"seq": self.received, "head": f"{self.received:064x}"},
            "notices": [],
        }

    def _status(self, at: float) -> dict[str, Any]:
        waiting = self.chance.randrange(300)
        link = {"state": "up", "pending": waiting, "deferred": 0, "held": 0, "sent": self.received, "confirmed": 0}
        return {
            "state": "running",
            "reasons": [],
            "uptime_seconds": at - self.started,
            "instances": {
                "received": self.received,
                "stored": self.received,
                "stored_bytes": self.received * 500_000,
                "evicted": 0,
            },
            "queue": {
                "pending": waiting,
                "active": 0,
                "deferred": 0,
                "held": 0,
                "bytes": waiting * 500_000,
                "oldest_seconds": float(waiting),
            },
            "destinations": {"archive": link, "teleread": link},
            "storage": {
                "used_fraction": round(self.used, 4),
                "free_bytes": int(self.total * (1 - self.used)),
                "total_bytes": self.total,
                "full_in_seconds": None,
            },
            "alerts": [],
            "modalities": [self._modality(title, at) for title in self.titles],
        }

    def _modality(self, title: str, at: float) -> dict[str, Any]:
        return {
            "ae_title": title,
            "address": "192.0.2.7",
            "manufacturer": "Simulated",
            "model": title.rstrip("0123456789"),
            "last_seen": iso(at),
            "admitted": True,
        }


def fleet(count: int, seed: str = "") -> list[SimulatedSite]:
    """`count` sites, the same ones each time; their keys are made of `seed`."""
    now = time.time()
    made = []
    for index in range(count):
        chance = random.Random(index)
        titles = tuple(f"{chance.choice(KINDS)}{n}" for n in range(1, chance.randrange(3, 12)))
        used = chance.uniform(0.2, 0.8)
        key = hashlib.sha256(f"{seed}:{index}".encode()).hexdigest().encode()
        made.append(
            SimulatedSite(f"{index + 1:04d}", key, started=now - 86400, used=used, titles=titles, chance=chance)
        )
    return made
