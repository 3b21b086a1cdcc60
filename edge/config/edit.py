"""Changes of the configuration's files: texts become other texts. Pure; `edge.daemon.configuring` writes them.

The files are the source of truth: what a person wrote beside a change, comments included, stays. A table that is
written in another form (inline, or by dotted keys) becomes a `[table.NAME]` at the end of its file before it is edited;
where that cannot be done, the refusal names its place.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from edge.config import load_config
from edge.config.files import format_key, locate, parse_toml
from edge.config.sections import Config
from edge.errors import EdgeError

#: {file name: text}
Files = Mapping[str, str]
TableKey = tuple[str, ...]

_HEADER = re.compile(r"\s*\[(?!\[)([^#]*)\]\s*(#.*)?$")
_NOT_IN_NAMES = re.compile(r"[^a-z0-9_-]+")
#: The longest file that is edited here.
MOST_FILE_BYTES = 256 * 1024


class NotEditable(EdgeError):
    """The files cannot be changed by a program; the text says why, and what to do by hand."""


@dataclass(frozen=True, slots=True)
class TableBlock:
    """A table of a file: from its header to the last of its keys. Lines count from 0."""

    key: TableKey
    begin: int
    end: int


def read_files(directory: Path) -> dict[str, str]:
    """The texts of a configuration. Raises OSError, or NotEditable for what is not UTF-8 or too long."""
    found = {}
    for path in sorted(directory.glob("[!.]*.toml")):
        raw = path.read_bytes()
        if len(raw) > MOST_FILE_BYTES:
            raise NotEditable(f"{path.name} is longer than {MOST_FILE_BYTES // 1024} KB; edit it by hand")
        try:
            found[path.name] = raw.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise NotEditable(f"{path.name} is not UTF-8 text; save it as UTF-8") from None
    return found


def digest_files(files: Files) -> str:
    """A digest by which two states of the files are compared."""
    return sha256(json.dumps(dict(sorted(files.items()))).encode()).hexdigest()


def check_files(files: Files, beside: Path) -> Config:
    """The configuration that these files are. Raises ConfigError with every fault.

    `beside` is the directory that they are for: relative paths begin there.
    """
    return load_config(beside, files)


def differences(before: Files, after: Files) -> list[str]:
    """The lines that differ, as `diff -u` shows them."""
    found: list[str] = []
    for name in sorted({*before, *after}):
        old, new = before.get(name, "").splitlines(), after.get(name, "").splitlines()
        found += difflib.unified_diff(old, new, f"a/{name}", f"b/{name}", lineterm="", n=2)
    return found


# -- tables ------------------------------------------------------------------------------------------------------------


def list_blocks(text: str) -> list[TableBlock]:
    """The tables of a text by their headers."""
    lines = text.split("\n")
    headers = [(number, key) for number, line in enumerate(lines) if (key := _key_of_header(line))]
    known = {line for found in locate(text).values() for line in found}
    headers = [(number, key) for number, key in headers if number + 1 in known]
    ends = [*(number for number, _ in headers[1:]), len(lines)][: len(headers)]
    return [
        TableBlock(key, begin, _last_line(lines, begin, end)) for (begin, key), end in zip(headers, ends, strict=True)
    ]


def _key_of_header(line: str) -> TableKey:
    match = _HEADER.match(line)
    if match is None:
        return ()
    table: Any = parse_toml(f"[{match[1]}]")
    key: list[str] = []
    while isinstance(table, dict) and len(table) == 1:
        ((name, table),) = table.items()
        key.append(name)
    return tuple(key)


def _last_line(lines: Sequence[str], begin: int, end: int) -> int:
    """Where a table ends: blank lines and comments before the next header belong to that one."""
    while end > begin + 1 and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return end


def find_table(files: Files, key: TableKey) -> tuple[str, list[TableBlock]] | None:
    """The file of a table that is written as such, with its block and those of the tables in it."""
    for name, text in files.items():
        blocks = [each for each in list_blocks(text) if each.key[: len(key)] == key]
        if blocks:
            return name, blocks
    return None


def write_as_table(files: Files, key: TableKey) -> dict[str, str]:
    """Have a table that is there in the form `[table.NAME]`. Raises NotEditable."""
    for name, text in files.items():
        places = locate(text).get(key)
        if places and find_table({name: text}, key) is None:
            after = _move_to_the_end(text, key)
            if after is None or parse_toml(after) != parse_toml(text):
                place = f"{name}:{places[0]}: {format_key(key)}"
                raise NotEditable(f"{place} is not written as [{format_key(key)}]; edit the file")
            return {**files, name: after}
    return dict(files)


def _move_to_the_end(text: str, key: TableKey) -> str | None:
    """The text with a table taken out of where it is; None where a statement has no end."""
    values: Any = parse_toml(text)
    for name in key:
        values = values[name]
    lines = text.split("\n")
    places = locate(text).items()
    begins = {
        line - 1
        for each, found in places
        for line in found
        if each[: len(key)] == key and all(isinstance(part, str) for part in each)  # items of lists have numbers
    }
    for begin in sorted(begins, reverse=True):
        end = _end_of_statement(lines, begin)
        if end is None:
            return None
        del lines[begin:end]
    return "\n".join(lines).rstrip() + "\n\n" + table_text(key, values)


def _end_of_statement(lines: Sequence[str], begin: int) -> int | None:
    """The line behind a key with its value, which may have several lines."""
    return next((end for end in range(begin + 1, len(lines) + 1) if parse_toml("\n".join(lines[begin:end]))), None)


def put_table(files: Files, key: TableKey, block: str, new_file: str) -> dict[str, str]:
    """Replace a table by a text, or append it to `new_file`."""
    files = write_as_table(files, key)
    found = find_table(files, key)
    if found is None:
        before = files.get(new_file, "")
        return {**files, new_file: f"{before.rstrip()}\n\n{block.strip()}\n".lstrip("\n")}
    name, blocks = found
    lines = files[name].split("\n")
    lines[blocks[0].begin : blocks[-1].end] = block.strip().split("\n")
    return {**files, name: "\n".join(lines)}


def drop_table(files: Files, key: TableKey) -> dict[str, str]:
    """Remove a table; a file in which nothing is left goes as well."""
    files = write_as_table(files, key)
    found = find_table(files, key)
    if found is None:
        return dict(files)
    name, blocks = found
    lines = files[name].split("\n")
    del lines[blocks[0].begin : blocks[-1].end]
    text = "\n".join(lines)
    if parse_toml(text):
        return {**files, name: text}
    return {other: each for other, each in files.items() if other != name}


def set_value(files: Files, key: TableKey, value: object) -> dict[str, str]:
    """Set one key of a table that is there; a comment behind the value stays. Raises NotEditable."""
    files = write_as_table(files, key[:-1])
    found = find_table(files, key[:-1])
    if found is None:
        raise NotEditable(f"there is no table [{format_key(key[:-1])}]")
    name, blocks = found
    lines = files[name].split("\n")
    written = f"{key[-1]} = {toml_of(value)}"
    places = locate(files[name]).get(key)
    if not places:
        lines.insert(blocks[0].begin + 1, written)
        return {**files, name: "\n".join(lines)}
    at = places[0] - 1
    end = _end_of_statement(lines, at)
    if end is None or parse_toml("\n".join(lines[at:end])).keys() != {key[-1]}:
        raise NotEditable(f"{name}:{places[0]}: {format_key(key)} is not on lines of its own; edit the file")
    comment = _comment_of(lines[at]) if end == at + 1 else ""
    lines[at:end] = [f"{written:<35} {comment}" if comment else written]
    return {**files, name: "\n".join(lines)}


def _comment_of(line: str) -> str:
    bare = re.sub(r"\"(?:\\.|[^\"\\])*\"|'[^']*'", lambda found: "_" * len(found[0]), line)
    return line[bare.index("#") :] if "#" in bare else ""


def put_tables(files: Files, text: str, table: str, new_file: str) -> dict[str, str]:
    """Make all tables `[table.NAME]` those of a text; other tables that the text has are put in as well.

    Raises NotEditable where the text has something outside of all tables.
    """
    blocks = list_blocks(text)
    lines = text.split("\n")
    if parse_toml(text) and set(parse_toml(text)) - {each.key[0] for each in blocks}:
        raise NotEditable("write each table as [table.NAME]")
    wanted = {each.key for each in blocks}
    for key in [key for key in _table_keys(files, table) if key not in wanted]:
        files = drop_table(files, key)
    for each in blocks:
        files = write_as_table(files, each.key)
        body = "\n".join([*_comments_above(lines, each.begin), *lines[each.begin : each.end]])
        found = find_table(files, each.key)
        if found is not None and _same_table(files[found[0]], found[1], body):
            continue
        bare = "\n".join(lines[each.begin : each.end])
        files = put_table(files, each.key, bare if found else body, _home_of(files, table) or new_file)
    return dict(files)


def _table_keys(files: Files, table: str) -> Iterator[TableKey]:
    for text in files.values():
        yield from ((table, name) for name in parse_toml(text).get(table, {}))


def _home_of(files: Files, table: str) -> str:
    """The file in which most tables of a kind are."""
    counts = {name: sum(each.key[0] == table for each in list_blocks(text)) for name, text in files.items()}
    best = max(counts, key=lambda name: counts[name], default="")
    return best if counts.get(best) else ""


def _same_table(text: str, blocks: Sequence[TableBlock], body: str) -> bool:
    lines = text.split("\n")
    return parse_toml("\n".join(lines[blocks[0].begin : blocks[-1].end])) == parse_toml(body)


def _comments_above(lines: Sequence[str], begin: int) -> list[str]:
    first = begin
    while first > 0 and lines[first - 1].lstrip().startswith("#"):
        first -= 1
    return list(lines[first:begin])


# -- texts -------------------------------------------------------------------------------------------------------------


def toml_of(value: object) -> str:
    """A value as TOML, whose strings, numbers and booleans are written as in JSON."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(toml_of, value))}]"
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{format_key((key,))} = {toml_of(each)}" for key, each in value.items()) + " }"
    return json.dumps(value, ensure_ascii=False, default=str)


def table_text(key: TableKey, values: Mapping[str, object], comment: str = "") -> str:
    """A table as a file has it; what is empty is left out."""
    lines = [f"# {each}" for each in comment.splitlines()]
    lines += [f"[{format_key(key)}]"]
    lines += [f"{name} = {toml_of(value)}" for name, value in values.items() if value not in (None, "", (), [], {})]
    return "\n".join(lines) + "\n"


def name_from(ae_title: str, taken: Mapping[str, object] = {}) -> str:
    """A name for new equipment, from its AE title."""
    base = _NOT_IN_NAMES.sub("-", ae_title.lower()).strip("-") or "equipment"
    if base not in taken:
        return base
    return next(f"{base}-{n}" for n in range(2, len(taken) + 3) if f"{base}-{n}" not in taken)
