"""`edge verify`: is what lies on the disk still what was received?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import click
from rich.console import Console
from rich.progress import Progress

from edge.cli.session import Session, config_option, json_option
from edge.cli.tables import print_json, print_table, say
from edge.errors import EdgeError
from edge.spool import Spool
from edge.storage import verify as checks
from edge.storage.repair import Mended, Repairer
from edge.storage.verify import Damage, FileRow
from edge.store import ledger, wal
from edge.store.database import Connection
from edge.store.ledger_copy import Journal
from edge.text import counted

Answers = dict[int, Mended]


@click.command(short_help="Look for bits that have rotted.")
@click.option("--study", metavar="UID", help="Only the files of this study, and not the catalog.")
@click.option("--repair", is_flag=True, help="Fetch what is damaged again from a destination that has it.")
@json_option
@config_option
@click.pass_obj
def verify(session: Session, study: str | None, repair: bool, as_json: bool) -> None:
    """Read every spooled file again and compare it with what was received; check the catalog and its log.

    The gateway does the same by itself, gently, once a week, and repairs what it can. Exit 1 when anything is damaged,
    or was and could not be repaired.

    \b
    Examples:  edge verify
               edge verify --study 1.2.840.113619.2.55.3.604688119.868 --repair
    """
    with session.catalog() as conn:
        catalog = [] if study else _check_catalog(session, conn)
        files, damaged = _check_files(session, conn, study)
        lost = [] if study else checks.lost(conn)
    answers = _repair(session, [each.row.instance_id for each in damaged] + [row.instance_id for row in lost], repair)
    if as_json:
        print_json(_json(files, catalog, damaged, lost, answers))
    else:
        _print(files, catalog, damaged, lost, answers, repair=repair)
    unmended = [each for each in damaged if not _is_mended(answers, each.row)]
    if catalog or unmended or any(not _is_mended(answers, row) for row in lost):
        raise SystemExit(1)


def _check_catalog(session: Session, conn: Connection) -> list[str]:
    """What is wrong with the catalog, its log, its ledger and the ledger's second copy; pages first."""
    found = _check_log(session)
    pages = checks.check_pages(conn)
    if pages or found:
        return found + pages
    found += checks.check_rows(conn)
    if (broken := ledger.check(conn)) is not None:
        found.append(f"the custody ledger is broken at row {broken.seq}: {broken.text}")
    if vanished := Journal(session.data_dir).vanished(conn):
        found.append(vanished)
    return found


def _check_log(session: Session) -> list[str]:
    """The log's frames, one after the other; while the gateway runs, SQLite trusts those that it has read."""
    damaged = wal.damaged_frame(session.data_dir / "catalog.db", in_use=session.daemon_runs)
    return [f"the catalog's log is damaged at frame {damaged}"] if damaged else []


def _check_files(session: Session, conn: Connection, study: str | None) -> tuple[int, list[Damage]]:
    rows = checks.kept_of_study(conn, study) if study else None
    if study and not rows:
        raise EdgeError(f"no file of study {study} is kept here; `edge studies show` tells what became of it")
    root, damaged, files = session.data_dir / "spool", [], 0
    versions = checks.versions(conn)
    total = sum(row.size for row in rows) if rows else checks.kept_count(conn)[1]
    with _progress(total) as tick:
        for row in rows or _all(conn):
            found = checks.check_file(root / row.path, row, versions)
            files += 1
            if found is not None and not _has_gone(session, row):
                damaged.append(found)
            tick(row.size)
    return files, damaged


def _all(conn: Connection) -> Iterator[FileRow]:
    last = 0
    while rows := checks.kept_after(conn, last, 500):
        yield from rows
        last = rows[-1].instance_id


def _has_gone(session: Session, row: FileRow) -> bool:
    """Was it evicted, or repaired, since we began?"""
    with session.quiet_catalog() as conn:
        now = checks.file_row(conn, row.instance_id)
    return now is None or now.path != row.path or now.state != row.state


# -- repairing ---------------------------------------------------------------------------------------------------------


def _repair(session: Session, instances: list[int], wanted: bool) -> Answers:
    if not wanted or not instances:
        return {}
    if session.daemon_runs:
        told = [each for number in instances for each in session.ask("repair", ids=[number])["mended"]]
        return {each["instance_id"]: Mended(**each) for each in told}
    with session.store() as database:
        spool = Spool(session.data_dir)
        try:
            repairer = Repairer(database, spool, lambda: session.config)
            return {number: repairer.mend(number) for number in instances}
        finally:
            spool.close()


def _is_mended(answers: Answers, row: FileRow) -> bool:
    return row.instance_id in answers and answers[row.instance_id].whole


# -- answers -----------------------------------------------------------------------------------------------------------


def _print(
    files: int, catalog: list[str], damaged: list[Damage], lost: list[FileRow], answers: Answers, *, repair: bool
) -> None:
    for text in catalog:
        say(f"catalog: {text}", "red")
    if catalog:
        say("Stop the gateway and type `edge recover`: it makes the catalog anew, and keeps the damaged one.")
    rows = [(each.row, each.text) for each in damaged] + [(row, f"lost: {row.reason}") for row in lost]
    if rows:
        columns = ["instance", "SOP Instance UID", "file", "found"] + ["repair"] * repair
        print_table(columns, [_line(row, text, answers, repair) for row, text in rows])
    unmended = sum(not _is_mended(answers, row) for row, _ in rows)
    if unmended and not repair:
        say("`edge verify --repair` fetches them again from a destination that has them.")
    bad = bool(catalog or unmended)
    say(f"{counted(files, 'file')} read, {len(damaged)} damaged, {len(lost)} lost.", "bold red" if bad else "green")


def _line(row: FileRow, text: str, answers: Answers, repair: bool) -> list[str | int]:
    mended = answers.get(row.instance_id)
    told = ("repaired: " if mended.whole else "NOT repaired: ") + mended.text if mended else ""
    return [row.instance_id, row.sop_instance_uid, row.path, text, *([told] if repair else [])]


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


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Shown on a terminal only, and gone when it ends."""
    beside = Console(stderr=True)
    with Progress(console=beside, transient=True, disable=not beside.is_terminal) as progress:
        task = progress.add_task("reading the spool", total=total)
        yield lambda done: progress.advance(task, done)
