"""Text of a data set in its Specific Character Set (PS3.5 section 6.1, PS3.3 section C.12.1.1.2), for people to read.

Promise: text is certain where it is ASCII, or where its bytes are right under the character set that is declared. Where
none is declared, or the bytes are wrong under it, the best guess is given and is said to be one. Never raises.
`encode_text` is the way back: bytes that decode to the same text with certainty, or None.

A guess is UTF-8 where the bytes are that, then a declared set, then Windows Latin 1. UTF-8 is also guessed under a
declared Latin 1, in which such bytes would be right but never a name ("MÃ¼ller").

pydicom's decoder is not used: it takes any codec's name for a character set, and warns with the values it could not
decode.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable
from functools import lru_cache

from edge.model import Values
from edge.model.character_sets import ASCII, CODECS, ESCAPES

_TERM = re.compile(r"ISO[ _-]?(2022)?[ _-]?(?:IR)?[ _-]?(\d{1,3})")
_PARTS = re.compile(rb"\x1b?[^\x1b]*")
_C1 = re.compile(r"[\x80-\x9f]")
_UTF_8 = "utf-8"


def decode_bytes(raw: bytes, charset: Values, resets: bytes) -> tuple[str, bool]:
    """The text, and whether it is a guess. `resets`: bytes that end a code extension (PS3.5 6.1.2.5.3)."""
    if raw.isascii() and b"\x1b" not in raw:
        return raw.decode(ASCII), False
    declared = _encoding(charset[0] if charset else "")
    if b"\x1b" in raw:
        return _decode_extended(raw, declared, resets)
    text = _strictly(raw, declared)
    if text is None or (_is_iso_8859(declared) and _C1.search(text)) or (declared == "latin_1" and _utf8(raw)):
        return _guess(raw, declared), True
    return text, False


def encoding_for(charset: Values, texts: Iterable[str]) -> str:
    """Python's name of a character set that holds all these texts without code extensions; empty where none does."""
    encoding = _encoding(charset[0]) if len(charset) == 1 else ASCII
    if encoding in (ASCII, _UTF_8):
        return ""
    try:
        for text in texts:
            text.encode(encoding)
    except UnicodeEncodeError:
        return ""
    return encoding


@lru_cache(maxsize=256)
def _encoding(term: str) -> str:
    """Python's name of a Defined Term, however it is spelt; ASCII for the default repertoire and what is unknown."""
    found = _TERM.fullmatch(term.strip().upper())
    names = [term.strip().upper()]
    if found:
        spellings = [f"ISO_IR {found[2]}", f"ISO 2022 IR {found[2]}", f"ISO 2022 {found[2]}"]
        names = spellings[1:] + spellings[:1] if found[1] else spellings
    return next((CODECS[name] for name in names if name in CODECS), ASCII)


def _is_iso_8859(encoding: str) -> bool:
    return encoding != ASCII and codecs.lookup(encoding).name.startswith("iso8859")


def _strictly(raw: bytes, encoding: str) -> str | None:
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError:
        return None


def _utf8(raw: bytes) -> str | None:
    """Decode UTF-8, without a last character that was cut; None where it is anything else."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(raw)
    except UnicodeDecodeError:
        return None
    return None if text.isascii() else text


def _guess(raw: bytes, declared: str) -> str:
    if (text := _utf8(raw)) is not None:
        return text
    if declared not in (ASCII, _UTF_8, "latin_1"):
        return raw.decode(declared, "replace")
    if declared == _UTF_8 and sum(byte > 0x7F for byte in raw) * 2 > len(raw):
        return raw.decode(declared, "replace")  # text in Latin 1 is mostly ASCII
    return _strictly(raw, "cp1252") or raw.decode("latin_1")


# -- code extensions (PS3.5 sections 6.1.2.4 and 6.1.2.5) -------------------------------------------------------------


def _decode_extended(raw: bytes, declared: str, resets: bytes) -> tuple[str, bool]:
    parts = _PARTS.findall(raw)
    try:
        return "".join(_part(part, declared, resets, "strict") for part in parts), False
    except UnicodeDecodeError:
        initial = "latin_1" if declared == ASCII else declared
        return "".join(_part(part, initial, resets, "replace") for part in parts), True


def _part(part: bytes, initial: str, resets: bytes, errors: str) -> str:
    """One stretch, from an escape sequence on."""
    escape = part[: 4 if part.startswith((b"\x1b$(", b"\x1b$)")) else 3]
    encoding = ESCAPES.get(escape)
    if encoding is None:
        if part.startswith(b"\x1b") and errors == "strict":
            raise UnicodeDecodeError(initial, part, 0, len(escape), "an unknown escape sequence")
        return part.decode(initial, errors)
    if encoding.startswith("iso2022"):  # Python's codec wants the escape sequence
        return part.decode(encoding, errors)
    body = part[len(escape) :]
    reset = next((at for at, byte in enumerate(body) if byte in resets), len(body))
    return body[:reset].decode(encoding, errors) + body[reset:].decode(initial, errors)


# -- the way back ------------------------------------------------------------------------------------------------------

_SEPARATORS = re.compile(r"([\\^=])")


def encode_text(text: str, charset: Values, resets: bytes) -> bytes | None:
    """The text in a character set; None where that cannot hold it. `resets` as for `decode`."""
    if text.isascii():
        return text.encode(ASCII)
    first = _encoding(charset[0] if charset else "")
    raw = _encode_strictly(text, first)
    if raw is None and len(charset) > 1:
        raw = _encode_extended(text, first, [_encoding(term) for term in charset[1:]])
    return raw if raw is not None and decode_bytes(raw, charset, resets) == (text, False) else None


def _encode_strictly(text: str, encoding: str) -> bytes | None:
    try:
        return text.encode(encoding)
    except UnicodeEncodeError:
        return None


def _encode_extended(text: str, first: str, others: list[str]) -> bytes | None:
    """Each component in one of the encodings, with its escape sequence (PS3.5 section 6.1.2.5)."""
    parts = []
    for part in _SEPARATORS.split(text):
        raw = _encode_strictly(part, first) if part.isascii() or first != ASCII else None
        for encoding in others:
            raw = raw if raw is not None else _with_escape(part, encoding)
        if raw is None:
            return None
        parts.append(raw)
    return b"".join(parts)


def _with_escape(part: str, encoding: str) -> bytes | None:
    raw = _encode_strictly(part, encoding)
    if raw is None or encoding.startswith("iso2022"):
        return raw  # Python's codec writes the escape sequences, and returns to ASCII
    escape = next((code for code, name in ESCAPES.items() if name == encoding), None)
    return None if escape is None else escape + raw
