"""One HL7 v2 message: its segments and fields (HL7 v2.x chapter 2). Pure; what it cannot read it leaves out.

The bytes are decoded before they are split: a second byte of a character may be a separator. A field is split first,
then each leaf is unescaped, once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from edge.hl7.charset import BOM, decode_escaped, decode_message

_LINES = re.compile(rb"[\r\n]+")
_TEXT_LINES = re.compile("[\r\n]+")
_BATCH = (b"FHS", b"BHS", b"BTS", b"FTS")
_SEGMENT_ID = re.compile("[A-Z][A-Z0-9]{2}")
#: HL7's null: the field is to be deleted.
NULL = '""'


@dataclass(frozen=True, slots=True)
class Separators:
    """MSH-1 and MSH-2."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"

    @classmethod
    def from_header(cls, header: str) -> Separators:
        """Read a header segment (MSH, BHS, FHS). What it does not name is as usual."""
        if len(header) < 4:
            return cls()
        bar = header[3]
        given = header[4:].split(bar, 1)[0][:4]
        return cls(bar, *(given + "^~\\&"[len(given) :]))

    @property
    def encoding(self) -> str:
        """MSH-2."""
        return self.component + self.repetition + self.escape + self.subcomponent


@dataclass(frozen=True, slots=True)
class Segment:
    """One segment. Fields, repetitions and components count from 1, as in HL7."""

    id: str
    fields: tuple[str, ...]  # the first is the segment's ID; of a header, the second is MSH-2
    separators: Separators
    codec: str = "ascii"

    def raw(self, number: int) -> str:
        """A field as it is written. MSH-1 is the separator itself."""
        if self.id in ("MSH", "BHS", "FHS"):
            if number == 1:
                return self.separators.field
            number -= 1
        return self.fields[number] if number < len(self.fields) else ""

    def is_null(self, number: int) -> bool:
        """Is the field to be deleted?"""
        return self.raw(number).strip() == NULL

    def repetitions(self, number: int) -> list[list[str]]:
        """Components of each repetition, not unescaped."""
        raw, by = self.raw(number), self.separators
        return [each.split(by.component) for each in raw.split(by.repetition)] if raw else []

    def text(self, number: int, component: int = 1, sub: int = 1) -> str:
        """A leaf of the first repetition, unescaped and stripped; empty where there is none."""
        found = self.repetitions(number)
        return self.leaf(found[0], component, sub) if found else ""

    def leaf(self, components: Sequence[str], component: int, sub: int = 1) -> str:
        """A leaf of one repetition; HL7's null is empty."""
        if component > len(components):
            return ""
        subs = components[component - 1].split(self.separators.subcomponent)
        found = subs[sub - 1].strip() if sub <= len(subs) else ""
        return "" if found == NULL else self.unescape(found).strip()

    def unescape(self, text: str) -> str:
        """Replace escape sequences; an unknown one, or a lone escape character, stays as it is."""
        by = self.separators
        if by.escape not in text:
            return text
        mark = re.escape(by.escape)
        number = f"{mark}X(?:[0-9A-Fa-f]{{2}})+{mark}"
        return re.sub(f"(?P<bytes>(?:{number})+)|{mark}(?P<code>F|S|T|R|E|\\.br){mark}", self._replace, text)

    def _replace(self, match: re.Match[str]) -> str:
        by = self.separators
        if written := match["bytes"]:  # neighbours together: each may be a part of one character
            digits = written.replace(f"{by.escape}X", "").replace(by.escape, "")
            return decode_escaped(bytes.fromhex(digits), self.codec)
        return {
            "F": by.field, "S": by.component, "T": by.subcomponent, "R": by.repetition, "E": by.escape, ".br": "\n",
        }[match["code"]]  # fmt: skip


