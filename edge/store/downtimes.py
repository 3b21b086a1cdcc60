"""Downtimes of the gateway, and the marks that each run leaves in the catalog."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass

from edge.store.database import Transaction
from edge.store.gateway_values import remember, remove_value


@dataclass(frozen=True, slots=True)
class Downtime:
    """One time without service; seconds since 1970."""

    began: float
    ended: float
    why: str  # stopped | crash | killed | out of memory | power | reboot
    planned: bool
    detail: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.began


def begin_run(conn: Transaction, found: Downtime | None, boot_id: str, now: float) -> None:
    """Keep the downtime that ends, and the marks of the run that begins."""
    if found is not None:
        conn.execute(
            "INSERT INTO downtime (began, ended, why, detail, planned)"
            " VALUES (:began, :ended, :why, :detail, :planned)",
            asdict(found),
        )
    remove_value(conn, "failed")
    for name, value in (("boot_id", boot_id), ("started_at", str(now)), ("alive_at", str(now))):
        remember(conn, name, value)


def all_downtimes(conn: Transaction) -> Iterator[Downtime]:
    """The latest first."""
    for row in conn.execute("SELECT began, ended, why, planned, detail FROM downtime ORDER BY id DESC"):
        yield Downtime(row[0], row[1], row[2], bool(row[3]), row[4])
