"""The character set of a message: MSH-18, else the feed's, else guessed (HL7 table 0211). Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from edge.config.charset_names import codec_for

BOM = b"\xef\xbb\xbf"
_UTF8, _LATIN1, _ISO_2022 = "utf-8", "latin-1", "iso2022_jp_2"
#: What designates a set of two bytes a character (ISO 2022): it is text only where the codec knows code extensions.
_CODE_EXTENSION = re.compile(rb"\x1b\$[@AB()]")


@dataclass(frozen=True, slots=True)
class Decoded:
    """`is_in_doubt`: the declared set is not known, or the bytes contradict it. `is_guessed`: none was declared."""

    text: str
    codec: str
    is_guessed: bool = False
    is_in_doubt: bool = False


def declared_codec(names: Sequence[str], *, is_extended: bool = False) -> str | None:
    """Choose the codec of MSH-18's repetitions: the one that has most characters of all. None: one is not known.

    `is_extended`: the bytes have code extensions, so a set that has them goes first.
    """
    found = [codec_for(each) for each in names if each.strip()]
    if None in found:
        return None
    known = [each for each in found if each is not None]
    if is_extended and _ISO_2022 in known:
        return _ISO_2022
    return next((each for each in known if each not in ("ascii", _LATIN1)), known[0] if known else None)


def decode_message(data: bytes, declared: Sequence[str], default: str = "") -> Decoded:
    """Decode a message without its BOM. `declared`: the repetitions of MSH-18; `default`: the feed's set."""
    names = [each for each in declared if each.strip()] or ([default] if default else [])
    is_extended = _CODE_EXTENSION.search(data) is not None
    codec = declared_codec(names, is_extended=is_extended)
    if data.isascii() and b"\x1b" not in data:
        return Decoded(data.decode("ascii"), codec or "ascii")
    if not names:
        return Decoded(*_guess(data, is_extended), is_guessed=True)
    if codec is not None and (codec == _ISO_2022 or not is_extended):
        try:
            return Decoded(data.decode(codec), codec)
        except UnicodeDecodeError:
            pass
    return Decoded(*_guess(data, is_extended), is_in_doubt=True)


def decode_escaped(data: bytes, codec: str) -> str:
    """Decode the bytes of a hexadecimal escape, in the codec of the message."""
    try:
        return data.decode(codec)
    except UnicodeDecodeError:
        return _guess(data)[0]


def _guess(data: bytes, is_extended: bool = False) -> tuple[str, str]:
    for codec in (_ISO_2022, _UTF8) if is_extended else (_UTF8,):
        try:
            return data.decode(codec), codec
        except UnicodeDecodeError:
            continue
    return data.decode(_LATIN1), _LATIN1
