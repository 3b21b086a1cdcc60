"""A destination that has a corrected copy does not have what was received: it repairs nothing, and lets nothing go."""

from __future__ import annotations

from pathlib import Path

from edge.store import deliveries, eviction
from tests.support.filled import Filled


def test_a_corrected_copy_is_no_second_original(tmp_path: Path) -> None:
    with Filled(tmp_path) as filled:
        filled.receive(1, StudyDescription="ACUTE STROKE")  # to both destinations
        for name in ("archive", "teleread"):
            filled.settle(name, 1)

        def elsewhere() -> tuple[list[str], int, int]:
            with filled.db.reading() as conn:
                strict, loose = (eviction.oldest_confirmed(conn, 9, corrected=each) for each in (False, True))
                return sorted(deliveries.holders(conn, 1)), len(strict), len(loose)

        assert elsewhere() == (["archive", "teleread"], 1, 1)
        note_copy(filled, "archive", '["demographics"]')
        assert elsewhere() == (["teleread"], 1, 1)
        note_copy(filled, "teleread", "")  # compressed alone: each pixel is there
        assert elsewhere() == (["teleread"], 1, 1)
        note_copy(filled, "teleread", '["institution"]')
        assert elsewhere() == ([], 0, 1)


def note_copy(filled: Filled, destination: str, rules: str) -> None:
    filled.execute(
        "INSERT OR REPLACE INTO sent_copy (delivery_id, instance_id, at, sha256, transfer_syntax_uid, rules,"
        " received_bytes, bytes) SELECT id, 1, 1.0, x'00', '1.2.840.10008.1.2.1', ?, 9, 9 FROM delivery"
        " WHERE destination = ?",
        rules,
        destination,
    )
