"""Documents inside DICOM objects (PS3.3 section A.45): a PDF is handed to the browser, and nothing else of them.

The data set is walked and never built. The browser may run nothing of it, and loads nothing for it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.errors import TransformError
from edge.transform.elements import COPY_BYTES, ELEMENT, DataSet, read_bytes
from edge.transform.syntaxes import DEFLATED_EXPLICIT

_DOCUMENT, _LENGTH, _MIME = 0x00420011, 0x00420015, 0x00420012
PDF = "application/pdf"
#: Nothing of the document runs or loads anything.
DOCUMENT_HEADERS = {
    "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}


@dataclass(frozen=True, slots=True)
class EncapsulatedDocument:
    """Where a document is in a file."""

    path: Path
    at: int
    length: int
    mime: str

    def read(self) -> Iterator[bytes]:
        with self.path.open("rb") as file:
            file.seek(self.at)
            left = self.length
            while left and (chunk := file.read(min(left, COPY_BYTES))):
                left -= len(chunk)
                yield chunk


def find_document(path: Path, dataset_offset: int, syntax: str) -> EncapsulatedDocument | None:
    """Find the PDF of an object; None where it has none. Raises TransformError or OSError."""
    if syntax == DEFLATED_EXPLICIT:
        raise TransformError("its data set is deflated, and is not shown")
    place, length, mime = None, None, ""
    with path.open("rb") as file:
        data_set = DataSet(file, dataset_offset, file.seek(0, os.SEEK_END), syntax)
        for event in data_set.walk():
            if event.kind is not ELEMENT or event.data_set != dataset_offset:
                continue
            if event.tag == _DOCUMENT:
                place = event.at, event.length
            elif event.tag == _LENGTH and event.length == 4:
                raw = read_bytes(file, event.at, 4, data_set.end)
                length = int.from_bytes(raw, "little" if event.little else "big")
            elif event.tag == _MIME:
                mime = read_bytes(file, event.at, min(event.length, 64), data_set.end).decode("latin-1").strip(" \0")
    if place is None or mime.lower() != PDF:
        return None
    return EncapsulatedDocument(path, place[0], min(length or place[1], place[1]), PDF)
