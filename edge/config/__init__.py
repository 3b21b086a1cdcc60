"""The configuration: a directory of TOML files, merged, checked whole, and frozen.

`edge.config.sections` is the one list of what can be configured. `load` gives a `Config` in which every key has been
checked, or raises one `ConfigError` with all faults, a line each:

    10-site.toml:6: listen.ae_titel: unknown key; did you mean "ae_title"?

What is legal but strange is not a fault: see edge.monitor.config_warnings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge import secret
from edge.config import cross_checks, files
from edge.config import values as kinds
from edge.config.reading import Across, Reading
from edge.config.sections import NAMED, SECTIONS, Config, Tls, keys
from edge.config.values import Unfit


def load(directory: Path) -> Config:
    """Read and check the configuration; raises ConfigError with every fault, in the order of the files."""
    reading = Reading(files.read(directory), SECTIONS, NAMED)
    reading.read_all()
    _check_conditions(reading)
    reading.look_across(cross_checks.CHECKS)
    reading.refuse()
    return _build(reading, directory)


def _check_conditions(reading: Reading) -> None:
    """Whether what a `when` asks can be compared."""
    conditions = list(_conditions(reading))
    if not conditions:
        return
    from edge.config.conditions import check_condition  # noqa: PLC0415 - the data dictionary is slow to import

    for table, name, keyword, condition in conditions:
        if text := check_condition(keyword, condition):
            reading.blame((table, name, "when", keyword), text)


def _conditions(reading: Reading) -> Iterator[tuple[str, str, str, object]]:
    """Every condition whose shape is right: (table, name, keyword, condition)."""
    for table in ("route", "hold"):
        for name, values in reading.named(NAMED[table][0]).items():
            yield from ((table, name, keyword, value) for keyword, value in values.get("when", {}).items())


def load_tables(
    directory: Path, sections: dict[str, type], named: dict[str, tuple[type, str]], between: Iterable[Across] = ()
) -> dict[str, Any]:
    """The same for another program's tables (in the form of SECTIONS and NAMED): its sections by table or plural.

    `lines` holds the place of each key. Raises ConfigError.
    """
    reading = Reading(files.read(directory), sections, named)
    reading.read_all()
    reading.look_across(between)
    reading.refuse()
    return reading.built()


def data_dir_of(directory: Path) -> Path | None:
    """site.data_dir of a configuration that may have mistakes elsewhere; None where it cannot be read."""
    site = files.read(directory).values.get("site")
    value = site.get("data_dir") if isinstance(site, dict) else None
    try:
        return None if value is None else _below(directory, kinds.PATH.read(value))
    except Unfit:
        return None


def changes(old: Config, new: Config) -> list[str]:
    """The keys whose values differ, as `table.key` or `table.NAME.key`; what came or went whole, as `table.NAME`."""
    found = [f"{table}.{key}" for table in SECTIONS for key in _differ(getattr(old, table), getattr(new, table))]
    for table, (_, plural) in NAMED.items():
        before, after = getattr(old, plural), getattr(new, plural)
        found += [f"{table}.{name}" for name in sorted(before.keys() ^ after.keys())]
        for name in sorted(before.keys() & after.keys()):
            found += [f"{table}.{name}.{key}" for key in _differ(before[name], after[name])]
    return found


def _differ(old: Any, new: Any) -> list[str]:
    cls: type = type(old)
    return [key for key in keys(cls) if getattr(old, key) != getattr(new, key)]


def _build(reading: Reading, directory: Path) -> Config:
    parts = reading.built()
    site = parts["site"]
    parts["site"] = replace(site, data_dir=_below(directory, site.data_dir), name=site.name or site.id)
    parts["tls"] = _with_paths(parts["tls"], directory)
    return Config(**parts)


def _below(directory: Path, path: Path) -> Path:
    return path if path.is_absolute() else (directory / path).resolve()


def _with_paths(tls: Tls, directory: Path) -> Tls:
    def found(path: Path | None) -> Path | None:
        return path and secret.path_of(str(path), directory)

    return replace(tls, certificate=found(tls.certificate), key=found(tls.key), ca=found(tls.ca), crl=found(tls.crl))
