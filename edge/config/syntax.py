"""Explanations of TOML syntax errors, in the words of a person who writes configurations. Pure.

The parser says where it stops; `explain_syntax` reads the line there and names the usual mistakes with their remedy.
Limits: it is a list of the mistakes that people make; for every other the parser's own words are shown.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

_QUOTED = re.compile(r"\"(?:\\.|[^\"\\])*\"|'[^']*'")
_PAIR = re.compile(r"^\s*([A-Za-z0-9_.\"' -]+?)\s*=\s*(.*)$")
_CURLY_QUOTES = "\u201c\u201d\u201e\u201f\u2018\u2019\u00ab\u00bb"
_YES = {"yes": "true", "on": "true", "True": "true", "TRUE": "true", "no": "false", "off": "false", "False": "false"}
_YES["FALSE"] = "false"
_NUMBER = re.compile(r"[+-]?[0-9][0-9_]*(\.[0-9]+)?([eE][+-]?[0-9]+)?")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}([ T][0-9:.+Z-]+)?|[0-9]{2}:[0-9]{2}(:[0-9]{2})?")
_WORDS = re.compile(r"[^\s\[\]{}\"'=,]+( [^\s\[\]{}\"'=,]+)*")
_DURATION = re.compile(r"[0-9]+(\.[0-9]+)?(s|m|h|d|w|KB|MB|GB|TB)")


def explain_syntax(text: str, line: int, parser: str) -> tuple[int, str]:
    """The line of the mistake and what is wrong there. `line` and `parser` are the parser's line and words."""
    lines = text.splitlines() or [""]
    at = min(max(line, 1), len(lines))
    if _opens_text(lines, at):
        return at, "the text in quotes does not end on this line; close it with a quote"
    for number in (at, at - 1):  # the parser often stops one line behind the mistake
        if number >= 1 and (found := _explain_line(lines[number - 1])):
            return number, found
    if opened := _open_bracket(lines[:at]):
        return opened, "the list or table that begins here has no end, or lacks a comma between two of its values"
    return line, parser[:1].lower() + parser[1:]


def _opens_text(lines: list[str], at: int) -> bool:
    line = _QUOTED.sub("", lines[at - 1]).partition("#")[0]
    return line.count('"') % 2 == 1 and '"""' not in lines[at - 1]


def _explain_line(line: str) -> str:
    """The mistake of one line; empty where none is known."""
    return next((found for check in _MISTAKES if (found := check(line))), "")


def _curly_quotes(line: str) -> str:
    bare = _QUOTED.sub("", line).partition("#")[0]
    found = [char for char in bare if char in _CURLY_QUOTES]
    return f'{found[0]} is not a quote of TOML; write " (word processors change it)' if found else ""


def _backslash(line: str) -> str:
    found = re.search(r'"([^"]*\\[^"btnfru\\U][^"]*)"', line)
    return f"a backslash has a meaning of its own between double quotes; write '{found[1]}'" if found else ""


def _header(line: str) -> str:
    bare = line.partition("#")[0].strip()
    if bare.startswith("[") and "=" not in bare and not bare.endswith("]"):
        return f'the name of a table ends with "]"; write {bare.rstrip(",;:")}]'
    if re.fullmatch(r"\[\s*\]", bare):
        return "a table needs a name, such as [modality.ct1]"
    if re.fullmatch(r"\[[^\]\"']* [^\]\"']*\]", bare):
        name = bare.strip("[] ").replace(" ", "-")
        return f"the name of a table has no spaces; write [{name}]"
    return ""


def _without_equals(line: str) -> str:
    bare = _QUOTED.sub('""', line).partition("#")[0].strip()
    colon = re.fullmatch(r"([A-Za-z0-9_-]+)\s*:\s*(.+)", line.partition("#")[0].strip())
    if colon and "=" not in bare:
        return f'":" is not the sign between key and value; write {colon[1]} = {colon[2]}'
    if bare and not bare.startswith(("[", "]", "}", ",", '"', "'")) and "=" not in bare:
        key, _, value = line.partition("#")[0].strip().partition(" ")
        if value.strip():
            return f'there is no "=" between key and value; write {key} = {value.strip()}'
        return f'"{key}" has no value; write {key} = ..., or begin the line with # as a comment'
    return ""


def _value(line: str) -> str:
    pair = _PAIR.match(line)
    if pair is None:
        return ""
    key, value = pair[1], _without_comment(pair[2])
    if not value:
        return f'"{key}" has no value behind "="'
    return _explain_value(key, value)


def _explain_value(key: str, value: str) -> str:
    """What is wrong with a bare value."""
    if value in _YES:
        return f"{value} is not a value of TOML; write {key} = {_YES[value]}"
    if re.fullmatch(r"0[0-9]+", value):
        return f"a number does not begin with 0; write {key} = {value.lstrip('0')}"
    if value.endswith((",", ";")) and not value.startswith(("[", "{")):
        return f'a line does not end with "{value[-1]}"; write {key} = {value[:-1]}'
    if _DURATION.fullmatch(value) or (_WORDS.fullmatch(value) and not _is_plain(value)):
        return f'text needs quotes; write {key} = "{value}"'
    if value.startswith("[") and (
        bare := re.search(r"(?<=[\[,\s])([A-Za-z][\w.*-]*)(?=[\s,\]])", _QUOTED.sub('""', value))
    ):
        return f'text needs quotes, in a list as well; write "{bare[1]}"'
    if re.search(r"[\"'\]}\w]\s+[\"'\[{]", _QUOTED.sub('""', value)) and value.startswith("["):
        return "the values of a list are separated by commas"
    if re.match(r"\"[^\"]*\"\s*\S", value) and not value.startswith('"""'):
        return f"there is more than one value behind {key} =; a list is written [..., ...]"
    return ""


def _is_plain(value: str) -> bool:
    """A number, a date or true and false: legal without quotes."""
    return value in ("true", "false") or any(form.fullmatch(value) for form in (_NUMBER, _DATE))


def _without_comment(value: str) -> str:
    kept = []
    for part in re.split(r"(\"(?:\\.|[^\"\\])*\"|'[^']*')", value):
        if part[:1] not in ("'", '"') and "#" in part:
            kept.append(part.partition("#")[0])
            break
        kept.append(part)
    return "".join(kept).strip()


_MISTAKES: tuple[Callable[[str], str], ...] = (_curly_quotes, _backslash, _header, _without_equals, _value)


def _open_bracket(lines: list[str]) -> int:
    """The line of the last bracket that is not closed; 0: none."""
    opened: list[int] = []
    for number, char in _brackets(lines):
        if char in "[{":
            opened.append(number)
        elif opened:
            opened.pop()
    return opened[-1] if opened else 0


def _brackets(lines: list[str]) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(lines, 1):
        for char in _QUOTED.sub("", line).partition("#")[0]:
            if char in "[]{}":
                yield number, char
