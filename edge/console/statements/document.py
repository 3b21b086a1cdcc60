"""A statement as a value: sections with paragraphs and tables; its form is that of edge.console.statements.render."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class TableOf:
    """One table: its title, headings, and rows of text."""

    title: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """One section; `number` as the template has it."""

    number: str
    title: str
    paragraphs: tuple[str, ...] = ()
    tables: tuple[TableOf, ...] = ()
    sections: tuple[Section, ...] = ()


def absent(number: str, title: str) -> Section:
    """A section of the template for what Edge does not do."""
    return Section(number, title, ("Not supported.",))


@dataclass(frozen=True, slots=True)
class Document:
    """A whole statement; `facts`: the same for programs."""

    title: str
    product: str
    version: str
    site: str
    sections: tuple[Section, ...]
    facts: Mapping[str, object] = field(default_factory=dict)
