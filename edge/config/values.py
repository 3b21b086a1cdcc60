"""The type of a kind of value, and the report of a value that does not fit; edge.config.kinds has all kinds.

A `ValueKind` says in words what it expects and turns what TOML gave into what the program wants. A value that does not
fit raises `Unfit`, with every fault in it: what was found, what was expected, and the nearest right spelling.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edge.config.files import Key

#: Where within a value, and what is wrong there.
Fault = tuple[Key, str]

P = TypeVar("P", str, int)
T = TypeVar("T")


class Unfit(Exception):
    """A value is not of the kind that its key takes."""

    def __init__(self, *faults: Fault) -> None:
        super().__init__(*(text for _, text in faults))
        self.faults = faults


def unfit(text: str) -> Unfit:
    """Build the fault of a whole value."""
    return Unfit(((), text))


@contextmanager
def fault_at(part: str | int) -> Iterator[None]:
    """Inside, a fault is one of this part of a value."""
    try:
        yield
    except Unfit as found:
        raise Unfit(*(((part, *key), text) for key, text in found.faults)) from None


def read_parts(parts: Iterable[tuple[P, Any]], read: Callable[[P, Any], T]) -> tuple[T, ...]:
    """Read each part of a value: index and item of a list, name and value of a table. Raises Unfit with all faults."""
    found: list[T] = []
    faults: list[Fault] = []
    for part, value in parts:
        try:
            with fault_at(part):
                found.append(read(part, value))
        except Unfit as error:
            faults += error.faults
    if faults:
        raise Unfit(*faults)
    return tuple(found)


def is_number(value: object) -> bool:
    """Check for a number; TOML's true and false are none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@dataclass(frozen=True, slots=True)
class ValueKind:
    """What a key takes. `parse` raises ValueError, with a remedy as its text if it knows one, or Unfit."""

    expected: str
    parse: Callable[[Any], Any]
    schema: Mapping[str, Any] = field(default_factory=dict)  # JSON Schema, for editors; empty: anything

    def read(self, value: object) -> Any:
        """The value as the program wants it; raises Unfit."""
        try:
            return self.parse(value)
        except ValueError as error:
            raise unfit(f"expected {self.expected}, found {format_value(value)}{error}") from None


def format_value(value: object) -> str:
    """Write a TOML value into a sentence."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    if isinstance(value, (str, int, float)):
        text = json.dumps(value, ensure_ascii=False)
        return text if len(text) <= 80 else f"{text[:76]}..."
    return str(value)


def nearest(found: object, choices: Iterable[str]) -> str | None:
    """Find the right spelling that is nearest to what was found, if any is near."""
    known = {_plain(choice): choice for choice in choices}
    word = _plain(str(found))
    near = [word] if word in known else difflib.get_close_matches(word, known, n=1)
    return known[near[0]] if near else None


def did_you_mean(found: object, choices: Iterable[str]) -> str:
    """Build the end of a sentence that names the nearest right spelling; empty where none is near."""
    near = nearest(found, choices)
    return f'; did you mean "{near}"?' if near else ""


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")
