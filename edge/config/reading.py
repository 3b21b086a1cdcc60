"""Reads tables into values, section by section, and gathers every fault."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from edge.config import files
from edge.config.files import Key, Problem, format_key
from edge.config.tables import build_section, defaults, keys, required_keys
from edge.config.values import Unfit, ValueKind, did_you_mean, format_value, nearest
from edge.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

#: All sections as far as they could be read -> what is wrong between them.
Across = Callable[[Any], Iterator[tuple[Key, str]]]


class Reading:
    """The sections as far as they could be read, and every fault.

    `values` holds what fits, defaults included, and leaves out what does not.
    """

    def __init__(
        self, tables: files.Tables, sections: dict[str, type], named_sections: dict[str, tuple[type, str]]
    ) -> None:
        self.tables, self._sections, self._named_sections = tables, sections, named_sections
        self.problems = list(tables.problems)
        self.values: dict[tuple[type, str], dict[str, Any]] = {}  # by class and name

    def blame(self, key: Key, text: str) -> None:
        self.problems.append(Problem(self.tables.place(key), key, text))

    def read_all(self) -> None:
        """Read every section; a misspelt table is read as the one that was meant, so that its faults show as well."""
        tables = (*self._sections, *self._named_sections)
        absent = dict(self._sections)
        for table, value in self.tables.values.items():
            if table not in tables:
                what = "unknown table" if isinstance(value, dict) else "unknown key outside any table"
                self.blame((table,), f"{what}{suggest(table, tables)}")
            meant = nearest(table, tables) if isinstance(value, dict) else table
            if meant in self._sections:
                value = self._read_tables_within(table, meant, value)
                self._section((table,), self._sections[meant], value)
                absent.pop(meant, None)
            elif meant in self._named_sections:
                self._read_named(table, self._named_sections[meant][0], value)
        for table, cls in absent.items():
            self._section((table,), cls, {})

    def _read_tables_within(self, table: str, meant: str, value: object) -> object:
        """Where a table has keys of its own and named tables as well ([retention]): read those; returns the rest."""
        if meant not in self._named_sections or not isinstance(value, dict):
            return value
        named = {name: each for name, each in value.items() if isinstance(each, dict)}
        self._read_named(table, self._named_sections[meant][0], named)
        return {name: each for name, each in value.items() if name not in named}

    def check_across(self, checks: Iterable[Across]) -> None:
        """Check several sections together."""
        for check in checks:
            for key, text in check(self):
                self.blame(key, text)

    def raise_faults(self) -> None:
        """Raise ConfigError if there is any fault."""
        if self.problems:
            raise ConfigError([str(problem) for problem in sorted(self.problems, key=lambda problem: problem.place)])

    def build_sections(self) -> dict[str, Any]:
        """Build the sections of their classes, and `lines` with the place of each key."""
        parts: dict[str, Any] = {
            table: build_section(cls, **self.section(cls)) for table, cls in self._sections.items()
        }
        for cls, plural in self._named_sections.values():
            parts[plural] = {
                name: build_section(cls, name, **values) for name, values in self.named_sections(cls).items()
            }
        return parts | {"lines": {format_key(key): str(place) for key, place in self.tables.places.items()}}

    def section(self, cls: type) -> dict[str, Any]:
        """The values of the one section of a class."""
        return self.values.get((cls, ""), {})

    def named_sections(self, cls: type) -> dict[str, dict[str, Any]]:
        """The values of all sections of a class, by name."""
        return {name: values for (of, name), values in self.values.items() if of is cls}

    def tables_of(self, table: str) -> Iterator[tuple[Key, dict[str, Any]]]:
        """The key and the values of [table], and of each [table.NAME]; none where the configuration has no such."""
        if table in self._sections:
            yield (table,), self.section(self._sections[table])
        if table in self._named_sections:
            for name, values in self.named_sections(self._named_sections[table][0]).items():
                yield (table, name), values

    def last_written(self, *rivals: Key) -> Key:
        """The last of some keys that a file sets: the one to blame for a clash with a default.

        A misspelt table sets none of them.
        """
        return next((key for key in reversed(rivals) if key in self.tables.places), rivals[-1])

    def _read_named(self, table: str, cls: type, sections: object) -> None:
        if not isinstance(sections, dict):
            self.blame((table,), f"expected tables [{table}.NAME], found {format_value(sections)}")
            return
        for name, value in sections.items():
            if not _NAME.fullmatch(name):
                self.blame(
                    (table, name), f'expected a name of letters, digits, "_", "-" and ".", found {format_value(name)}'
                )
            self._section((table, name), cls, value)

    def _section(self, key: Key, cls: type, table: object) -> None:
        if not isinstance(table, dict):
            self.blame(
                key, f"expected a table [{key[0]}{'.NAME' if len(key) > 1 else ''}], found {format_value(table)}"
            )
            return
        values = {name: value for name, value in defaults(cls).items() if name not in table}
        for name, value in table.items():
            if name in keys(cls):
                self._read((*key, name), keys(cls)[name], value, values)
            else:
                self.blame((*key, name), f"unknown key{suggest(name, keys(cls))}")
        meant = {nearest(name, keys(cls)) for name in table if name not in keys(cls)}
        for name in required_keys(cls) if self.tables.whole else ():
            if name not in table and name not in meant:
                self.blame((*key, name), f"missing; expected {keys(cls)[name].expected}")
        self.values[cls, str(key[1]) if len(key) > 1 else ""] = values

    def _read(self, key: Key, kind: ValueKind, value: object, into: dict[str, Any]) -> None:
        try:
            into[str(key[-1])] = kind.read(value)
        except Unfit as unfit:
            for within, text in unfit.faults:
                self.blame((*key, *within), text)


def suggest(name: str, choices: Iterable[str]) -> str:
    return did_you_mean(name, choices) or f"; expected one of {', '.join(choices) or '(none is declared)'}"