@dataclass(frozen=True)
class Hl7Message:
    """A message. `header`: its MSH, read as Latin-1, so that it goes back as the same bytes; None: it has none."""

    data: bytes
    header: Segment | None
    segments: tuple[Segment, ...] = ()
    is_guessed: bool = False  # no character set is declared, and not all is ASCII
    is_in_doubt: bool = False  # the declared set is not known, or the bytes contradict it
    codec: str = field(default="ascii", compare=False)

    @cached_property
    def control_id(self) -> str:
        """MSH-10."""
        return self.header.raw(10).strip() if self.header else ""

    @cached_property
    def type(self) -> str:
        """MSH-9.1, such as ADT."""
        return self.header.text(9).upper() if self.header else ""

    @cached_property
    def trigger(self) -> str:
        """MSH-9.2, such as A08; before version 2.2 EVN-1 alone may have it."""
        found = self.header.text(9, 2).upper() if self.header else ""
        event = self.first("EVN")
        return found or (event.text(1).upper() if event and self.type == "ADT" else "")

    @property
    def event(self) -> str:
        """`ADT^A08`, whatever the separators are."""
        return "^".join(filter(None, (self.type, self.trigger)))

    @property
    def version(self) -> tuple[int, ...]:
        """MSH-12.1; (2, 5, 1), and () where it is none."""
        text = self.header.text(12) if self.header else ""
        return tuple(map(int, text.split("."))) if re.fullmatch(r"\d+(\.\d+)*", text) else ()

    def all(self, segment_id: str) -> Iterator[Segment]:
        return (each for each in self.segments if each.id == segment_id)

    def first(self, segment_id: str) -> Segment | None:
        return next(self.all(segment_id), None)


def parse_message(data: bytes, charset: str = "", *, prefers_default: bool = False) -> Hl7Message:
    """Read a message. `charset`: the feed's, where MSH-18 is empty; with `prefers_default` in any case."""
    data = data.removeprefix(BOM).lstrip(b"\r\n \t")
    line = _LINES.split(data, 1)[0].decode("latin-1")
    if not line.startswith("MSH") or len(line) < 4 or line[3].isalnum() or line[3].isspace():
        return Hl7Message(data, None)
    header = split_segment(line, Separators.from_header(line))
    declared = header.raw(18).split(header.separators.repetition)
    found = decode_message(data, [] if prefers_default and charset else declared, charset)
    segments = tuple(_split_segments(found.text, header.separators, found.codec))
    return Hl7Message(data, header, segments, found.is_guessed, found.is_in_doubt, found.codec)


def split_segment(line: str, separators: Separators, codec: str = "ascii") -> Segment:
    fields = tuple(line.split(separators.field))
    return Segment(fields[0].strip().upper(), fields, separators, codec)


def _split_segments(text: str, separators: Separators, codec: str) -> Iterator[Segment]:
    for line in _TEXT_LINES.split(text):
        if _SEGMENT_ID.match(line.lstrip().upper()):
            yield split_segment(line.lstrip(), separators, codec)


@dataclass(frozen=True, slots=True)
class FrameContent:
    """What a frame holds. `headers`: FHS and BHS, as they are; empty: the frame is one message."""

    messages: tuple[bytes, ...]
    headers: tuple[bytes, ...] = ()

    @property
    def is_batch(self) -> bool:
        return bool(self.headers) or len(self.messages) > 1


def split_batch(data: bytes) -> FrameContent:
    """Split a frame into messages. Line ends are safe to split at in every character set of HL7."""
    data = data.removeprefix(BOM)
    if data.count(b"MSH") <= 1 and not data.lstrip().startswith(_BATCH[:2]):
        return FrameContent((data,))
    headers: list[bytes] = []
    messages: list[list[bytes]] = []
    for line in _LINES.split(data):
        if line.startswith(_BATCH):
            if line.startswith(_BATCH[:2]):
                headers.append(line)
        elif line.startswith(b"MSH"):
            messages.append([line])
        elif messages:
            messages[-1].append(line)
    joined = tuple(b"\r".join(lines) for lines in messages)
    if not headers and len(joined) <= 1:
        return FrameContent((data,))
    return FrameContent(joined or (b"",), tuple(headers))
