"""A second copy of patients, merges, orders, messages and pseudonyms, beside the catalog, for `edge recover`.

    identity.jsonl      one row of the catalog a line, as it was then; the last line of a row counts

Triggers note what has changed (`identity_change`); it is appended before the checkpoint takes it out of the catalog's
log. A file that has grown is written again from the catalog. A line that a crash has torn is left out.
Of a message that nothing waits for, there is what recognizes it when it comes again, without its bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from edge.errors import StorageFull
from edge.store.database import Transaction
from edge.store.salvage import SalvagedRow
from edge.store.sqlite_file import sync_fd, sync_path

IDENTITY_FILE = "identity.jsonl"
#: What is copied, each after what it refers to, with its primary key.
COPIED = {
    "assigning_authority": ("id",),
    "known_patient": ("id",),
    "patient_identifier": ("id",),
    "patient_merge": ("old_id", "new_id"),
    "imaging_order": ("id",),
    "study_assignment": ("study_id",),
    "hl7_message": ("id",),
    "hl7_parked_identifier": ("identifier", "message_id"),
    "hl7_relay": ("id",),
    "patient_event": ("id",),
    "deidentified_instance": ("sent_uid", "destination"),
}
#: Changes that are copied at once.
MOST_CHANGES = 5000
#: A longer file that has doubled since it was last written whole is written again.
LEAST_WHOLE_BYTES = 16 << 20

RowKey = tuple[Any, ...]


class IdentityCopy:
    """Owner of identity.jsonl; one thread writes."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / IDENTITY_FILE
        self._whole_bytes = 0  # when it was last written whole

    def write(self, conn: Transaction) -> int:
        """Append what has changed. Returns the last change that is copied by now; 0: nothing is to be forgotten.

        Raises OSError or StorageFull, after which it may be tried again; StorageUnhealthy where a sync failed.
        """
        changes = conn.execute(
            "SELECT id, table_name, key FROM identity_change ORDER BY id LIMIT ?", (MOST_CHANGES,)
        ).fetchall()
        if not changes:
            return 0
        wanted = dict.fromkeys((row[1], row[2]) for row in changes)
        self._append(
            b"".join(_line(table, json.loads(key), _read(conn, table, json.loads(key))) for table, key in wanted)
        )
        return int(changes[-1][0])

    def is_large(self) -> bool:
        size = self._path.stat().st_size if self._path.exists() else 0
        return size > max(LEAST_WHOLE_BYTES, 2 * self._whole_bytes)

    def write_whole(self, conn: Transaction) -> None:
        """Write it again, from what the catalog has in one view. Raises as `write` does."""
        new = self._path.with_suffix(".new")
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            for table, columns in COPIED.items():
                for row in conn.execute(f"SELECT {_columns(table)} FROM {table}{_KEPT.get(table, '')}"):
                    file.write(_line(table, [row[each] for each in columns], _as_copied(row)))
            file.flush()
            sync_fd(file.fileno(), new)
        os.rename(new, self._path)
        sync_path(self._path.parent)
        self._whole_bytes = self._path.stat().st_size

    def _append(self, text: bytes) -> None:
        is_new = not self._path.exists()
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(fd).st_size
            torn = b"\n" if size and os.pread(fd, 1, size - 1) != b"\n" else b""
            if os.write(fd, torn + text) != len(torn) + len(text):
                raise StorageFull(f"{self._path} cannot grow: the disk is full")
            sync_fd(fd, self._path)
        finally:
            os.close(fd)
        if is_new:
            sync_path(self._path.parent)


#: A sender that has not seen an acknowledgement sends the message again within this time.
AGAIN_SECONDS = 3 * 86400
_IS_OPEN = "state = 'parked' OR id IN (SELECT message_id FROM hl7_relay WHERE state IN ('waiting', 'held'))"
#: What is left out of a file that is written whole.
_KEPT = {
    "hl7_message": f" WHERE {_IS_OPEN} OR state IN ('applied', 'unchanged', 'discarded')"
    f" AND received_at > (SELECT max(received_at) FROM hl7_message) - {AGAIN_SECONDS}",
    "hl7_relay": " WHERE state IN ('waiting', 'held')",
}


def forget_copied(conn: Transaction, last: int) -> None:
    conn.execute("DELETE FROM identity_change WHERE id <= ?", (last,))


def read_copy(data_dir: Path) -> dict[str, dict[RowKey, SalvagedRow | None]]:
    """The last line of each row, by table and primary key; None: it was deleted."""
    found: dict[str, dict[RowKey, SalvagedRow | None]] = {table: {} for table in COPIED}
    for table, key, row in _read_lines(data_dir / IDENTITY_FILE):
        if table in found:
            found[table][tuple(key)] = row
    return found


def choose_rows(
    table: str,
    salvaged: Iterator[SalvagedRow],
    copied: Mapping[RowKey, SalvagedRow | None],
    changed: set[tuple[str, str]],
) -> list[SalvagedRow]:
    """The rows of a table: what a damaged catalog still has where it was not copied yet, else the copy's."""
    columns = COPIED[table]
    found: dict[RowKey, SalvagedRow | None] = {}
    for row in salvaged:
        found[tuple(row.get(each) for each in columns)] = row
    for key, copy in copied.items():
        if key not in found or (table, json.dumps(key, separators=(",", ":"), ensure_ascii=False)) not in changed:
            found[key] = _with_body(copy, found.get(key))
    rows = [row for row in found.values() if row is not None]
    if table == "known_patient":  # one that is merged refers to a row that may come later
        rows.sort(key=lambda row: row.get("survivor_id") is not None)
    return rows


def _with_body(copy: SalvagedRow | None, salvaged: SalvagedRow | None) -> SalvagedRow | None:
    if copy is None or salvaged is None or copy.get("body", b"") is not None:
        return copy
    return copy | {"body": salvaged["body"]}


def _read(conn: Transaction, table: str, key: list[Any]) -> SalvagedRow | None:
    condition = " AND ".join(f"{each} = ?" for each in COPIED[table])
    row = conn.execute(f"SELECT {_columns(table)} FROM {table} WHERE {condition}", key).fetchone()
    return _as_copied(row) if row is not None else None


def _columns(table: str) -> str:
    return f"*, ({_IS_OPEN}) AS is_open" if table == "hl7_message" else "*"


def _as_copied(found: Mapping[str, Any]) -> SalvagedRow:
    """The bytes of a message go along as long as something waits for them."""
    row = dict(found)
    if not row.pop("is_open", True):
        row["body"] = None
    return row


def _line(table: str, key: list[Any], row: SalvagedRow | None) -> bytes:
    plain = row and {name: {"hex": value.hex()} if isinstance(value, bytes) else value for name, value in row.items()}
    return json.dumps([table, key, plain], separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _read_lines(path: Path) -> Iterator[tuple[str, list[Any], SalvagedRow | None]]:
    if not path.exists():
        return
    with path.open("rb") as file:
        for line in file:
            try:
                table, key, row = json.loads(line)
                made = row and {n: bytes.fromhex(v["hex"]) if isinstance(v, dict) else v for n, v in row.items()}
            except (ValueError, TypeError, KeyError, AttributeError):
                continue  # torn by a crash, or damaged
            yield table, key, made
