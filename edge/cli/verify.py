"""`edge verify`: check stored files and the catalog against their checksums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import Any

import click

from edge.cli.session import CommandSession, json_option
from edge.cli.tables import fail_unless, print_json, print_table, progress_bar, say
from edge.errors import EdgeError
from edge.spool import Spool
from edge.storage import verify as checks
from edge.storage.journal_tail import list_damaged_files
from edge.storage.repair import Repairer, RepairResult
from edge.storage.verify import Damage
from edge.store import integrity, kept_files, ledger, wal
from edge.store.database import Transaction
from edge.store.folded_files import FoldedFiles
from edge.store.kept_files import FileRow
from edge.store.ledger_copy import Journal
from edge.text import amount

Answers = dict[int, RepairResult]


@click.command(short_help="Verify stored files and the catalog against their checksums.")
@click.option("--study", metavar="UID", help="Only the files of this study, and not the catalog.")
@click.option("--repair", is_flag=True, help="Fetch damaged objects again from a destination that has them.")
@json_option
@click.pass_obj
def verify(session: CommandSession, study: str | None, repair: bool, as_json: bool) -> None:
    """Verify stored files and the catalog against their checksums.

    The gateway does the same automatically once a week, and repairs what it can. Exit 1 when anything is damaged, or
    could not be repaired.

    \b
    Examples:  edge verify
               edge verify --study 1.2.840.113619.2.55 --repair
    """
    with session.catalog() as conn:
        catalog = [] if study else _check_catalog(session, conn)
        files, damaged = _check_files(session, conn, study)
        lost = [] if study else kept_files.lost_files(conn)
        journal = [] if study else _check_journal(session, conn)
    answers = _repair(session, [each.row.instance_id for each in damaged] + [row.instance_id for row in lost], repair)
    if as_json:
        print_json(_json(files, catalog, damaged, lost, answers) | {"journal": journal})
    else:
        for text in journal:
            say(f"journal: {text}", "red")
        _print(files, catalog, damaged, lost, answers, repair=repair)
    unrepaired = [each for each in damaged if not _is_repaired(answers, each.row)]
    fail_unless(not catalog and not journal and not unrepaired and all(_is_repaired(answers, row) for row in lost))


def _check_catalog(session: CommandSession, conn: Transaction) -> list[str]:
    """What is wrong with the catalog, its log, its ledger and the ledger's second copy; pages first."""
    found = _check_log(session)
    pages = integrity.check_pages(conn)
    if pages or found:
        return found + pages
    found += integrity.check_rows(conn)
    if (broken := ledger.check(conn)) is not None:
        found.append(f"the custody ledger is broken at row {broken.seq}: {broken.text}")
    found += integrity.check_folded(conn, FoldedFiles(session.data_dir))
    if vanished := Journal(session.data_dir).find_vanished(conn):
        found.append(vanished)
    return found


def _check_journal(session: CommandSession, conn: Transaction) -> list[str]:
    """What is wrong with what was answered and is not in the catalog yet, and what was put aside before."""
    found = [f"record {name} is not what was received" for name in session.tail(conn).damaged]
    kept = list_damaged_files(session.data_dir)
    return found + [f"{name} was damaged and is kept: see the ledger (lost), then delete it" for name in kept]


def _check_log(session: CommandSession) -> list[str]:
    """The log's frames, one after the other; while the gateway runs, SQLite trusts those that it has read."""
    damaged = wal.damaged_frame(session.data_dir / "catalog.db", in_use=session.daemon_runs)
    return [f"the catalog's log is damaged at frame {damaged}"] if damaged else []


def _check_files(session: CommandSession, conn: Transaction, study: str | None) -> tuple[int, list[Damage]]:
    rows = kept_files.kept_of_study(conn, study) if study else None
    if study and not rows:
        raise EdgeError(f"no file of study {study} is stored here; see `edge studies show`")
    root, damaged, files, read = session.data_dir / "spool", [], 0, 0
    versions = checks.writing_versions(conn)
    total = sum(row.size for row in rows) if rows else kept_files.kept_count(conn)[1]
    with progress_bar("reading the spool", total) as tick:
        for row in rows or _all(conn):
            found = checks.check_file(root / row.path, row, versions)
            files += 1
            if found is not None and not _has_gone(session, row):
                damaged.append(found)
            read += row.size
            tick(read)
    return files, damaged


def _all(conn: Transaction) -> Iterator[FileRow]:
    last = 0
    while rows := kept_files.kept_after(conn, last, 500):
        yield from rows
        last = rows[-1].instance_id


def _has_gone(session: CommandSession, row: FileRow) -> bool:
    """Was it evicted, or repaired, since we began?"""
    with session.quiet_catalog() as conn:
        now = kept_files.file_row(conn, row.instance_id)
    return now is None or now.path != row.path or now.state != row.state


# -- repairing ---------------------------------------------------------------------------------------------------------


def _repair(session: CommandSession, instances: list[int], wanted: bool) -> Answers:
    if not wanted or not instances:
        return {}
    if session.daemon_runs:
        asked = [session.ask("repair", ids=[number]) for number in instances]
        answered = [each for answer in asked for each in answer["mended"]]  # language: a JSON key
        return {each["instance_id"]: RepairResult(**each) for each in answered}
    with session.store() as database, closing(Spool(session.data_dir)) as spool:
        repairer = Repairer(database, spool, lambda: session.config)
        return {number: repairer.repair(number) for number in instances}


def _is_repaired(answers: Answers, row: FileRow) -> bool:
    return row.instance_id in answers and answers[row.instance_id].whole


# -- answers -----------------------------------------------------------------------------------------------------------


def _print(
    files: int, catalog: list[str], damaged: list[Damage], lost: list[FileRow], answers: Answers, *, repair: bool
) -> None:
    for text in catalog:
        say(f"catalog: {text}", "red")
    if catalog:
        say("Stop the gateway and run `edge recover`: it rebuilds the catalog, and keeps the damaged one.")
    rows = [(each.row, each.text) for each in damaged] + [(row, f"missing or damaged: {row.reason}") for row in lost]
    if rows:
        columns = ["instance", "SOP Instance UID", "file", "found"] + ["repair"] * repair
        print_table(columns, [_line(row, text, answers, repair) for row, text in rows])
    unrepaired = sum(not _is_repaired(answers, row) for row, _ in rows)
    if unrepaired and not repair:
        say("`edge verify --repair` fetches them again from a destination that has them.")
    bad = bool(catalog or unrepaired)
    say(f"{amount(files, 'file')} read, {len(damaged)} damaged, {len(lost)} missing.", "bold red" if bad else "green")


def _line(row: FileRow, text: str, answers: Answers, repair: bool) -> list[str | int]:
    repaired = answers.get(row.instance_id)
    result = ("repaired: " if repaired.whole else "NOT repaired: ") + repaired.text if repaired else ""
    return [row.instance_id, row.sop_instance_uid, row.path, text, *([result] if repair else [])]


def _json(
    files: int, catalog: list[str], damaged: list[Damage], lost: list[FileRow], answers: Answers
) -> dict[str, Any]:
    found = [(each.row, each.part.value, each.text) for each in damaged]
    found += [(row, "lost", row.reason) for row in lost]
    return {
        "files": files,
        "catalog": catalog,
        "damaged": [
            {
                "instance": row.instance_id,
                "sop_instance_uid": row.sop_instance_uid,
                "study_uid": row.study_uid,
                "path": row.path,
                "part": part,
                "text": text,
                "repair": asdict(answers[row.instance_id]) if row.instance_id in answers else None,
            }
            for row, part, text in found
        ],
    }
