"""The configuration: a directory of TOML files, merged, checked whole, and frozen.

`edge.config.sections` is the one list of what can be configured. `load_config` gives a `Config` in which every key has
been checked, or raises one `ConfigError` with all faults, a line each:

    10-site.toml:6: listen.ae_titel: unknown key; did you mean "ae_title"?

What is legal but strange is not a fault: see edge.monitor.config_warnings.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from edge.config import cross_checks, files, kinds, secret
from edge.config.reading import Across, Reading
from edge.config.sections import NAMED_SECTIONS, SINGLE_SECTIONS, Config, Destination, Tls
from edge.config.tables import field_of, keys
from edge.config.values import Unfit


def load_config(directory: Path, texts: Mapping[str, str] | None = None) -> Config:
    """Read and check the configuration; raises ConfigError with every fault, in the order of the files.

    `texts`: of the files, by their names, in place of what the directory has; relative paths begin there all the same.
    """
    reading = Reading(_read(directory, texts), SINGLE_SECTIONS, NAMED_SECTIONS)
    reading.read_all()
    reading.check_across(cross_checks.CROSS_CHECKS)
    reading.raise_faults()
    return _build(reading, directory)


def _read(directory: Path, texts: Mapping[str, str] | None) -> files.Tables:
    return files.read_directory(directory) if texts is None else files.read_texts(texts, directory)


def load_tables(
    directory: Path,
    sections: dict[str, type],
    named: dict[str, tuple[type, str]],
    between: Iterable[Across] = (),
    texts: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Read and check another program's tables (as SINGLE_SECTIONS and NAMED_SECTIONS): sections by table or plural.

    `lines` holds the place of each key; `texts` as in `load_config`. Raises ConfigError.
    """
    reading = Reading(_read(directory, texts), sections, named)
    reading.read_all()
    reading.check_across(between)
    reading.raise_faults()
    return reading.build_sections()


def data_dir_of(directory: Path) -> Path | None:
    """Read site.data_dir of a configuration that may have faults elsewhere; None where it cannot be read."""
    site = files.read_directory(directory).values.get("site")
    value = site.get("data_dir") if isinstance(site, dict) else None
    try:
        return None if value is None else _resolve(directory, kinds.PATH.read(value))
    except Unfit:
        return None


def changes(old: Config, new: Config) -> list[str]:
    """List keys whose values differ, as `table.key` or `table.NAME.key`; tables added or removed, as `table.NAME`."""
    found = [f"{table}.{key}" for table in SINGLE_SECTIONS for key in _differ(getattr(old, table), getattr(new, table))]
    for table, (_, plural) in NAMED_SECTIONS.items():
        before, after = getattr(old, plural), getattr(new, plural)
        found += [f"{table}.{name}" for name in sorted(before.keys() ^ after.keys())]
        for name in sorted(before.keys() & after.keys()):
            found += [f"{table}.{name}.{key}" for key in _differ(before[name], after[name])]
    return found


def _differ(old: Any, new: Any) -> list[str]:
    cls: type = type(old)
    return [key for key in keys(cls) if getattr(old, field_of(key)) != getattr(new, field_of(key))]


def _build(reading: Reading, directory: Path) -> Config:
    parts = reading.build_sections()
    site = parts["site"]
    parts["site"] = replace(site, data_dir=_resolve(directory, site.data_dir), name=site.name or site.id)
    parts["tls"] = _with_paths(parts["tls"], directory)
    parts["destinations"] = {
        name: _web_destination(each, reading.tables.values["destination"][name], directory) if each.is_web else each
        for name, each in parts["destinations"].items()
    }
    parts["clients"] = {
        name: replace(each, token=_secret_path(each.token, directory)) for name, each in parts["clients"].items()
    }
    parts["destinations"] = {name: _with_key(each, directory) for name, each in parts["destinations"].items()}
    parts["serves_queries"] = "query" in reading.tables.values
    return Config(**parts)


def _with_key(destination: Destination, directory: Path) -> Destination:
    if not destination.project_key:
        return destination
    return replace(destination, project_key=str(secret.path_of(destination.project_key, directory)))


def _resolve(directory: Path, path: Path) -> Path:
    return path if path.is_absolute() else (directory / path).resolve()


def _web_destination(destination: Destination, written: dict[str, Any], directory: Path) -> Destination:
    """One with kind = "dicomweb": proof by query where nothing else is written; host and port are the URL's."""
    url = urlsplit(destination.url)
    oauth = destination.oauth and replace(destination.oauth, secret=_secret_path(destination.oauth.secret, directory))
    return replace(
        destination,
        confirm=written.get("confirm", "query"),
        host=url.hostname or "",
        port=url.port or (443 if url.scheme == "https" else 80),
        oauth=oauth,
        token=_secret_path(destination.token, directory),
        client_certificate=_secret_path(destination.client_certificate, directory),
        client_key=_secret_path(destination.client_key, directory),
        ca=_secret_path(destination.ca, directory),
    )


def _secret_path(name: str, directory: Path) -> str:
    return str(secret.path_of(name, directory)) if name else ""


def _with_paths(tls: Tls, directory: Path) -> Tls:
    found: dict[str, Any] = {key: getattr(tls, key) for key in ("certificate", "key", "ca", "crl")}
    found = {key: path and secret.path_of(str(path), directory) for key, path in found.items()}
    return replace(tls, **found)
