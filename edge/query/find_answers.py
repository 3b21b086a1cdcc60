"""C-FIND from the identifier to the identifiers of its answers: what the process that answers does with a question."""

from __future__ import annotations

import time
from collections.abc import Iterator

from edge.dicom.items import Attributes, decode_items, encode_items
from edge.query import entities, moments
from edge.query.answering import MATCHES_CONTINUE, UNSUPPORTED_KEYS, Answering, QueryOutcome, final_batch
from edge.query.asking import AnswerBatch, AskedQuery
from edge.query.levels import OUT_OF_RESOURCES, Level, LevelQuery, read_question
from edge.query.matching import TIMEZONE_OFFSET, MatchRules


def local_zone() -> int:
    """Minutes east of UTC, of this machine by now: what a time means that does not say its zone."""
    return time.localtime().tm_gmtoff // 60


def rules_of(asked: AskedQuery, identifier: Attributes) -> MatchRules:
    zone = moments.parse_zone(identifier.text(TIMEZONE_OFFSET))
    return MatchRules(asked.combines_date_times, zone, local_zone())


def answer_find(answering: Answering, asked: AskedQuery, data: bytes) -> Iterator[bytes | AnswerBatch | None]:
    """The answers, None where time passes, and at last the final status. Raises QueryRefused, Unreadable."""
    identifier = decode_items(data, asked.syntax)
    question = read_question(identifier, Level[asked.top], is_relational=asked.is_relational)
    rules, outcome = rules_of(asked, identifier), QueryOutcome()
    zone = moments.zone_text(rules.zone) if rules.zone is not None else ""
    pending = UNSUPPORTED_KEYS if question.unknown else MATCHES_CONTINUE
    limit, count = answering.config().query.limit, 0
    yield AnswerBatch(pending=pending, level=question.level.name)
    for entity in answering.find(question, rules, asked.top, outcome):
        if entity is None:
            yield None
            continue
        if limit is not None and count >= limit:
            yield AnswerBatch(
                (), OUT_OF_RESOURCES, f"more than {limit} answers: the limit", pending, question.level.name
            )
            return
        count += 1
        yield _encode(question, entity, asked, zone)
    yield final_batch(asked, question, outcome, pending)


def _encode(question: LevelQuery, entity: entities.Entity, asked: AskedQuery, zone: str) -> bytes:
    return encode_items(entities.compose_answer(question, entity, asked.called_ae, zone), asked.syntax)
