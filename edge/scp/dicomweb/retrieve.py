"""WADO-RS of whole objects (PS3.18 section 10.4): instances of a study or series, or one, and their metadata.

Objects go as they are kept: bit for bit the modality's data set, behind a head that says nothing of where it came from.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterator, Sequence
from http import HTTPStatus
from typing import Any

from edge.dicom.metadata import MetadataWriter
from edge.dicom.part10 import plain_head
from edge.errors import Unreadable
from edge.model import ContextKey
from edge.scp.dicomweb import media
from edge.scp.dicomweb.exchange import DICOM, DICOM_JSON, Exchange, FilePart, WebAnswer
from edge.scp.dicomweb.holdings import Holdings
from edge.scp.dicomweb.media import MediaType
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.dicomweb.ranges import not_modified, with_range
from edge.store.held import HeldInstance

_PIXEL_DATA = 0x7FE00010
_NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"})


def etag_of(found: Sequence[HeldInstance], kind: str = "") -> str:
    """It changes with the instances and their bytes (RFC 9110 section 8.8.3)."""
    running = hashlib.sha256(kind.encode())
    for each in found:
        running.update(each.sop_instance_uid.encode() + each.sha256)
    return f'"{running.hexdigest()[:32]}"'


class InstanceResource:
    """GET /studies/{study}[/series/{series}[/instances/{instance}]]."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    def answer(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        accepted = media.parse_accepted(exchange.accept)
        found = self._holdings.find(exchange, names, "wado-rs")
        etag = etag_of(found)
        if not_modified(exchange.request, etag):
            return WebAnswer(HTTPStatus.NOT_MODIFIED, {"ETag": etag})
        is_single = "instance" in names
        choice = _choose_form(accepted, {each.transfer_syntax_uid for each in found}, is_single=is_single)
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        if choice == DICOM:
            (instance,) = found
            content_type = f"{DICOM}; transfer-syntax={instance.transfer_syntax_uid}"
            parts = list(self._file(instance))
            return with_range(exchange.request, {**headers, "Content-Type": content_type}, parts)
        boundary = secrets.token_hex(16)
        headers["Content-Type"] = f'multipart/related; type="{DICOM}"; boundary={boundary}'
        heads = [_part_head(boundary, each) for each in found]
        closing = f"\r\n--{boundary}--\r\n".encode()
        length = sum(map(len, heads)) + sum(each.data_set_bytes for each in found) + len(closing)
        return WebAnswer(HTTPStatus.OK, headers, parts=self._parts(found, heads, closing), length=length)

    def _parts(
        self, found: Sequence[HeldInstance], heads: Sequence[bytes], closing: bytes
    ) -> Iterator[bytes | FilePart]:
        for instance, head in zip(found, heads, strict=True):
            yield head
            yield self._data_set(instance)
        yield closing

    def _file(self, instance: HeldInstance) -> Iterator[bytes | FilePart]:
        yield plain_head(_kind(instance), instance.sop_instance_uid)
        yield self._data_set(instance)

    def _data_set(self, instance: HeldInstance) -> FilePart:
        return FilePart(self._holdings.path_of(instance), instance.dataset_offset, instance.data_set_bytes)


def _kind(instance: HeldInstance) -> ContextKey:
    return ContextKey(instance.sop_class_uid, instance.transfer_syntax_uid)


def _part_head(boundary: str, instance: HeldInstance) -> bytes:
    head = f"\r\n--{boundary}\r\nContent-Type: {DICOM}; transfer-syntax={instance.transfer_syntax_uid}\r\n\r\n"
    return head.encode() + plain_head(_kind(instance), instance.sop_instance_uid)


def _choose_form(accepted: Sequence[MediaType], syntaxes: set[str], *, is_single: bool) -> str:
    """ "multipart", or application/dicom for one alone. Raises HttpError: 406."""
    for each in accepted:
        is_multipart = each.name == "multipart/related" and each.parameters.get("type", DICOM).lower() == DICOM
        if not (is_multipart or each.name in ("*/*", "multipart/*") or (is_single and each.covers(DICOM))):
            continue
        wanted = each.parameters.get("transfer-syntax", "*")
        if wanted != "*" and syntaxes - {wanted}:
            continue
        return DICOM if is_single and each.name in (DICOM, "application/*") else "multipart"
    text = 'Accept is to allow multipart/related; type="application/dicom"; transfer-syntax=*'
    raise HttpError(HTTPStatus.NOT_ACCEPTABLE, f"{text}. It is kept as {', '.join(sorted(syntaxes))}.")


class MetadataResource:
    """GET .../metadata: from the catalog's headers; from the file where those do not have everything."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    def answer(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        media.choose_media(exchange.accept, (DICOM_JSON,))
        found = self._holdings.find(exchange, names, "wado-rs metadata")
        etag = etag_of(found, "metadata")
        headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Content-Type": DICOM_JSON}
        if not_modified(exchange.request, etag):
            return WebAnswer(HTTPStatus.NOT_MODIFIED, {"ETag": etag})
        whole, writer = self._holdings.whole_headers(found), MetadataWriter()
        texts = [self._write(writer, each, whole.get(each.id), names) for each in found]
        return WebAnswer(HTTPStatus.OK, headers, f"[{','.join(texts)}]".encode("utf-8", "replace"))

    def _write(
        self, writer: MetadataWriter, instance: HeldInstance, header: bytes | None, names: dict[str, str]
    ) -> str:
        base, syntax, more = _relative(instance, names), instance.transfer_syntax_uid, dict[int, Any]()
        if header is None:
            try:
                of_file = self._holdings.read_header(instance)
            except (Unreadable, OSError):
                raise HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "A file cannot be read; see the gateway.") from None
            header, has_pixels, vr = of_file.data, bool(of_file.pixels.tag), of_file.pixels.vr
            tag = of_file.pixels.tag
        else:
            has_pixels, tag = instance.bits_allocated is not None and instance.rows is not None, _PIXEL_DATA
            vr = "OW" if syntax in _NATIVE and (instance.bits_allocated or 0) > 8 else "OB"
        if has_pixels:
            more[tag] = {"vr": vr, "BulkDataURI": f"{base}bulkdata/{tag:08X}"}
        try:
            return writer.write(header, _plain(syntax), lambda each: f"{base}bulkdata/{each:08X}", more)
        except (Unreadable, IndexError) as error:
            raise HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "A header cannot be read; see the gateway.") from error


def _plain(syntax: str) -> str:
    """How the header of an instance is encoded once it is inflated."""
    return "1.2.840.10008.1.2.1" if syntax == "1.2.840.10008.1.2.1.99" else syntax


def _relative(instance: HeldInstance, names: dict[str, str]) -> str:
    """The instance's address as seen from the metadata's own (RFC 3986 section 5): right behind any proxy."""
    if "instance" in names:
        return ""
    if "series" in names:
        return f"instances/{instance.sop_instance_uid}/"
    return f"series/{instance.series_uid}/instances/{instance.sop_instance_uid}/"
