"""The character set of a message: MSH-18, else the feed's, else guessed (HL7 table 0211). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edge.config.charset_names import codec_for

BOM = b"\xef\xbb\xbf"
_UTF8, _LATIN1 = "utf-8", "latin-1"


@dataclass(frozen=True, slots=True)
class Decoded:
    """`is_in_doubt`: the declared set is not known, or the bytes contradict it. `is_guessed`: none was declared."""

    text: str
    codec: str
    is_guessed: bool = False
    is_in_doubt: bool = False


def declared_codec(names: Sequence[str]) -> str | None:
    """Choose the codec of MSH-18's repetitions: the one that has most characters of all. None: one is not known."""
    found = [codec_for(each) for each in names if each.strip()]
    if None in found:
        return None
    known = [each for each in found if each is not None]
    return next((each for each in known if each not in ("ascii", _LATIN1)), known[0] if known else None)


def decode_message(data: bytes, declared: Sequence[str], default: str = "") -> Decoded:
    """Decode a message without its BOM. `declared`: the repetitions of MSH-18; `default`: the feed's set."""
    names = [each for each in declared if each.strip()] or ([default] if default else [])
    if data.isascii() and b"\x1b" not in data:
        return Decoded(data.decode("ascii"), "ascii")
    if not names:
        return Decoded(*_guess(data), is_guessed=True)
    codec = declared_codec(names)
    if codec is not None:
        try:
            return Decoded(data.decode(codec), codec)
        except UnicodeDecodeError:
            pass
    return Decoded(*_guess(data), is_in_doubt=True)


def _guess(data: bytes) -> tuple[str, str]:
    try:
        return data.decode(_UTF8), _UTF8
    except UnicodeDecodeError:
        return data.decode(_LATIN1), _LATIN1
