"""WADO-RS of metadata (PS3.18 section 10.4): data sets without what is bulk, in JSON or XML.

They are made of the catalog's headers, and of the file where those do not have everything. Bulk data has an address
relative to the metadata's own, which is right behind any proxy.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from http import HTTPStatus

from edge.dicom.elements import DEFLATED, plain_syntax
from edge.dicom.header import WINDOW
from edge.dicom.items import item
from edge.dicom.json import to_json
from edge.dicom.metadata import BulkAddress, MetadataWriter, bulk_element
from edge.dicom.native_model import json_to_xml
from edge.errors import EdgeError, Unreadable
from edge.network.multipart import PartDelimiters
from edge.query.levels import tag_of
from edge.scp.dicomweb import media_types
from edge.scp.dicomweb.exchange import DICOM_JSON, DICOM_XML, Exchange, SendPart, WebAnswer
from edge.scp.dicomweb.holdings import Holdings, WantedInstances
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.dicomweb.ranges import etag_of, not_modified
from edge.store.held import HeldInstance
from edge.transform.syntaxes import NATIVE

_PIXEL_DATA = 0x7FE00010
_ACCESS = "wado-rs metadata"


class MetadataResource:
    """GET .../metadata: JSON, or XML (each data set a part) where that alone is accepted."""

    def __init__(self, holdings: Holdings) -> None:
        self._holdings = holdings

    def answer(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        written_as = media_types.choose_media(exchange.accept, (DICOM_JSON, DICOM_XML))
        if "instance" in names:
            wanted = WantedInstances(self._holdings.find(exchange, names, _ACCESS), [])
        else:
            wanted = self._holdings.want(exchange, names, _ACCESS)
        etag = etag_of(wanted.here, written_as)
        if not wanted.missing and not_modified(exchange.request, etag):
            return WebAnswer(HTTPStatus.NOT_MODIFIED, {"ETag": etag})
        listing = _XmlListing() if written_as == DICOM_XML else _JsonListing()
        headers = {**wanted.headers, "Cache-Control": "private, no-cache", "Content-Type": listing.content_type}
        if not wanted.missing:
            headers["ETag"] = etag
        first = b"".join(listing.write(self._texts(wanted.here, names)))
        if not wanted.missing:
            return WebAnswer(HTTPStatus.OK, headers, first + listing.end())

        def write_missing(send: SendPart) -> None:
            def write(found: list[HeldInstance]) -> None:
                for each in listing.write(self._texts(found, names)):
                    send(each)

            if lost := self._holdings.bring(exchange, wanted, _ACCESS, write):
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
        base, syntax = _relative(instance, names), plain_syntax(instance.transfer_syntax_uid)

        def address(place: str) -> str:
            return f"{base}bulkdata/{place}"

        try:
            if header is None:
                elements, tag, vr = self._read_file(writer, instance, address)
            else:
                elements, (tag, vr) = writer.write_elements(header, syntax, address)[0], _expected_pixels(instance)
        except (Unreadable, OSError, IndexError) as error:
            raise HttpError(HTTPStatus.INTERNAL_SERVER_ERROR, "A file cannot be read; see the gateway.") from error
        if tag:
            elements.append(bulk_element(tag, vr, address))
        text = "{" + ",".join(elements) + "}"
        return _with_today(text, instance.today) if instance.today else text

    def _read_file(
        self, writer: MetadataWriter, instance: HeldInstance, address: BulkAddress
    ) -> tuple[list[str], int, str]:
        """What the catalog does not have (yet): the elements, and tag and VR of the pixel data."""
        holdings, syntax = self._holdings, instance.transfer_syntax_uid
        if syntax not in DEFLATED:
            with suppress(Unreadable, IndexError), holdings.reading_of(instance) as read:
                elements, end = writer.write_elements(read(0, WINDOW), syntax, address)
                pixels = holdings.find_pixels(instance, read, end)
                if pixels.header_bytes == end:  # most headers fit the first window
                    return elements, pixels.tag, pixels.vr
        of_file = holdings.read_header(instance)
        elements, _ = writer.write_elements(of_file.data, plain_syntax(syntax), address)
        return elements, of_file.pixels.tag, of_file.pixels.vr


def _expected_pixels(instance: HeldInstance) -> tuple[int, str]:
    """Tag and VR of its pixel data by what the catalog says; 0 where it has none."""
    if instance.bits_allocated is None or instance.rows is None:
        return 0, ""
    return _PIXEL_DATA, "OW" if instance.transfer_syntax_uid in NATIVE and instance.bits_allocated > 8 else "OB"


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
        self._delimiters = PartDelimiters(DICOM_XML)
        self.content_type = self._delimiters.content_type

    def write(self, texts: Iterable[str]) -> Iterator[bytes]:
        for each in texts:
            yield self._delimiters.open_part(DICOM_XML) + json_to_xml(json.loads(each))

    def end(self) -> bytes:
        return self._delimiters.closing


def _with_today(text: str, today: Mapping[str, str]) -> str:
    """The JSON object of a data set with the patient of today."""
    found = json.loads(text) | to_json(item({tag_of(keyword): value for keyword, value in today.items()}))
    return json.dumps(dict(sorted(found.items())), ensure_ascii=False)


def _relative(instance: HeldInstance, names: dict[str, str]) -> str:
    """The instance's address as seen from the metadata's own (RFC 3986 section 5): right behind any proxy."""
    if "instance" in names:
        return ""
    if "series" in names:
        return f"instances/{instance.sop_instance_uid}/"
    return f"series/{instance.series_uid}/instances/{instance.sop_instance_uid}/"
