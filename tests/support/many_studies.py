"""Rows of many studies, written straight into a catalog: what a million studies are, without their files."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from edge.storage.scrub import KEY, Place
from edge.store import gateway_values, header_progress
from edge.store.database import Transaction
from edge.text import fold_name

_FIRST, _LAST = ("Ab", "Be", "Ca", "Do", "Em", "Fi", "Ga", "Ha"), ("ler", "man", "son", "dal", "ton")
SURNAMES = [first + last for first in _FIRST for last in _LAST]
_TABLES = {
    "patient": "id, patient_id, issuer, name, birth_date, sex, responsible_person, folded_name",
    "study": "id, study_uid, patient_id, patient_name, accession, study_date, description, modality, first_received,"
    " last_received",
    "study_patient": "study_id, patient_key, standing, first_at",
    "study_facts": "id, study_id, patient_key, accession, study_date, study_time, study_number, description,"
    " referring_physician",
    "series": "id, study_facts_id, series_uid, modality, series_number, description, body_part",
    "instance": "id, sop_instance_uid, sha256, kind_id, study_id, series_uid, state, path, size, dataset_offset,"
    " calling_ae, called_ae, address, received_at, series_id, instance_number",
}


def date_of(number: int) -> str:
    """Twenty years, of twelve months with 28 days."""
    day, rest = number % 28, number // 28
    return f"{2006 + rest // 12 % 20}{rest % 12 + 1:02}{day + 1:02}"


def rows_of(number: int) -> Iterator[tuple[str, tuple[Any, ...]]]:
    name = f"{SURNAMES[number % len(SURNAMES)]}^{SURNAMES[number // 7 % len(SURNAMES)]}{number % 1000}"
    # They have no files: what came after its start a gateway does not look for in the spool.
    who, when, at = f"P{number:07}", date_of(number), 4.0e9 + number
    yield "patient", (number, who, "", name, "19700101", "O", "", fold_name(name))
    yield "study", (number, f"1.2.3.{number}", who, name, f"A{number:07}", when, "Thorax", "CT", at, at)
    yield "study_patient", (number, number, "agrees", at)
    yield "study_facts", (number, number, number, f"A{number:07}", when, "101500", "1", "Thorax", "")
    yield "series", (number, number, f"1.2.4.{number}", "CT", "1", "", "CHEST")
    digest = number.to_bytes(32, "big")
    fields = (number, f"1.2.5.{number}", digest, 1, number, f"1.2.4.{number}", "stored", f"x/{number}", 1000, 500)
    yield "instance", (*fields, "CT1", "EDGE", "10.0.0.1", at, number, "1")


def fill_catalog(conn: Transaction, count: int) -> None:
    """Studies 1 to `count`, each of one instance."""
    conn.execute("INSERT INTO kind VALUES (1, '1.2.840.10008.5.1.4.1.1.2', '1.2.840.10008.1.2.1')")
    inserts = {
        table: f"INSERT INTO {table} ({columns}) VALUES ({', '.join('?' * len(columns.split(',')))})"
        for table, columns in _TABLES.items()
    }
    for begin in range(1, count + 1, 20_000):
        batch: dict[str, list[tuple[Any, ...]]] = {table: [] for table in _TABLES}
        for number in range(begin, min(begin + 20_000, count + 1)):
            for table, row in rows_of(number):
                batch[table].append(row)
        for table, rows in batch.items():
            conn.executemany(inserts[table], rows)
    # There is nothing to read of them: neither headers nor bytes.
    header_progress.keep_place(conn, count)
    now = time.time()
    gateway_values.remember(conn, KEY, json.dumps(asdict(Place(now, finished_at=now))))
