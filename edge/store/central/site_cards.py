"""Tags, contact and link of each site, as people of the centre note them. The last change of each counts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from edge.store.engine import EngineTransaction, Row, do, rows


@dataclass(frozen=True, slots=True)
class SiteCard:
    """What was noted of one site last, and who noted it."""

    tags: tuple[str, ...]
    contact: str
    link: str
    changed_at: float = 0.0
    who: str = ""


def read_cards(conn: EngineTransaction) -> dict[str, SiteCard]:
    """Return the last card of every site that has one."""
    last = "SELECT * FROM site_card WHERE id IN (SELECT max(id) FROM site_card GROUP BY site)"
    return {row["site"]: _card(row) for row in rows(conn, last)}


def find_card(conn: EngineTransaction, site: str) -> SiteCard | None:
    found: Sequence[Row] = rows(conn, "SELECT * FROM site_card WHERE site = :site ORDER BY id DESC LIMIT 1", site=site)
    return _card(found[0]) if found else None


def put_card(conn: EngineTransaction, site: str, card: SiteCard) -> None:
    do(
        conn,
        "INSERT INTO site_card (site, tags, contact, link, changed_at, who)"
        " VALUES (:site, :tags, :contact, :link, :changed_at, :who)",
        site=site,
        tags=json.dumps(card.tags),
        contact=card.contact,
        link=card.link,
        changed_at=card.changed_at,
        who=card.who,
    )


def _card(row: Row) -> SiteCard:
    return SiteCard(tuple(json.loads(row["tags"])), row["contact"], row["link"], row["changed_at"], row["who"])
