"""A directory of TOML files as one set of tables, with the file and line of every key.

`read_directory` never raises for what the files hold: each fault becomes a `Problem`, and the other files are still
read. The parser of the standard library gives no lines, so a small locator walks the same text and notes each key.

Limits: a file that is not TOML gives nothing, so its keys are unknown (`Tables.whole` is false then). The locator
relies on the parser to refuse text that is not TOML; on such a text the locator only has to end.
"""

from __future__ import annotations

import re
import sys
from bisect import bisect_left
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from edge.config.syntax import explain_syntax

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

#: Where a value is: the names of its tables, its own name, and the index within each list.
Key = tuple["str | int", ...]
#: A setting that is valid and probably unintended.
ConfigWarning = tuple[Key, str]

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_TOKEN = re.compile(
    r"""
    (?P<space> [ \t\r]+ | \#[^\n]* )
  | (?P<text>  \"{3} (?: \\. | [^\\] )*? \"{3,5} | '{3} .*? '{3,5} | " (?: \\. | [^"\\\n] )* " | ' [^'\n]* ' )
  | (?P<word>  [^\s\[\]{}=,\#"']+ )
  | (?P<mark>  . )
    """,
    re.VERBOSE | re.DOTALL,
)
_AT_LINE = re.compile(r" \(at line (\d+), column \d+\)$")
_AT_END = " (at end of document)"


