"""AE titles: those registered in the configuration beside those that the sites have seen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from edge.central.config import CentralConfig
from edge.central.downtime import moment
from edge.store.engine import Row
from edge.text import printable

#: A registered AE title that was not seen for this time is orphaned.
ORPHANED_SECONDS = 60 * 86400.0


def list_titles(sites: Sequence[Row], config: CentralConfig, now: float) -> list[dict[str, Any]]:
    """Every AE title, registered or seen, and what is wrong with it.

    orphaned: registered; never seen, or not for two months. unknown: seen, and registered nowhere. misrouted: seen at a
    site, and registered only at others.
    """
    where = registrations(config)
    names = config.names_of(sites)
    found = []
    for row in sites:
        for modality in json.loads(row["status"]).get("modalities") or []:
            each = _title(row["id"], names[row["id"]], modality)
            each["mark"] = mark_of(row["id"], each["last_seen"], where.get(each["ae_title"], set()), now)
            found.append(each)
    seen = {(each["site"], each["ae_title"]) for each in found}
    for site in config.sites.values():
        for title in site.equipment:
            if (site.id, title) not in seen:
                unseen = _title(site.id, names.get(site.id) or site.name, {"ae_title": title})
                found.append({**unseen, "mark": "orphaned"})
    return sorted(found, key=lambda each: (each["site"], each["ae_title"]))


def registrations(config: CentralConfig) -> Mapping[str, set[str]]:
    """The sites at which each AE title is registered."""
    where: dict[str, set[str]] = {}
    for site in config.sites.values():
        for title in site.equipment:
            where.setdefault(title, set()).add(site.id)
    return where


def mark_of(site: str, last_seen: float | None, registered: set[str], now: float) -> str:
    """What is wrong with an AE title that a site has seen, registered at these sites; empty where nothing is."""
    if site in registered:
        return "orphaned" if last_seen is not None and now - last_seen > ORPHANED_SECONDS else ""
    return "misrouted" if registered else "unknown"


def _title(site: str, name: str, modality: Mapping[str, Any]) -> dict[str, Any]:
    """A row: one AE title of a site, by its heartbeat."""

    def text(key: str) -> str:
        return printable(str(modality.get(key) or ""))

    return {
        "site": site,
        "name": name,
        "ae_title": text("ae_title"),
        "mark": "",
        "address": text("address"),
        "manufacturer": text("manufacturer"),
        "model": text("model"),
        "serial": text("serial"),
        "software": text("software"),
        "changed_at": moment(modality.get("changed_at")),
        "first_seen": moment(modality.get("first_seen")),
        "last_seen": moment(modality.get("last_seen")),
        "admitted": bool(modality.get("admitted", True)),
    }


def list_unregistered(sites: Sequence[Row], config: CentralConfig, now: float) -> list[dict[str, Any]]:
    """What sites have that is not registered there: the unknown and the misrouted, the newest first."""
    found = [each for each in list_titles(sites, config, now) if each["mark"] in ("unknown", "misrouted")]
    return sorted(found, key=lambda each: -(each["first_seen"] or each["last_seen"] or 0.0))
