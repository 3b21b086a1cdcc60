"""The configuration in force, where each value comes from, what is strange in it, and what differs on disk."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from enum import Enum
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from edge import config as configuration
from edge.config.files import dotted
from edge.config.sections import LEARNED, NAMED, SECTIONS, Config, keys
from edge.console.access import Access
from edge.console.dry_run import toml_of
from edge.errors import ConfigError
from edge.monitor.config_warnings import warnings
from edge.monitor.health import disk_of
from edge.store import queries
from edge.text import span
from edge.web.guard import visitor_of
from edge.web.pages import Pages

NOT_THERE, MASK = "(not there)", "\N{BULLET}\N{BULLET}\N{BULLET}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key, as it is in force."""

    key: str
    value: str
    place: str  # file and line; empty: the default
    elsewhere: str | None = None  # what stands on disk, where that differs


class Settings:
    def __init__(self, access: Access, pages: Pages) -> None:
        self._access, self._pages = access, pages

    def show(self, request: Request) -> Response:
        """GET /configuration."""
        config, visitor = self._access.config(), visitor_of(request)
        problems, on_disk = self._on_disk()
        tables = tables_of(config, on_disk)
        if not visitor.sees_patients:
            tables = [(table, [_masked(each) for each in settings]) for table, settings in tables]
        return self._pages.render(
            request,
            "configuration.html",
            directory=str(self._access.directory),
            tables=tables,
            differing=sum(setting.elsewhere is not None for _, settings in tables for setting in settings),
            problems=problems,
            warnings=self._warnings(config),
        )

    def _on_disk(self) -> tuple[list[str], Config | None]:
        try:
            return [], configuration.load(self._access.directory)
        except ConfigError as error:
            return error.problems, None

    def _warnings(self, config: Config) -> list[str]:
        disk = disk_of(config.site.data_dir)
        with self._access.db.reading() as conn:
            seen, daily = queries.senders(conn), queries.daily_bytes(conn, time.time())
        return warnings(config, seen, (disk.total_bytes, disk.free_bytes), daily)


def _masked(setting: Setting) -> Setting:
    """For who may not see patients: conditions and lists of studies may name one."""
    if setting.key not in ("when", "studies") or setting.value in ("-", NOT_THERE):
        return setting
    return replace(setting, value=MASK, elsewhere=None if setting.elsewhere is None else MASK)


def tables_of(config: Config, on_disk: Config | None) -> list[tuple[str, list[Setting]]]:
    """Every table with its keys, in the order of the sections; those that exist on disk only, too."""
    here, there = _flat(config), _flat(on_disk) if on_disk else None
    tables: dict[str, list[Setting]] = {}
    for table, key in sorted({**here, **(there or {})}, key=lambda each: list(_order(config, each[0]))):
        value = here.get((table, key), NOT_THERE)
        other = value if there is None else there.get((table, key), NOT_THERE)
        place = config.lines.get(f"{table}.{key}", "")
        tables.setdefault(table, []).append(Setting(key, value, place, other if other != value else None))
    return list(tables.items())


def _order(config: Config, table: str) -> tuple[int, str]:
    heads = [f.name for f in fields(config)]
    plural = {name: plural for name, (_, plural) in NAMED.items()}
    head = table.partition(".")[0]
    return heads.index(plural.get(head, head)), table


def _flat(config: Config) -> dict[tuple[str, str], str]:
    """(table, key) -> the value as text."""
    found: dict[tuple[str, str], str] = {}
    for table, cls in SECTIONS.items():
        for key in keys(cls):
            found[table, key] = _told(key, getattr(getattr(config, table), key))
    for table, (cls, plural) in NAMED.items():
        for name, section in getattr(config, plural).items():
            for key in keys(cls):
                found[dotted((table, name)), key] = _told(key, getattr(section, key))
    return found


def _told(key: str, value: Any) -> str:
    """A value as people write it."""
    if value is None or value == "":
        return "-"
    if key == "sends_by":
        return "learned" if value == LEARNED else time.strftime("%H:%M", time.gmtime(value))
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and value >= 60 and key in ("keep", "every", "escalate", "idle", "admin_idle"):
        return span(value)
    if isinstance(value, Mapping):
        return toml_of(value) if value else "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(_told("", each) for each in value) or "-"
    return str(value)
