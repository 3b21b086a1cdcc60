"""Tables, section by section, into values that fit, with every fault on the way."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from edge.config import files
from edge.config.files import Key, Problem, dotted
from edge.config.sections import defaults, keys, required
from edge.config.values import Unfit, ValueKind, did_you_mean, nearest, show
from edge.errors import ConfigError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")

#: All sections as far as they could be read -> what is wrong between them.
Across = Callable[[Any], Iterator[tuple[Key, str]]]


class Reading:
    """Reads the tables section by section and gathers every fault on the way.

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
        """Read every section; a misspelt table is read as what it was meant to be, so that its faults show as well."""
        tables = (*self._sections, *self._named_sections)
        absent = dict(self._sections)
        for table, value in self.tables.values.items():
            if table not in tables:
                what = "unknown table" if isinstance(value, dict) else "unknown key outside any table"
                self.blame((table,), f"{what}{near(table, tables)}")
            meant = nearest(table, tables) if isinstance(value, dict) else table
            if meant in self._sections:
                self._section((table,), self._sections[meant], value)
                absent.pop(meant, None)
            elif meant in self._named_sections:
                self._named(table, self._named_sections[meant][0], value)
        for table, cls in absent.items():
            self._section((table,), cls, {})

    def look_across(self, checks: Iterable[Across]) -> None:
        """Check what no section can see alone."""
        for check in checks:
            for key, text in check(self):
                self.blame(key, text)

    def refuse(self) -> None:
        """Raise ConfigError where there is any fault."""
        if self.problems:
            raise ConfigError([str(problem) for problem in sorted(self.problems, key=lambda problem: problem.place)])

    def built(self) -> dict[str, Any]:
        """The sections as their classes have them, and the place of each key."""
        parts: dict[str, Any] = {table: cls(**self.of(cls)) for table, cls in self._sections.items()}
        for cls, plural in self._named_sections.values():
            parts[plural] = {name: cls(name, **values) for name, values in self.named(cls).items()}
        return parts | {"lines": {dotted(key): str(place) for key, place in self.tables.places.items()}}

    def of(self, cls: type) -> dict[str, Any]:
        """The values of the one section of a class."""
        return self.values.get((cls, ""), {})

    def named(self, cls: type) -> dict[str, dict[str, Any]]:
        """The values of all sections of a class, by name."""
        return {name: values for (of, name), values in self.values.items() if of is cls}

    def written(self, *rivals: Key) -> Key:
        """The last of some keys that stands in a file: it is the one to blame for a clash with a default."""
        return [key for key in rivals if key in self.tables.places][-1]

    def _named(self, table: str, cls: type, sections: object) -> None:
        if not isinstance(sections, dict):
            self.blame((table,), f"expected tables [{table}.NAME], found {show(sections)}")
            return
        for name, value in sections.items():
            if not _NAME.fullmatch(name):
                self.blame((table, name), f'expected a name of letters, digits, "_", "-" and ".", found {show(name)}')
            self._section((table, name), cls, value)

    def _section(self, key: Key, cls: type, table: object) -> None:
        if not isinstance(table, dict):
            self.blame(key, f"expected a table [{key[0]}{'.NAME' if len(key) > 1 else ''}], found {show(table)}")
            return
        values = {name: value for name, value in defaults(cls).items() if name not in table}
        for name, value in table.items():
            if name in keys(cls):
                self._read((*key, name), keys(cls)[name], value, values)
            else:
                self.blame((*key, name), f"unknown key{near(name, keys(cls))}")
        meant = {nearest(name, keys(cls)) for name in table if name not in keys(cls)}
        for name in required(cls) if self.tables.whole else ():
            if name not in table and name not in meant:
                self.blame((*key, name), f"missing; expected {keys(cls)[name].expected}")
        self.values[cls, str(key[1]) if len(key) > 1 else ""] = values

    def _read(self, key: Key, kind: ValueKind, value: object, into: dict[str, Any]) -> None:
        try:
            into[str(key[-1])] = kind.read(value)
        except Unfit as unfit:
            for within, text in unfit.faults:
                self.blame((*key, *within), text)


def near(name: str, choices: Iterable[str]) -> str:
    return did_you_mean(name, choices) or f"; expected one of {', '.join(choices) or '(none is declared)'}"
