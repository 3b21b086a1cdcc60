"""A statement as Markdown, HTML or JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict
from html import escape

from edge.console.statements.document import Document, Section, TableOf

FORMATS = ("md", "html", "json")


def render_document(found: Document, form: str) -> str:
    """`form`: one of FORMATS."""
    if form == "json":
        return json.dumps(asdict(found), indent=2, ensure_ascii=False) + "\n"
    return "\n".join(_html(found) if form == "html" else _markdown(found)) + "\n"


def _walk(sections: tuple[Section, ...], level: int = 2) -> Iterator[tuple[int, Section]]:
    for each in sections:
        yield level, each
        yield from _walk(each.sections, level + 1)


def _markdown(found: Document) -> Iterator[str]:
    yield f"# {found.title}: {found.product} {found.version}\n"
    for level, each in _walk(found.sections):
        yield f"{'#' * level} {each.number} {each.title}\n"
        yield from (f"{paragraph}\n" for paragraph in each.paragraphs)
        for table in each.tables:
            yield from _markdown_table(table)


def _markdown_table(table: TableOf) -> Iterator[str]:
    yield f"**{table.title}**\n"
    yield f"| {' | '.join(table.headings)} |"
    yield f"|{'---|' * len(table.headings)}"
    for row in table.rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"
    yield ""


def _html(found: Document) -> Iterator[str]:
    title = escape(f"{found.title}: {found.product} {found.version}")
    yield f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
    yield "<style>body{font:16px/1.5 sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem}"
    yield "table{border-collapse:collapse}td,th{border:1px solid;padding:.2rem .5rem;text-align:left}</style></head>"
    yield f"<body><h1>{title}</h1>"
    for level, each in _walk(found.sections):
        yield f"<h{level}>{escape(f'{each.number} {each.title}')}</h{level}>"
        yield from (f"<p>{escape(paragraph)}</p>" for paragraph in each.paragraphs)
        for table in each.tables:
            heads = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in table.headings)
            yield f"<table><caption>{escape(table.title)}</caption><thead><tr>{heads}</tr></thead><tbody>"
            for row in table.rows:
                yield f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
            yield "</tbody></table>"
    yield "</body></html>"
