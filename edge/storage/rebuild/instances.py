"""Studies and instances: from the damaged catalog, the journal, and the files themselves."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

from edge.errors import Unreadable
from edge.intake.routing import is_imageless
from edge.journal.kinds import instance
from edge.journal.replay import JournalRecord, Replay, unapplied_names
from edge.journal.ring import JOURNAL_FOLDER
from edge.model import ContextKey, InstanceState
from edge.storage.rebuild.job import Rebuild, chunks
from edge.store import catalog, journal_progress, ledger, legal_holds, patients, restoring
from edge.store.database import Transaction
from edge.store.ledger_copy import File
from edge.store.salvage import SalvagedRow

#: What headers say, each after what it refers to.
HEADER_TABLES = ("patient", "study_patient", "study_facts", "series")


def restore_instances(job: Rebuild) -> None:
    """Enter every instance of which a row is left, with its study and what its header said."""
    studies = {row["id"]: row for row in job.salvage.rows("study") if isinstance(row["id"], int)}
    kinds = {row["id"]: row for row in job.salvage.rows("kind")}
    job.copy_rows("study", studies.values())
    job.report.studies = len(studies)
    for table in HEADER_TABLES:
        job.copy_rows(table, job.salvage.rows(table))
    with job.db.reading() as conn:
        job.series = restoring.list_series(conn)
    files, study_ids = dict(job.history.files), dict(job.history.study_ids)
    salvaged: dict[int, SalvagedRow] = {}
    for row in job.salvage.rows("instance"):
        file = _file_of(row, kinds, studies)
        if file is None:
            continue
        salvaged[file.instance_id] = row
        known = files.get(file.instance_id)
        if known is None:
            files[file.instance_id] = file
            study_ids[file.instance_id] = row["study_id"]
        elif file.series_id is not None:  # it may have been filled in since
            series, number = file.series_id, file.instance_number
            files[file.instance_id] = replace(known, series_id=series, instance_number=number)
    for chunk in chunks(sorted(files)):
        lines = [_entry_of(job, files[each], study_ids.get(each), salvaged.get(each, {})) for each in chunk]
        job.db.write(lambda conn, lines=lines: [line(conn) for line in lines])  # type: ignore[misc]
        job.tick("instances", job.report.instances)


def _entry_of(job: Rebuild, file: File, study_id: int | None, salvaged: SalvagedRow) -> Callable[[Transaction], None]:
    """What enters one instance: its file is checked before the transaction, so that this is short."""
    text, state = _state_of(job, file, str(salvaged.get("state", "")))
    hold, rule = _rules_of(job, file, state, salvaged)
    job.report.instances += 1
    job.report.lost += state == InstanceState.LOST
    said = job.history.headers.get(file.series_id or 0)
    modality = dict(zip(patients.SERIES_COLUMNS, said.series, strict=True))["Modality"] if said else ""

    def work(conn: Transaction) -> None:
        study = _study(conn, file, study_id)
        row = {
            "id": file.instance_id,
            "sop_instance_uid": file.sop_instance_uid,
            "sha256": file.sha256,
            "kind_id": catalog.kind_id(conn, ContextKey(file.sop_class_uid, file.transfer_syntax_uid)),
            "study_id": study,
            "series_uid": file.series_uid,
            "state": state,
            "reason": text,
            "path": file.path,
            "size": file.size,
            "dataset_offset": file.dataset_offset,
            "calling_ae": file.calling_ae,
            "called_ae": file.called_ae,
            "address": file.address,
            "received_at": file.received_at,
            "hold": hold,
            "retention": rule,
            "fetched_from": _text_of(salvaged, "fetched_from"),
            "companion": int(is_imageless(file.sop_class_uid, modality)),
            "series_id": _series_of(job, conn, file, study),
            "instance_number": file.instance_number,
            "discarded_at": time.time() if state == InstanceState.DISCARDED else None,
        }
        restoring.insert_instance(conn, row)
        job.restored.add(file.instance_id)
        if state == InstanceState.LOST and file.instance_id not in job.history.lost:
            ids = [file.instance_id]
            ledger.append(conn, time.time(), ledger.LOST, ledger.EDGE, ids, study_id=study, payload={"fault": text})

    return work


def _rules_of(job: Rebuild, file: File, state: str, salvaged: SalvagedRow) -> tuple[str, str]:
    """The hold and the rule of retention of an instance: by its row, or by its own header where none is left.

    Legal holds are restored later, from the ledger.
    """
    if salvaged:
        return _text_of(salvaged, "hold").removeprefix(legal_holds.PREFIX), _text_of(salvaged, "retention")
    rules = job.policy.rules
    if state not in (InstanceState.STORED, InstanceState.CONFLICT) or not (rules.holds or rules.retention):
        return "", ""
    try:
        facts = job.intake.facts_of(file.path)
    except (Unreadable, OSError):
        return "", ""  # the scrub finds it
    return rules.hold_reason(facts), rules.retention_rule(facts)


def _text_of(row: SalvagedRow, column: str) -> str:
    value = row.get(column)
    return value if isinstance(value, str) else ""


def _series_of(job: Rebuild, conn: Transaction, file: File, study: int | None) -> int | None:
    """The row of what an instance's header says: as it was, or made of what the journal has; else it is read again.

    For a new row, a person's decision is known from the ledger.
    """
    if file.series_id is None or study is None or file.series_id in job.series:
        return file.series_id if study is not None else None
    header = job.history.headers.get(file.series_id)
    if header is None:
        return None
    placed = patients.enter(conn, study, header, file.received_at)
    if placed.is_mismatch and file.instance_id in job.history.released:
        patients.accept(conn, placed)
    return placed.series_id


def _state_of(job: Rebuild, file: File, salvaged: str) -> tuple[str, str]:
    """(reason, state) of an instance, by the ledger and the disk."""
    past = job.history.states.get(file.instance_id, salvaged)
    if past in (InstanceState.EVICTED, InstanceState.DISCARDED):
        return "", past
    try:
        size = job.spool.path_of(file.path).stat().st_size
    except OSError:
        return "its file is gone", InstanceState.LOST.value
    if size != file.size:
        return f"its file has {size} bytes instead of {file.size}", InstanceState.LOST.value
    known = past in (InstanceState.CONFLICT, InstanceState.QUARANTINED)
    return "", past if known else InstanceState.STORED.value


def _restore_progress(job: Rebuild, conn: Transaction) -> None:
    """A record that has an instance is applied, and so are those before it: else a start would enter them again."""
    upto: dict[int, int] = {}
    folder = job.spool.root.parent / JOURNAL_FOLDER
    for item in Replay(folder, {}) if folder.is_dir() else ():
        if isinstance(item, JournalRecord) and item.head.kind == instance.CODE:
            received_at = instance.decode(item.head.facts).header.origin.received_at
            if catalog.holds_path(conn, job.spool.name_of(item.identity.name, received_at)):
                upto[item.identity.generation] = item.identity.index + 1
    journal_progress.note_applied(conn, upto)


def adopt_files(job: Rebuild) -> None:
    """Enter the files of which no row is left. What the journal still holds, the next start writes and enters."""
    job.db.write(lambda conn: _restore_progress(job, conn))
    with job.db.reading() as conn:
        waiting = unapplied_names(job.spool.root.parent / JOURNAL_FOLDER, journal_progress.read_applied(conn))
    for bucket in job.spool.bucket_names():
        for name, _ in job.spool.files(bucket):
            with job.db.reading() as conn:
                if catalog.holds_path(conn, name) or Path(name).stem in waiting:
                    continue
            if job.intake.adopt(name) is None:
                job.report.unreadable += 1
            else:
                job.report.adopted += 1
                job.tick("files adopted", job.report.adopted)


def _file_of(row: SalvagedRow, kinds: Mapping[int, SalvagedRow], studies: Mapping[int, SalvagedRow]) -> File | None:
    """A row of the damaged catalog that is usable; None for another."""
    kind, study = kinds.get(row["kind_id"]), studies.get(row["study_id"], {"study_uid": ""})
    if kind is None or not isinstance(row["id"], int) or not isinstance(row["sha256"], bytes):
        return None
    return File(
        row["id"], row["path"], row["sha256"], row["sop_instance_uid"], kind["sop_class_uid"],
        kind["transfer_syntax_uid"], study["study_uid"], row["series_uid"], row["size"], row["dataset_offset"],
        row["calling_ae"], row["called_ae"], row["address"], row["received_at"], row.get("series_id"),
        str(row.get("instance_number", "")),
    )  # fmt: skip


def _study(conn: Transaction, file: File, number: int | None) -> int | None:
    """The row of an instance's study, made with what is known of it where it is gone."""
    if not file.study_uid:
        return None
    return restoring.find_or_enter_study(conn, file.study_uid, number, file.received_at)
