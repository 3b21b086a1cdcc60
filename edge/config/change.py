"""Changes by a command or a page, as new texts of the configuration's files. Pure.

Each change is a name and its fields, as in `edge.daemon.commands`; `FILE_CHANGES` has them all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from edge.config import edit
from edge.config.edit import Files, NotEditable
from edge.config.files import parse_toml
from edge.config.maintenance import as_local, fault_of_window
from edge.config.parsers import parse_date_and_time
from edge.config.sections import Calendar, Config
from edge.errors import EdgeError
from edge.text import moment_text, single_line

Fields = Mapping[str, Any]
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
EQUIPMENT_FILE, MAINTENANCE_FILE, ROUTES_FILE = "25-added-equipment.toml", "60-maintenance.toml", "30-routes.toml"
WRITTEN_MOMENT = "%Y-%m-%d %H:%M"


def _add_modality(files: Files, config: Config, fields: Fields, origin: str) -> dict[str, str]:
    """A new [modality.NAME]."""
    name = _name(fields, config.modalities)
    keys = ("ae_title", "hosts", "services", "port", "commit", "certificate")
    values = {key: fields[key] for key in keys if fields.get(key)}
    block = edit.table_text(("modality", name), values, origin)
    return edit.put_table(files, ("modality", name), block, EQUIPMENT_FILE)


def _add_host(files: Files, config: Config, fields: Fields, _origin: str) -> dict[str, str]:
    """Another address of equipment that is configured."""
    name, host = str(fields["name"]), str(fields["host"])
    modality = config.modalities.get(name)
    if modality is None:
        raise EdgeError(f"there is no [modality.{name}]")
    if not modality.hosts:
        raise EdgeError(f"[modality.{name}] is admitted from any address: hosts would then admit {host} alone")
    if host in modality.hosts:
        raise EdgeError(f"[modality.{name}] has the address {host} already")
    return edit.set_value(files, ("modality", name, "hosts"), [*modality.hosts, host])


def _add_maintenance(files: Files, config: Config, fields: Fields, origin: str) -> dict[str, str]:
    begin, end = (_moment(fields, key, config.calendar) for key in ("from", "to"))
    if fault := fault_of_window(begin, end):
        raise EdgeError(f"to: {fault}")
    name = str(fields.get("name") or begin.strftime("planned-%Y%m%d-%H%M"))
    name = _name({"name": name}, config.maintenances)
    values = {"from": begin.strftime(WRITTEN_MOMENT), "to": end.strftime(WRITTEN_MOMENT), "reason": _reason(fields)}
    block = edit.table_text(("maintenance", name), values, origin)
    return edit.put_table(files, ("maintenance", name), block, MAINTENANCE_FILE)


def _remove_maintenance(files: Files, config: Config, fields: Fields, _origin: str) -> dict[str, str]:
    name = str(fields["name"])
    if name not in config.maintenances:
        raise EdgeError(f"there is no [maintenance.{name}]")
    return edit.drop_table(files, ("maintenance", name))


def _set_routes(files: Files, _config: Config, fields: Fields, _origin: str) -> dict[str, str]:
    """The routes (and destinations) of a text; the routes that it lacks are removed."""
    text = str(fields["text"])
    strange = set(parse_toml(text)) - {"route", "destination"}
    if strange:
        raise NotEditable(f"only [route.NAME] and [destination.NAME] can be applied here, not [{min(strange)}]")
    return edit.put_tables(files, text, "route", ROUTES_FILE)


def _name(fields: Fields, taken: Mapping[str, object]) -> str:
    name = str(fields.get("name", "")).strip()
    if not _NAME.fullmatch(name):
        raise EdgeError('expected a name of letters, digits, "_", "-" and "."')
    if name in taken:
        raise EdgeError(f"the name {name} is taken; choose another")
    return name


def _moment(fields: Fields, key: str, calendar: Calendar) -> datetime:
    try:
        found = parse_date_and_time(str(fields.get(key, "")).strip())
    except ValueError as error:
        raise EdgeError(f'{key}: expected a date and time such as "2026-12-05 22:00"{error}') from None
    return as_local(found, calendar.zone).replace(second=0, microsecond=0)


def _reason(fields: Fields) -> str:
    reason = single_line(str(fields.get("reason", "")))
    if not reason:
        raise EdgeError("say why: a change of the configuration needs its reason")
    return reason[:500]


#: Name of a change -> what it makes of the files.
FILE_CHANGES: Mapping[str, Callable[[Files, Config, Fields, str], dict[str, str]]] = {
    "modality-add": _add_modality,
    "modality-add-host": _add_host,
    "maintenance-add": _add_maintenance,
    "maintenance-remove": _remove_maintenance,
    "routes-set": _set_routes,
}


def change_files(files: Files, config: Config, name: str, fields: Fields, who: str, at: float) -> dict[str, str]:
    """The files after a change. Raises EdgeError where it cannot be made; what is legal is checked by the caller."""
    origin = f"{moment_text(at)}, {who}: {_reason(fields)}"
    return FILE_CHANGES[name](files, config, fields, origin)