class SourceLine(NamedTuple):
    """A line of a file; line 0 is the file, or the directory, as a whole."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Problem(NamedTuple):
    """One fault: its place, its key (empty where the text itself is at fault), and what is wrong."""

    place: SourceLine
    key: Key
    text: str

    def __str__(self) -> str:
        return ": ".join(part for part in (str(self.place), format_key(self.key), self.text) if part)


@dataclass(slots=True)
class Tables:
    """The merged tables, the place of each key, and the faults found on the way."""

    directory: str
    values: dict[str, Any] = field(default_factory=dict)
    places: dict[Key, SourceLine] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    whole: bool = True

    def place(self, key: Key) -> SourceLine:
        """The place of a key, or the nearest table around it that is written down."""
        return _nearest(self.places, key) or SourceLine(self.directory)


def format_key(key: Key) -> str:
    """A key as TOML writes it: `modality."CT 1".ae_title`; indices are left out."""
    names = [part for part in key if isinstance(part, str)]
    return ".".join(name if _BARE.fullmatch(name) else f'"{name}"' for name in names)


def fault_line(lines: Mapping[str, str], key: Key, text: str) -> str:
    """A fault in one line: the place of its key, or of the nearest table around the key; the key; the text.

    `lines` are those of a configuration: a formatted key -> "file:line".
    """
    near = key
    while near and format_key(near) not in lines:
        near = near[:-1]
    return ": ".join(filter(None, (lines.get(format_key(near)), format_key(key), text)))


def parse_toml(text: str) -> dict[str, Any]:
    """The tables of a text; empty where it is not TOML."""
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return {}


def _nearest(places: dict[Key, SourceLine], key: Key) -> SourceLine | None:
    while key and key not in places:
        key = key[:-1]
    return places.get(key)


def read_directory(directory: Path) -> Tables:
    """Read `*.toml` in name order and merge the tables; hidden files are passed over, as a shell would."""
    tables = Tables(str(directory))
    try:
        paths = sorted(path for path in directory.iterdir() if path.match("[!.]*.toml"))
    except OSError as error:
        _fail(tables, SourceLine(str(directory)), f"{error.strerror}; expected a directory of *.toml files")
        return tables
    if not paths:
        _fail(tables, SourceLine(str(directory)), "no *.toml file here; `edge init` writes the first ones")
    for path in paths:
        _read_file(path, tables)
    return tables


def read_texts(texts: Mapping[str, str], directory: Path) -> Tables:
    """The same of texts by the names of their files, which are those of `directory`, or are to be."""
    tables = Tables(str(directory))
    for file in sorted(texts):
        _read_text(file, texts[file], tables)
    return tables


def _fail(tables: Tables, place: SourceLine, text: str) -> None:
    tables.problems.append(Problem(place, (), text))
    tables.whole = False


def _read_file(path: Path, tables: Tables) -> None:
    try:
        raw = path.read_bytes()
        text = raw.decode("utf-8-sig")  # some editors begin a file with a byte order mark
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        _fail(tables, SourceLine(path.name, line), "not UTF-8 text; save the file as UTF-8")
    except OSError as error:
        _fail(tables, SourceLine(path.name), f"cannot be read: {error.strerror}")
    else:
        _read_text(path.name, text, tables)


def _read_text(file: str, text: str, tables: Tables) -> None:
    try:
        lines = locate(text)
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        tables.whole = False
        tables.problems += _not_toml(file, text, str(error), lines)
    except RecursionError:
        _fail(tables, SourceLine(file), "nested too deeply to be a configuration")
    except ValueError:  # of int(), which reads a few thousand digits
        _fail(tables, SourceLine(file), "a number has too many digits")
    else:
        places = {key: SourceLine(file, at[0]) for key, at in lines.items()}
        _merge(tables, tables.values, values, places, ())
        for key, place in places.items():
            tables.places.setdefault(key, place)


def _not_toml(file: str, text: str, error: str, lines: dict[Key, list[int]]) -> Iterator[Problem]:
    twice = [(key, at) for key, at in lines.items() if len(at) > 1]
    if twice and error.startswith(("Cannot ", "Duplicate ")):  # the parser's words for a key or table set again
        for key, at in twice:
            yield from (Problem(SourceLine(file, line), key, f"already set in {file}:{at[0]}") for line in at[1:])
        return
    match = _AT_LINE.search(error)
    line = int(match[1]) if match else text.count("\n") + 1
    what = error[: match.start()] if match else error.removesuffix(_AT_END) + " before the end of the file"
    line, what = explain_syntax(text, line, what)
    yield Problem(SourceLine(file, line), (), f"not TOML: {what}")


def _merge(
    tables: Tables, into: dict[str, Any], new: dict[str, Any], places: dict[Key, SourceLine], table: Key
) -> None:
    for name, value in new.items():
        key = (*table, name)
        if name not in into:
            into[name] = value
        elif isinstance(value, dict) and isinstance(into[name], dict):
            _merge(tables, into[name], value, places, key)
        else:
            place = _nearest(places, key) or SourceLine(tables.directory)
            tables.problems.append(Problem(place, key, f"already set in {tables.place(key)}"))


def locate(text: str) -> dict[Key, list[int]]:
    """The lines on which each key of a TOML text is set, and each list item stands; more than one where set again.

    A table that is only implied (`[a.b]` implies `a`) is where it is first implied.
    """
    return _Locator(text).run()


class _Locator:
    """One pass over the tokens; comments and blanks are dropped, and "" stands for the end."""

    def __init__(self, text: str) -> None:
        line_ends = [match.start() for match in re.finditer("\n", text)]
        found = [match for match in _TOKEN.finditer(text) if match.lastgroup != "space"]
        self._tokens = [(match[0], bisect_left(line_ends, match.start()) + 1) for match in found]
        self._tokens.append(("", len(line_ends) + 1))
        self._at = 0
        self._set: dict[Key, list[int]] = {}
        self._implied: dict[Key, int] = {}

    def run(self) -> dict[Key, list[int]]:
        table: Key = ()
        while token := self._peek():
            if token == "\n":
                self._take()
            elif token == "[":
                table = self._header()
            else:
                self._pair(table)
        return {**{key: [line] for key, line in self._implied.items()}, **self._set}

    def _peek(self) -> str:
        return self._tokens[self._at][0]

    def _take(self) -> str:
        token = self._peek()
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _line(self) -> int:
        return self._tokens[self._at][1]

    def _note(self, key: Key, line: int) -> None:
        self._set.setdefault(key, []).append(line)
        for end in range(1, len(key)):
            self._implied.setdefault(key[:end], line)

    def _header(self) -> Key:
        brackets = 0
        while self._peek() == "[":
            self._take()
            brackets += 1
        line, name = self._line(), self._name()
        if brackets == 1 or name not in self._set:  # [[name]] may come again
            self._note(name, line)
        while self._peek() not in ("\n", ""):
            self._take()
        return name

    def _name(self) -> Key:
        parts: list[str] = []
        while self._peek() not in ("=", "]", "\n", ",", "}", ""):
            token = self._take()
            quoted = token[:1] in ("'", '"')
            parts += [_unquote(token)] if quoted else [part for part in token.split(".") if part]
        return tuple(parts)

    def _pair(self, table: Key) -> None:
        line, name = self._line(), self._name()
        self._note(table + name, line)
        if self._take() == "=":
            self._value(table + name)

    def _value(self, key: Key) -> None:
        token = self._take()
        if token == "[":
            self._array(key)
        elif token == "{":
            self._inline_table(key)
        else:
            while self._peek() not in ("\n", ",", "]", "}", ""):  # a date and its time are two words
                self._take()

    def _array(self, key: Key) -> None:
        index = 0
        while (token := self._peek()) not in ("]", ""):
            if token in ("\n", ","):
                self._take()
                index += token == ","
            else:
                self._note((*key, index), self._line())
                self._value((*key, index))
        self._take()

    def _inline_table(self, key: Key) -> None:
        while (token := self._peek()) not in ("}", ""):
            if token in ("\n", ","):
                self._take()
            else:
                self._pair(key)
        self._take()


def _unquote(token: str) -> str:
    try:
        return str(tomllib.loads(f"key = {token}")["key"])
    except tomllib.TOMLDecodeError:  # the parser refuses the file as well
        return token
