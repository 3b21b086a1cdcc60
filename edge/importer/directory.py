"""A DICOMDIR (PS3.3 Annex F, PS3.10): which files it names. It is a hint: files are found by their content. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from edge.dicom.items import Attributes, decode_items
from edge.errors import Unreadable

_RECORDS, _FILE_ID = 0x00041220, 0x00041500
#: The longest directory that is read.
MAX_DIRECTORY = 64 << 20


def list_referenced(data: bytes, transfer_syntax_uid: str) -> list[str]:
    """List the files that a directory names, relative to it. Raises Unreadable."""
    if len(data) > MAX_DIRECTORY:
        raise Unreadable("the DICOMDIR is too long")
    records: Iterable[Attributes] = decode_items(data, transfer_syntax_uid).items_of(_RECORDS)
    found = ("/".join(part.strip() for part in record.text(_FILE_ID).split("\\")) for record in records)
    return [name for name in found if name]


@dataclass(frozen=True, slots=True)
class DirectoryDifference:
    """How a directory differs from what is there."""

    missing: tuple[str, ...]  # named, and not there
    unlisted: tuple[str, ...]  # there, and not named


def compare_directory(listed: Collection[str], present: Collection[str]) -> DirectoryDifference:
    """Compare names as discs spell them: in either case, with a version or a full stop at the end."""
    there, named = {_plain(each): each for each in present}, {_plain(each): each for each in listed}
    missing = tuple(each for plain, each in named.items() if plain not in there)
    return DirectoryDifference(missing, tuple(each for plain, each in there.items() if plain not in named))


def _plain(name: str) -> str:
    return name.replace("\\", "/").casefold().partition(";")[0].rstrip(".")
