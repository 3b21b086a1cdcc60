"""Numbers and moments as people read them. Pure."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from datetime import datetime, timezone
from unicodedata import combining, normalize

from edge.model import GuessedText

MIB = 1 << 20
_SIZES = ((10**12, "TB"), (10**9, "GB"), (10**6, "MB"), (10**3, "KB"))
_SPANS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


def amount(n: int, thing: str) -> str:
    """`1 image`, `2,000 images`, `2 deliveries`, `3 classes`, `4 whole days`."""
    return f"{n:,} {thing if n == 1 else _plural(thing)}"


def _plural(thing: str) -> str:
    if thing.endswith("y") and not thing.endswith(("ay", "ey", "oy")):
        return f"{thing[:-1]}ies"
    return f"{thing}es" if thing.endswith("s") else f"{thing}s"


def size(octets: float) -> str:
    """Bytes with three digits and a unit: `74 GB`."""
    for unit, name in _SIZES:
        if octets >= unit:
            return f"{octets / unit:.3g} {name}"
    return f"{octets:.0f} B"


def span(seconds: float) -> str:
    """A duration in its two greatest units: `3 h 40 min`; of days and more only `19 d`."""
    left = max(0, round(seconds))
    for index, (unit, name) in enumerate(_SPANS):
        if left >= unit:
            whole, rest = divmod(left, unit)
            below, below_name = _SPANS[min(index + 1, len(_SPANS) - 1)]
            tail = f" {rest // below} {below_name}" if rest >= below and whole < 10 else ""
            return f"{whole} {name}{tail}"
    return "0 s"


def age(seconds: float) -> str:
    """How long ago: `3 h 40 min`; of a time that a wrong clock wrote, `3 h 40 min in the future`."""
    return span(seconds) if seconds > -1.0 else f"{span(-seconds)} in the future"


def scheduled_text(text: str) -> str:
    """`2026-01-06 10:00` of YYYYMMDDHHMM..., as far as it goes: as it was said, without a zone."""
    day = f"{text[:4]}-{text[4:6]}-{text[6:8]}" if len(text) >= 8 else text
    return f"{day} {text[8:10]}:{text[10:12]}" if len(text) >= 12 else day


def percent(fraction: float) -> str:
    return f"{fraction:.0%}".replace("%", " %")


def percent_exact(share: float) -> str:
    """A share of which the last thousandth counts: never 100 % where something is missing."""
    return f"{int(share * 100_000) / 1000:.3f} %"


def iso(moment: float) -> str:
    """Seconds since 1970 as `2026-11-21T20:11:23Z`."""
    return datetime.fromtimestamp(moment, timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def moment_text(moment: float, *, seconds: bool = False) -> str:
    """Seconds since 1970 as people read them everywhere: local, with date and zone: `2026-11-21 21:11 CET`."""
    form = "%Y-%m-%d %H:%M:%S %Z" if seconds else "%Y-%m-%d %H:%M %Z"
    return datetime.fromtimestamp(moment).astimezone().strftime(form)


def local_day(moment: float) -> str:
    """The local day of a time: `2026-11-21`. The last day before an end at midnight is that of `end - 1`."""
    return datetime.fromtimestamp(moment).astimezone().strftime("%Y-%m-%d")


def iso_or_none(moment: float | None) -> str | None:
    return None if moment is None else iso(moment)


def from_iso(text: str) -> float:
    """The inverse of `iso`."""
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=timezone.utc).timestamp()


def end_of_date(text: str) -> float:
    """The end of a day YYYY-MM-DD, local time, as seconds since 1970. Raises ValueError."""
    day = time.strptime(text, "%Y-%m-%d")
    return time.mktime((day.tm_year, day.tm_mon, day.tm_mday + 1, 0, 0, 0, 0, 0, -1))


def align_columns(rows: Sequence[Sequence[str]]) -> str:
    """Write rows as columns of text, two spaces apart."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def as_sentence(text: str) -> str:
    """Write an error, which begins as a part of a longer line, as a sentence of its own. A name keeps its letters."""
    first = text[:1].upper() if re.match(r"[a-z]+(?![^\s,;])", text) else text[:1]
    return f"{first}{text[1:]}{'' if not text or text[-1] in '.!?' else '.'}"


def single_line(text: str) -> str:
    """Text without line breaks and without blanks that repeat."""
    return " ".join(text.split())


def printable(text: str) -> str:
    """Text from the wire, safe for a terminal: what does not print becomes `?`."""
    return "".join(c if c.isprintable() else "?" for c in text)


#: Follows a text whose character set is not certain (`Study.guessed`, GuessedText).
GUESSED = " (guessed)"


def mark_guess(text: str, shown: str = "") -> str:
    """An attribute's text, or what is shown for it, with a mark where the text is a guess."""
    return f"{shown or text}{GUESSED}" if isinstance(text, GuessedText) else shown or text


#: What makes a spreadsheet calculate (OWASP, CSV injection).
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "|")


def quote_formula(cell: object) -> object:
    """A cell of a CSV file; text that a spreadsheet would take for a formula begins with an apostrophe."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(FORMULA) else cell


def mask_uids(text: str) -> str:
    """Text for users without access to patients: without UIDs."""
    return re.sub(r"\b[0-9]+(?:\.[0-9]+){4,}\b", "(a UID)", text)


def fold_name(name: str) -> str:
    """A person's name as it is compared: no case, no accents, no empty components at the end (PS3.4 C.2.2.2.4)."""
    plain = name
    if not name.isascii():
        plain = "".join(each for each in normalize("NFKD", name) if not combining(each))
    groups = (re.sub(r" *\^ *", "^", re.sub(" +", " ", group)).strip("^ ") for group in plain.casefold().split("="))
    return "=".join(groups).rstrip("=")
