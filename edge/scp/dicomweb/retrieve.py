"""WADO-RS of whole objects (PS3.18 section 10.4): instances of a study or series, or one, and their metadata.

Objects go as they are kept: bit for bit the modality's data set, behind a head that says nothing of where it came from;
with the patient of today where feeds know another than the object has; or converted without loss where the caller
accepts another transfer syntax alone. What only an archive has follows as it comes. An answer that cannot be completed
is cut off, so that nobody takes it for a whole one.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from http import HTTPStatus
from itertools import chain
from typing import Any

from edge.dicom.elements import vr_of
from edge.dicom.metadata import MetadataWriter
from edge.dicom.native_model import json_to_xml
from edge.dicom.part10 import plain_head
from edge.errors import EdgeError, Unreadable
from edge.model import ContextKey
from edge.query.levels import tag_of
from edge.scp.dicomweb import media
from edge.scp.dicomweb.converted import ConvertedCopies, choose_syntaxes
from edge.scp.dicomweb.exchange import DICOM, DICOM_JSON, DICOM_XML, Exchange, FilePart, SendPart, WebAnswer
from edge.scp.dicomweb.holdings import Holdings, WantedInstances
from edge.scp.dicomweb.media import MediaType
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.dicomweb.ranges import not_modified, with_range
from edge.store.held import HeldInstance

_PIXEL_DATA = 0x7FE00010
_ACCESS, _METADATA = "wado-rs", "wado-rs metadata"
_NATIVE = frozenset({"1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"})


def etag_of(found: Sequence[HeldInstance], kind: str = "") -> str:
    """It changes with the instances and their bytes (RFC 9110 section 8.8.3)."""
    running = hashlib.sha256(kind.encode())
    for each in found:
        running.update(each.sop_instance_uid.encode() + each.sha256 + repr(sorted(each.today.items())).encode())
    return f'"{running.hexdigest()[:32]}"'


class InstanceResource:
    """GET /studies/{study}[/series/{series}[/instances/{instance}]]."""

    def __init__(self, holdings: Holdings, copies: ConvertedCopies) -> None:
        self._holdings, self._copies = holdings, copies

    def answer(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        is_single = "instance" in names
        accepted = _accepted_forms(media.parse_accepted(exchange.accept), is_single=is_single)
        if is_single:
            wanted = WantedInstances(self._holdings.find(exchange, names, _ACCESS), [])
        else:
            wanted = self._holdings.want(exchange, names, _ACCESS)
        syntaxes = _choose_syntaxes(accepted, wanted)
        etag = etag_of(wanted.here, repr(sorted(syntaxes.items())))
        if not wanted.missing and not_modified(exchange.request, etag):
            return WebAnswer(HTTPStatus.NOT_MODIFIED, {"ETag": etag})
        headers = {**wanted.headers, "Cache-Control": "private, no-cache"}
        if not wanted.missing:
            headers["ETag"] = etag
        if is_single and accepted[0].name in (DICOM, "application/*"):
            return self._alone(exchange, wanted.here[0], syntaxes[wanted.here[0].transfer_syntax_uid], headers)
        return self._multipart(exchange, wanted, accepted, headers)

    def _alone(self, exchange: Exchange, instance: HeldInstance, syntax: str, headers: dict[str, str]) -> WebAnswer:
        headers["Content-Type"] = f"{DICOM}; transfer-syntax={syntax}"
        head = plain_head(ContextKey(instance.sop_class_uid, syntax), instance.sop_instance_uid)
        if syntax == instance.transfer_syntax_uid and not instance.today:
            return with_range(exchange.request, headers, [head, self._data_set(instance)])
        opened = ExitStack()
        part = opened.enter_context(self._copies.open_copy(instance, syntax))
        answer = with_range(exchange.request, headers, [head, part])
        return replace(answer, parts=_closing(answer.parts or (), opened))

    def _multipart(
        self, exchange: Exchange, wanted: WantedInstances, accepted: Sequence[MediaType], headers: dict[str, str]
    ) -> WebAnswer:
        boundary = secrets.token_hex(16)
        headers["Content-Type"] = f'multipart/related; type="{DICOM}"; boundary={boundary}'
        syntaxes = _choose_syntaxes(accepted, wanted)
        closing = f"\r\n--{boundary}--\r\n".encode()
        is_as_kept = all(kept == syntax for kept, syntax in syntaxes.items())
        if not wanted.missing and is_as_kept and not any(each.today for each in wanted.here):
            heads = [_part_head(boundary, each, each.transfer_syntax_uid) for each in wanted.here]
            length = sum(map(len, heads)) + sum(each.data_set_bytes for each in wanted.here) + len(closing)
            return WebAnswer(HTTPStatus.OK, headers, parts=self._list_kept(wanted.here, heads, closing), length=length)
        parts = self._list_converted(boundary, wanted.here, syntaxes)
        first = next(parts, b"")  # what cannot be converted is said before the answer begins

        def write_missing(send: SendPart) -> None:
            lost = self._holdings.bring(
                exchange, wanted, _ACCESS, lambda found: self._send(boundary, found, accepted, send)
            )
            if lost:
                raise EdgeError(f"{len(lost)} instances did not come from the archive")
            send(closing)

        return WebAnswer(HTTPStatus.OK, headers, parts=chain((first,), parts), length=None, write=write_missing)

    def _send(self, boundary: str, found: list[HeldInstance], accepted: Sequence[MediaType], send: SendPart) -> None:
        """What has just come from an archive."""
        for part in self._list_converted(boundary, found, _choose_syntaxes(accepted, WantedInstances(found, []))):
            send(part)

    def _list_kept(
        self, found: Sequence[HeldInstance], heads: Sequence[bytes], closing: bytes
    ) -> Iterator[bytes | FilePart]:
        with self._holdings.reading(found):
            for instance, head in zip(found, heads, strict=True):
                yield head
                yield self._data_set(instance)
        yield closing

    def _list_converted(
        self, boundary: str, found: Sequence[HeldInstance], syntaxes: Mapping[str, str]
    ) -> Iterator[bytes | FilePart]:
        """Parts, each converted where it is kept in another transfer syntax."""
        with self._holdings.reading(found):
            for instance in found:
                syntax = syntaxes[instance.transfer_syntax_uid]
                with ExitStack() as copy:
                    part = self._data_set(instance)
                    if syntax != instance.transfer_syntax_uid or instance.today:
                        part = copy.enter_context(self._copies.open_copy(instance, syntax))
                    yield _part_head(boundary, instance, syntax)
                    yield part

    def _data_set(self, instance: HeldInstance) -> FilePart:
        return FilePart(self._holdings.path_of(instance), instance.dataset_offset, instance.data_set_bytes)


def _closing(parts: Iterable[bytes | FilePart], opened: ExitStack) -> Iterator[bytes | FilePart]:
    with opened:
        yield from parts


def _part_head(boundary: str, instance: HeldInstance, syntax: str) -> bytes:
    head = f"\r\n--{boundary}\r\nContent-Type: {DICOM}; transfer-syntax={syntax}\r\n\r\n".encode()
    return head + plain_head(ContextKey(instance.sop_class_uid, syntax), instance.sop_instance_uid)


def _accepted_forms(accepted: Sequence[MediaType], *, is_single: bool) -> list[MediaType]:
    """The ranges that allow objects, the dearest first. Raises HttpError: 406."""
    found = [
        each
        for each in accepted
        if (each.name == "multipart/related" and each.parameters.get("type", DICOM).lower() in (DICOM, "*/*"))
        or each.name in ("*/*", "multipart/*")
        or (is_single and each.covers(DICOM))
    ]
    if found:
        return found
    text = 'Accept is to allow multipart/related; type="application/dicom"; transfer-syntax=*.'
    raise HttpError(HTTPStatus.NOT_ACCEPTABLE, text)


def _choose_syntaxes(accepted: Sequence[MediaType], wanted: WantedInstances) -> Mapping[str, str]:
    """In which transfer syntax each goes, by the kept one. Raises HttpError: 406."""
    kept = {each.transfer_syntax_uid for each in wanted.here}
    chosen = choose_syntaxes(accepted, kept)
    if chosen is None:
        text = f"It is kept as {', '.join(sorted(kept))}, and cannot become what Accept names without loss."
        raise HttpError(HTTPStatus.NOT_ACCEPTABLE, text)
    return chosen


class MetadataResource:
    """GET .../metadata: from the catalog's headers; from the file where those do not have everything.

    JSON, or XML (each data set a part) where that alone is accepted.
    """

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    def answer(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        written_as = media.choose_media(exchange.accept, (DICOM_JSON, DICOM_XML))
        if "instance" in names:
            wanted = WantedInstances(self._holdings.find(exchange, names, _METADATA), [])
        else:
            wanted = self._holdings.want(exchange, names, _METADATA)
        etag = etag_of(wanted.here, written_as)
        headers = {**wanted.headers, "Cache-Control": "private, no-cache", "Content-Type": written_as}
        if not wanted.missing:
            headers["ETag"] = etag
            if not_modified(exchange.request, etag):
                return WebAnswer(HTTPStatus.NOT_MODIFIED, {"ETag": etag})
        listing = _XmlListing() if written_as == DICOM_XML else _JsonListing()
        headers["Content-Type"] = listing.content_type
        first = b"".join(listing.write(self._texts(wanted.here, names)))
        if not wanted.missing:
            return WebAnswer(HTTPStatus.OK, headers, first + listing.end())

        def write_missing(send: SendPart) -> None:
            def write(found: list[HeldInstance]) -> None:
                for each in listing.write(self._texts(found, names)):
                    send(each)

            if lost := self._holdings.bring(exchange, wanted, _METADATA, write):
                raise EdgeError(f"{len(lost)} instances did not come from the archive")
            send(listing.end())

        return WebAnswer(HTTPStatus.OK, headers, parts=[first], length=None, write=write_missing)

    def _texts(self, found: Sequence[HeldInstance], names: dict[str, str]) -> list[str]:
        """Each data set in JSON."""
        whole, writer = self._holdings.whole_headers(found), MetadataWriter()
        return [self._write(writer, each, whole.get(each.id), names) for each in found]

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
            text = writer.write(header, _plain(syntax), lambda place: f"{base}bulkdata/{place}", more)
            return _with_today(text, instance.today) if instance.today else text
        except (Unreadable, IndexError) as error:
            raise HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "A header cannot be read; see the gateway.") from error


class _JsonListing:
    """Data sets in one array."""

    content_type = DICOM_JSON

    def __init__(self) -> None:
        self._before = b"["

    def write(self, texts: Iterable[str]) -> Iterator[bytes]:
        for each in texts:
            yield self._before + each.encode("utf-8", "replace")
            self._before = b","

    def end(self) -> bytes:
        return b"]" if self._before == b"," else b"[]"


class _XmlListing:
    """Data sets in parts of their own (PS3.18 section 8.7.3)."""

    def __init__(self) -> None:
        self._boundary = secrets.token_hex(16)
        self.content_type = f'multipart/related; type="{DICOM_XML}"; boundary={self._boundary}'

    def write(self, texts: Iterable[str]) -> Iterator[bytes]:
        head = f"\r\n--{self._boundary}\r\nContent-Type: {DICOM_XML}\r\n\r\n".encode()
        for each in texts:
            yield head + json_to_xml(json.loads(each))

    def end(self) -> bytes:
        return f"\r\n--{self._boundary}--\r\n".encode()


def _with_today(text: str, today: Mapping[str, str]) -> str:
    """The JSON object of a data set with the patient of today (PS3.18 section F.2)."""
    found = json.loads(text)
    for keyword, value in today.items():
        tag = tag_of(keyword)
        groups = dict(zip(("Alphabetic", "Ideographic", "Phonetic"), value.split("="), strict=False))
        written: Any = {name: each for name, each in groups.items() if each} if vr_of(tag) == "PN" else value
        found[f"{tag:08X}"] = {"vr": vr_of(tag), "Value": [written]}
    return json.dumps(dict(sorted(found.items())), ensure_ascii=False)


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
