"""QIDO-RS (PS3.18 section 10.6): the same matching and answers as C-FIND, made by the same process (edge.query).

A query parameter is a keyword or tag, and its value is matched as in an identifier. What is not known here is left out,
and a Warning says so, as it does where an archive did not answer.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator, Sequence
from http import HTTPStatus

from edge.config.sections import Config
from edge.dicom.elements import vr_of
from edge.dicom.items import Attributes, ElementValue, decode_items, encode_items
from edge.dicom.json import to_json, write_json
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from edge.model.dictionary import tag_for_keyword
from edge.query.asking import AnswerBatch, AskedQuery, Asker, NoAnswer, NotedQuery, QueryEnd
from edge.query.levels import KEYWORDS_OF, UNIQUE_KEYWORDS, Level, tag_of
from edge.scp.admission import Caller
from edge.scp.dicomweb import media_types
from edge.scp.dicomweb.exchange import DICOM_JSON, Exchange, WebAnswer
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.remote_link import RemoteLink

#: Answers where the caller sets no limit, and at most.
USUAL_LIMIT, _MOST_ANSWERS = 1_000, 10_000
_QUERY_LEVEL, _RETRIEVE_URL, _RETRIEVE_AE = 0x00080052, 0x00081190, 0x00080054
#: Parameters that are no keys. Empty values (`""`) and several ones match whether or not they are announced.
_NO_KEYS = frozenset({"limit", "offset", "fuzzymatching", "emptyvaluematching", "multiplevaluematching",
                      "includefield", "orderby", "accept", "charset"})  # fmt: skip
#: What a Warning says (PS3.18 sections 8.3.4.2 and 8.3.4.4).
_NOT_FUZZY = "The fuzzymatching parameter is not supported. Only literal matching has been performed."
_MORE = "There are additional results that can be requested"
_TAG = re.compile(r"[0-9A-Fa-f]{8}")
#: What is returned of each level where nothing more is asked for (PS3.18 tables 10.6.3-3 to 10.6.3-5).
_ALWAYS = {
    Level.STUDY: (
        "StudyDate", "StudyTime", "AccessionNumber", "ModalitiesInStudy", "ReferringPhysicianName", "PatientName",
        "PatientID", "PatientBirthDate", "PatientSex", "StudyInstanceUID", "StudyID", "StudyDescription",
        "NumberOfStudyRelatedSeries", "NumberOfStudyRelatedInstances", "TimezoneOffsetFromUTC",
    ),
    Level.SERIES: (
        "Modality", "SeriesDescription", "SeriesInstanceUID", "SeriesNumber", "NumberOfSeriesRelatedInstances",
        "PerformedProcedureStepStartDate", "PerformedProcedureStepStartTime", "RequestAttributesSequence",
    ),
    Level.IMAGE: (
        "SOPClassUID", "SOPInstanceUID", "InstanceNumber", "Rows", "Columns", "BitsAllocated", "NumberOfFrames",
    ),
}  # fmt: skip


class QueryResource:
    """GET /studies, /series, /instances, and below a study or series."""

    def __init__(self, config: Callable[[], Config], asker: Asker, link: RemoteLink) -> None:
        self._config, self._asker, self._link = config, asker, link

    def resource_at(self, level: Level) -> Callable[[Exchange, dict[str, str]], WebAnswer]:
        """The resource of one level."""
        return lambda exchange, names: self._answer(exchange, names, level)

    def _answer(self, exchange: Exchange, names: dict[str, str], level: Level) -> WebAnswer:
        media_types.choose_media(exchange.accept, (DICOM_JSON,))
        config = self._config()
        if not config.serves_queries:
            raise HttpError(HTTPStatus.NOT_FOUND, "There is no [query] table: nobody may ask.")
        keys, warnings = read_keys(exchange, names, level)
        limit, offset = _number(exchange, "limit", USUAL_LIMIT), _number(exchange, "offset", 0)
        limit = min(limit, _MOST_ANSWERS)
        syntax = EXPLICIT_VR_LITTLE_ENDIAN
        asked = AskedQuery(
            "find", "STUDY", syntax, config.listen.ae_title, is_relational=True, combines_date_times=True
        )
        order = read_order(exchange, keys)
        if order:
            found, last, is_more = self._collect(asked, keys, exchange, 0, _MOST_ANSWERS)
            found, is_more = sort_answers(found, order)[offset : offset + limit], is_more or len(found) > offset + limit
        else:
            found, last, is_more = self._collect(asked, keys, exchange, offset, limit)
        if is_more:
            warnings.append(_MORE)
        for each in last.left_out:
            warnings.append(f"{each} did not answer: the results are those of the cache alone")
        headers = {"Content-Type": DICOM_JSON, "Cache-Control": "no-store"}
        if warnings:
            headers["Warning"] = ", ".join(f'299 edge "{each}"' for each in warnings)
        if not found:
            return WebAnswer(HTTPStatus.NO_CONTENT, headers)
        answers = [to_json(_with_url(each, exchange.base, level)) for each in found]
        return WebAnswer(HTTPStatus.OK, headers, write_json(answers))

    def _collect(
        self, asked: AskedQuery, keys: Attributes, exchange: Exchange, offset: int, limit: int
    ) -> tuple[list[Attributes], AnswerBatch, bool]:
        """The answers from `offset` on, the last batch, and whether there are more than `limit`."""
        identifier = encode_items(keys, asked.syntax)
        found: list[Attributes] = []
        last, count, is_more = AnswerBatch(), 0, False
        try:
            with contextlib.closing(self._asker.ask(asked, identifier)) as batches:
                for data, batch in _each(batches):
                    last = batch
                    if data is None:
                        continue
                    if offset <= count < offset + limit:
                        found.append(decode_items(data, asked.syntax))
                    count += 1
                    if count > offset + limit:
                        is_more = True
                        break
        except NoAnswer:
            text = "The gateway cannot answer queries now."
            raise HttpError(HTTPStatus.SERVICE_UNAVAILABLE, text, {"Retry-After": "5"}) from None
        caller = Caller(exchange.caller.title, exchange.address)
        status = last.status or 0
        self._link.note_query(NotedQuery.make(asked, identifier, QueryEnd(len(found), status, last.left_out), caller))
        if last.status:
            raise HttpError(HTTPStatus.BAD_REQUEST, f"The query is refused: {last.comment or hex(last.status)}.")
        return found, last, is_more


def _each(batches: Iterator[AnswerBatch]) -> Iterator[tuple[bytes | None, AnswerBatch]]:
    for batch in batches:
        for data in batch.answers:
            yield data, batch
        yield None, batch


def read_keys(exchange: Exchange, names: dict[str, str], level: Level) -> tuple[Attributes, list[str]]:
    """The identifier that a request means, and what of it is not known. Raises HttpError: 400."""
    known = {tag_of(each) for at in Level if at <= level for each in KEYWORDS_OF[at]}
    keys = Attributes({_QUERY_LEVEL: ElementValue("CS", (level.name,))})
    warnings: list[str] = []
    for tag in _list_returned(exchange, level, known):
        keys[tag] = ElementValue(vr_of(tag))
    for name, value in exchange.request.query:
        if name in _NO_KEYS:
            continue
        path = [_tag_of(each) for each in name.split(".")]
        if not all(path):
            raise _unknown_attribute("The query parameter", name)
        if path[0] not in known:
            warnings.append(f"{name} is not known here and was not matched")
            continue
        _put(keys, [each for each in path if each], value)
    if any(value.lower() == "true" for value in exchange.values("fuzzymatching")):
        warnings.append(_NOT_FUZZY)
    for keyword, name in (("StudyInstanceUID", "study"), ("SeriesInstanceUID", "series")):
        if name in names:
            _restrict(keys, keyword, names[name])
    return keys, warnings


def _list_returned(exchange: Exchange, level: Level, known: set[int]) -> set[int]:
    """What is to be returned."""
    levels = [at for at in _ALWAYS if at <= level]
    found = {tag_of(each) for at in levels for each in _ALWAYS[at] if tag_of(each) in known}
    found |= {tag_of(UNIQUE_KEYWORDS[at]) for at in levels}
    for value in exchange.values("includefield"):
        for each in value.split(","):
            found |= known if each == "all" else {tag for tag in (_tag_of(each),) if tag in known}
    return found


def _tag_of(text: str) -> int:
    """The tag of a keyword, or of eight hexadecimal digits; 0 where it is neither."""
    if _TAG.fullmatch(text):
        return int(text, 16)
    return tag_for_keyword(text) or 0


def _unknown_attribute(where: str, name: str) -> HttpError:
    """400 with what the caller wrote, and what is known."""
    known = f"a keyword (PatientID), a tag (00100020), or one of {', '.join(sorted(_NO_KEYS))}"
    return HttpError(HTTPStatus.BAD_REQUEST, f"{where} {name[:64]!a} is no attribute of DICOM: write {known}.")


def _put(keys: Attributes, path: Sequence[int], value: str) -> None:
    """A value into a data set, or into the first item of a sequence of it. Several UIDs may be divided by commas."""
    tag, *rest = path
    if rest:
        inner = Attributes(keys[tag].items[0]) if tag in keys and keys[tag].items else Attributes()
        _put(inner, rest, value)
        keys[tag] = ElementValue("SQ", (), [inner])
        return
    vr = vr_of(tag)
    values = tuple(value.replace(",", "\\").split("\\")) if vr == "UI" else tuple(value.split("\\"))
    before = keys[tag].values if tag in keys and vr == "UI" else ()
    keys[tag] = ElementValue(vr, (*before, *values) if value else ())


def _restrict(keys: Attributes, keyword: str, uid: str) -> None:
    """Ask for the study or series of the address alone. Raises HttpError: 400 for a parameter that excludes it."""
    tag = tag_of(keyword)
    if keys[tag].values and uid not in keys[tag].values:
        raise HttpError(HTTPStatus.BAD_REQUEST, f"{keyword} differs from that of the address.")
    keys[tag] = ElementValue("UI", (uid,))


def read_order(exchange: Exchange, keys: Attributes) -> list[tuple[int, bool]]:
    """What `orderby` names, each with whether it descends; it is returned as well. Raises HttpError: 400.

    No part of PS3.18, but what viewers ask for: `orderby=-StudyDate,PatientName`.
    """
    found = []
    for text in (each.strip() for value in exchange.values("orderby") for each in value.split(",")):
        if text and not (tag := _tag_of(text.lstrip("+-"))):
            raise _unknown_attribute("In orderby", text.lstrip("+-"))
        if text:
            keys.setdefault(tag, ElementValue(vr_of(tag)))
            found.append((tag, text.startswith("-")))
    return found


def sort_answers(answers: Sequence[Attributes], order: Sequence[tuple[int, bool]]) -> list[Attributes]:
    """Answers in the order that is asked for; what has no value comes last."""
    found = list(answers)
    for tag, descends in reversed(order):
        with_value = [each for each in found if each.text(tag)]
        with_value.sort(key=lambda each: _sort_key(each, tag), reverse=descends)
        found = with_value + [each for each in found if not each.text(tag)]
    return found


def _sort_key(answer: Attributes, tag: int) -> tuple[float, str]:
    """Numbers as numbers, before texts; texts without regard to case."""
    text = answer.text(tag)
    try:
        return (float(text), "") if answer[tag].vr in ("IS", "DS", "US", "UL") else (0.0, text.casefold())
    except ValueError:
        return 0.0, text.casefold()


def _number(exchange: Exchange, name: str, default: int) -> int:
    text = next(iter(exchange.values(name)), "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise HttpError(HTTPStatus.BAD_REQUEST, f"{name} is to be a number.")
    return int(text)


def _with_url(answer: Attributes, base: str, level: Level) -> Attributes:
    """Add the address to retrieve it from, and remove what only DIMSE asks for."""
    study, series, instance = (
        answer.text(tag_of(UNIQUE_KEYWORDS[at])) for at in (Level.STUDY, Level.SERIES, Level.IMAGE)
    )
    url = f"{base}/studies/{study}"
    url += f"/series/{series}" if level >= Level.SERIES else ""
    url += f"/instances/{instance}" if level >= Level.IMAGE else ""
    made = Attributes({tag: each for tag, each in answer.items() if tag not in (_QUERY_LEVEL, _RETRIEVE_AE)})
    made[_RETRIEVE_URL] = ElementValue("UR", (url,))
    return made
