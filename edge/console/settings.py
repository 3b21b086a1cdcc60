"""The running configuration: its values, the source of each, warnings, and what differs on disk."""

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
from edge.config.coercion import Change
from edge.config.edit import toml_of
from edge.config.files import format_key
from edge.config.sections import LEARNED, NAMED_SECTIONS, SINGLE_SECTIONS, Config
from edge.config.tables import field_of, keys
from edge.console.access import MASK, ConsolePage
from edge.errors import ConfigError
from edge.monitor.config_warnings import warnings
from edge.spool.room import disk_of
from edge.store import destinations, peers, tallies
from edge.text import span
from edge.web.guard import visitor_of

_ABSENT, _EMPTY = "(absent)", "\N{EN DASH}"


@dataclass(frozen=True, slots=True)
class Setting:
    """One key of the running configuration."""

    key: str
    value: str
    place: str  # file and line; empty: the default
    on_disk: str | None = None  # the value on disk, if it differs

    @property
    def is_set(self) -> bool:
        """Whether the files say it, and not the default alone."""
        return bool(self.place) or self.on_disk is not None


class Settings(ConsolePage):
    def show(self, request: Request) -> Response:
        """GET /configuration."""
        config, visitor = self._access.config(), visitor_of(request)
        problems, on_disk = self._on_disk()
        tables = tables_of(config, on_disk)
        if not visitor.sees_patients:
            tables = [(table, [_mask(each) for each in settings]) for table, settings in tables]
        return self._pages.render(
            request,
            "configuration.html",
            directory=str(self._access.directory),
            tables=tables,
            differing=sum(setting.on_disk is not None for _, settings in tables for setting in settings),
            problems=problems,
            warnings=self._warnings(config),
        )

    def _on_disk(self) -> tuple[list[str], Config | None]:
        try:
            return [], configuration.load_config(self._access.directory)
        except ConfigError as error:
            return error.problems, None

    def _warnings(self, config: Config) -> list[str]:
        disk = disk_of(config.site.data_dir)
        with self._access.db.reading() as conn:
            seen, callers = peers.senders(conn), peers.admitted_callers(conn)
            daily = tallies.daily_bytes(conn, time.time())
            proofs = destinations.list_kept_proofs(conn, list(config.destinations))
        return warnings(config, seen, (disk.total_bytes, disk.free_bytes), daily, proofs=proofs, callers=callers)


def _mask(setting: Setting) -> Setting:
    """Mask what may name a patient: conditions, and lists of studies."""
    if setting.key not in ("when", "studies") or setting.value in (_EMPTY, _ABSENT):
        return setting
    return replace(setting, value=MASK, on_disk=None if setting.on_disk is None else MASK)


def tables_of(config: Config, on_disk: Config | None) -> list[tuple[str, list[Setting]]]:
    """List every table with its keys, in the order of the sections; last those that exist on disk only."""
    here, there = _flat(config), _flat(on_disk) if on_disk else None
    tables: dict[str, list[Setting]] = {}
    for table, key in {**here, **(there or {})}:
        value = here.get((table, key), _ABSENT)
        other = value if there is None else there.get((table, key), _ABSENT)
        place = config.lines.get(f"{table}.{key}", "")
        tables.setdefault(table, []).append(Setting(key, value, place, other if other != value else None))
    return list(tables.items())


def _flat(config: Config) -> dict[tuple[str, str], str]:
    """Return {(table, key): the value as text}, in the order of the sections."""
    names = {plural: name for name, (_, plural) in NAMED_SECTIONS.items()}
    sections: dict[str, Any] = {}
    for each in fields(config):
        value = getattr(config, each.name)
        if each.name in SINGLE_SECTIONS:
            sections[each.name] = value
        elif each.name in names:
            sections |= {format_key((names[each.name], name)): value[name] for name in sorted(value)}
    return {
        (table, key): _text_of(key, getattr(section, field_of(key)))
        for table, section in sections.items()
        for key in keys(section.__class__)
    }


def _text_of(key: str, value: Any) -> str:
    """Return a value as people write it."""
    if value is None or value in ("", (), [], {}):
        return _EMPTY
    if isinstance(value, bool):
        return toml_of(value)
    if key == "sends_by":
        return "learned" if value == LEARNED else time.strftime("%H:%M", time.gmtime(value))
    if isinstance(value, Enum):
        return value.name.lower()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and value > 1:  # seconds; what is at most 1 is a share
        return span(value)
    if isinstance(value, Mapping):
        return toml_of(value)
    if isinstance(value, Change):
        return value.keyword if value.operand is None else f"{value.keyword} = {_text_of('', value.operand)}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_text_of("", each) for each in value)
    return str(value)
