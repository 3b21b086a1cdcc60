"""The instances that a C-MOVE or C-GET wants, and the location of each: in the process that answers.

First those that are here, so that they go at once; then a mark; then those that only an archive has.
"""

from __future__ import annotations

from collections.abc import Iterator

from edge.dicom.items import decode_items
from edge.query.answering import Answering, QueryOutcome, final_batch, wait_for
from edge.query.asking import AnswerBatch, AskedQuery
from edge.query.catalog import CatalogSource
from edge.query.levels import Level, LevelQuery, read_retrieval
from edge.query.located import ALL_HERE, Located
from edge.store import queried
from edge.store.database import CatalogRow

#: A retrieval waits this long for what was answered before it to be in the spool.
SPOOL_SECONDS = 10.0


def answer_retrieval(answering: Answering, asked: AskedQuery, data: bytes) -> Iterator[bytes | AnswerBatch | None]:
    """Each instance as `Located.encode` writes it, and ALL_HERE between. Raises QueryRefused, Unreadable."""
    question = read_retrieval(decode_items(data, asked.syntax), Level[asked.top], is_relational=asked.is_relational)
    outcome, here = QueryOutcome(), set[str]()
    archives, source = answering.begin(question, asked.top, outcome, wants_instances=True, is_local=asked.is_local)
    yield AnswerBatch(level=question.level.name)
    try:
        yield from _list_here(answering, source, question, here)
        yield ALL_HERE
        yield from wait_for(archives)
        for archive in archives:
            if archive.failure:
                outcome.left_out[archive.name] = archive.failure
            there = archive.instances()
            with answering.reader.reading() as conn:  # an archive may not know of a note, or not heed it
                here |= queried.list_hidden(conn, (each.sop_instance_uid for each in there))
            for instance in there:
                if instance.sop_instance_uid not in here:
                    here.add(instance.sop_instance_uid)
                    yield instance.encode()
    finally:
        for each in archives:
            each.close()
    yield final_batch(asked, question, outcome)


def _list_here(
    answering: Answering, source: CatalogSource, question: LevelQuery, here: set[str]
) -> Iterator[bytes | None]:
    """What is stored; and what the journal still has, which cannot be read yet."""
    overlay = None
    for newest in answering.settle(SPOOL_SECONDS):
        overlay = newest
        yield None
    for found in source.locate(question):
        if found is None:
            yield None
            continue
        row, is_outdated = found
        if row["state"] == "stored":
            here.add(row["sop_instance_uid"])
            yield _locate_row(row, is_outdated=is_outdated).encode()
    for found in CatalogSource(overlay.reading).locate(question) if overlay is not None else ():
        if found is not None and (row := found[0])["sop_instance_uid"] not in here:
            here.add(row["sop_instance_uid"])
            yield Located(row["sop_instance_uid"], row["sop_class_uid"], row["transfer_syntax_uid"]).encode()


def _locate_row(row: CatalogRow, *, is_outdated: bool) -> Located:
    xxh3 = row["xxh3"]
    return Located(
        row["sop_instance_uid"],
        row["sop_class_uid"],
        row["transfer_syntax_uid"],
        row["study_id"],
        row["path"],
        row["size"],
        row["dataset_offset"],
        row["sha256"].hex(),
        xxh3.hex() if xxh3 else "",
        is_outdated=is_outdated,
    )
