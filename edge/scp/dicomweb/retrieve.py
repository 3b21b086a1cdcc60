"""WADO-RS of whole objects (PS3.18 section 10.4): the instances of a study or series, or one.

Objects go as they are kept: bit for bit the modality's data set, behind a head that says nothing of where it came from;
with the patient of today where feeds know another than the object has; or converted without loss where the caller
accepts another transfer syntax alone. What only an archive has follows as it comes. An answer that cannot be completed
is cut off, so that it is not mistaken for a complete one.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from http import HTTPStatus
from itertools import chain

from edge.dicom.part10 import plain_head
from edge.errors import EdgeError
from edge.model import ContextKey
from edge.network.multipart import PartDelimiters
from edge.scp.dicomweb import media_types
from edge.scp.dicomweb.converted import ConvertedCopies, choose_syntaxes
from edge.scp.dicomweb.exchange import DICOM, Exchange, FilePart, SendPart, WebAnswer
from edge.scp.dicomweb.holdings import Holdings, WantedInstances
from edge.scp.dicomweb.media_types import MediaType
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.dicomweb.ranges import etag_of, not_modified, with_range
from edge.store.held import HeldInstance

_ACCESS = "wado-rs"


class InstanceResource:
    """GET /studies/{study}[/series/{series}[/instances/{instance}]]."""

    def __init__(self, holdings: Holdings, copies: ConvertedCopies) -> None:
        self._holdings, self._copies = holdings, copies

    def answer(self, exchange: Exchange, names: dict[str, str]) -> WebAnswer:
        is_single = "instance" in names
        accepted = _accepted_forms(media_types.parse_accepted(exchange.accept), is_single=is_single)
        if is_single:
            wanted = WantedInstances(self._holdings.find(exchange, names, _ACCESS), [])
        else:
            wanted = self._holdings.want(exchange, names, _ACCESS)
        syntaxes = _choose_syntaxes(accepted, wanted.here)
        is_alone = is_single and accepted[0].name in (DICOM, "application/*")
        etag = etag_of(wanted.here, f"{sorted(syntaxes.items())} {is_alone}")
        if not wanted.missing and not_modified(exchange.request, etag):
            return WebAnswer(HTTPStatus.NOT_MODIFIED, {"ETag": etag})
        headers = {**wanted.headers, "Cache-Control": "private, no-cache"}
        if not wanted.missing:
            headers["ETag"] = etag
        if is_alone:
            return self._alone(exchange, wanted.here[0], syntaxes[wanted.here[0].transfer_syntax_uid], headers)
        return self._multipart(exchange, wanted, accepted, headers)

    def _alone(self, exchange: Exchange, instance: HeldInstance, syntax: str, headers: dict[str, str]) -> WebAnswer:
        headers["Content-Type"] = f"{DICOM}; transfer-syntax={syntax}"
        head = plain_head(ContextKey(instance.sop_class_uid, syntax), instance.sop_instance_uid)
        if not _is_changed(instance, {instance.transfer_syntax_uid: syntax}):
            return with_range(exchange.request, headers, [head, self._data_set(instance)])
        with ExitStack() as opened:
            part = opened.enter_context(self._copies.open_copy(instance, syntax))
            answer = with_range(exchange.request, headers, [head, part])
            return replace(answer, opened=opened.pop_all())

    def _multipart(
        self, exchange: Exchange, wanted: WantedInstances, accepted: Sequence[MediaType], headers: dict[str, str]
    ) -> WebAnswer:
        delimiters = PartDelimiters(DICOM)
        headers["Content-Type"] = delimiters.content_type
        syntaxes = _choose_syntaxes(accepted, wanted.here)
        if not wanted.missing and not any(_is_changed(each, syntaxes) for each in wanted.here):
            heads = [_open_part(delimiters, each, each.transfer_syntax_uid) for each in wanted.here]
            length = sum(map(len, heads)) + sum(each.data_set_bytes for each in wanted.here) + len(delimiters.closing)
            kept = self._list_kept(wanted.here, heads, delimiters.closing)
            return WebAnswer(HTTPStatus.OK, headers, parts=kept, length=length)
        with ExitStack() as opened:
            parts = opened.enter_context(closing(self._list_converted(delimiters, wanted.here, syntaxes)))
            first = next(parts, b"")  # what cannot be converted is said before the answer begins
            write = self._write_missing(exchange, wanted, accepted, delimiters)
            body = chain((first,), parts)
            return WebAnswer(HTTPStatus.OK, headers, parts=body, length=None, write=write, opened=opened.pop_all())

    def _write_missing(
        self, exchange: Exchange, wanted: WantedInstances, accepted: Sequence[MediaType], delimiters: PartDelimiters
    ) -> Callable[[SendPart], None]:
        """Sends what only an archive has, as it comes, and ends the body."""

        def write(send: SendPart) -> None:
            def send_arrived(found: list[HeldInstance]) -> None:
                for part in self._list_converted(delimiters, found, _choose_syntaxes(accepted, found)):
                    send(part)

            if lost := self._holdings.bring(exchange, wanted, _ACCESS, send_arrived):
                raise EdgeError(f"{len(lost)} instances did not come from the archive")
            send(delimiters.closing)

        return write

    def _list_kept(
        self, found: Sequence[HeldInstance], heads: Sequence[bytes], closing_delimiter: bytes
    ) -> Iterator[bytes | FilePart]:
        with self._holdings.reading(found):
            for instance, head in zip(found, heads, strict=True):
                yield head
                yield self._data_set(instance)
        yield closing_delimiter

    def _list_converted(
        self, delimiters: PartDelimiters, found: Sequence[HeldInstance], syntaxes: Mapping[str, str]
    ) -> Generator[bytes | FilePart, None, None]:
        """Parts, each converted where it is kept in another transfer syntax."""
        changed = [(each, syntaxes[each.transfer_syntax_uid]) for each in found if _is_changed(each, syntaxes)]
        with self._holdings.reading(found), closing(self._copies.open_in_order(changed)) as copies:
            for instance in found:
                part = next(copies) if _is_changed(instance, syntaxes) else self._data_set(instance)
                yield _open_part(delimiters, instance, syntaxes[instance.transfer_syntax_uid])
                yield part

    def _data_set(self, instance: HeldInstance) -> FilePart:
        return FilePart(self._holdings.path_of(instance), instance.dataset_offset, instance.data_set_bytes)


def _is_changed(instance: HeldInstance, syntaxes: Mapping[str, str]) -> bool:
    """Does it go in another form than the kept one? `syntaxes`: in which it goes, by the kept transfer syntax."""
    return bool(instance.today) or syntaxes[instance.transfer_syntax_uid] != instance.transfer_syntax_uid


def _open_part(delimiters: PartDelimiters, instance: HeldInstance, syntax: str) -> bytes:
    head = delimiters.open_part(f"{DICOM}; transfer-syntax={syntax}")
    return head + plain_head(ContextKey(instance.sop_class_uid, syntax), instance.sop_instance_uid)


def _accepted_forms(accepted: Sequence[MediaType], *, is_single: bool) -> list[MediaType]:
    """The ranges that allow objects, the most wanted first. Raises HttpError: 406."""
    found = [
        each
        for each in accepted
        if (each.name == "multipart/related" and each.parameters.get("type", DICOM).lower() in (DICOM, "*/*"))
        or (each.breadth and each.covers("multipart/related"))
        or (is_single and each.covers(DICOM))
    ]
    if found:
        return found
    text = 'Accept is to allow multipart/related; type="application/dicom"; transfer-syntax=*.'
    raise HttpError(HTTPStatus.NOT_ACCEPTABLE, text)


def _choose_syntaxes(accepted: Sequence[MediaType], found: Sequence[HeldInstance]) -> Mapping[str, str]:
    """Choose the transfer syntax of each, by the kept one. Raises HttpError: 406."""
    kept = {each.transfer_syntax_uid for each in found}
    chosen = choose_syntaxes(accepted, kept)
    if chosen is None:
        text = f"It is kept as {', '.join(sorted(kept))}, and cannot become what Accept names without loss."
        raise HttpError(HTTPStatus.NOT_ACCEPTABLE, text)
    return chosen
