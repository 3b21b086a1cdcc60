"""Instance Availability Notification: of what, and when it may be said."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from edge.store import step_images
from tests.support.filled import CONFIG, Filled

TO_BOTH = CONFIG.replace('to = ["archive"]', 'to = ["archive", "teleread"]')
KEPT = ("archive", "1.2.3", False)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """One image, which a performed step names, and which two destinations get."""
    with Filled(tmp_path_factory.mktemp("proved"), TO_BOTH) as made:
        made.receive(1, StudyInstanceUID="1.2.3")
        made.execute(
            "INSERT INTO performed_step (id, sop_instance_uid, state, digest, calling_ae, called_ae, address,"
            " modality_name, station_ae, modality, step_id, study_uid, accession_number, created_at)"
            " VALUES (1, '1.9', 'COMPLETED', x'', 'CT1', 'EDGE', '', '', '', '', '', '1.2.3', '', 1)"
        )
        made.execute(
            "INSERT INTO performed_instance SELECT 1, i.sop_instance_uid, k.sop_class_uid, i.series_uid"
            " FROM instance i JOIN kind k ON k.id = i.kind_id"
        )
        yield made


@pytest.mark.parametrize(
    ("states", "sent", "expected"),
    [
        ({"archive": "confirmed", "teleread": "confirmed"}, {}, KEPT),
        ({"archive": "confirmed", "teleread": "cancelled"}, {}, KEPT),
        ({"archive": "confirmed", "teleread": "held"}, {}, ("archive", "1.2.3", True)),
        ({"archive": "sent", "teleread": "confirmed"}, {}, ("teleread", "1.2.3", True)),
        ({"archive": "confirmed", "teleread": "confirmed"}, {"teleread": ("9.9", "9.8")}, KEPT),
        ({"archive": "confirmed", "teleread": "confirmed"}, {"archive": ("9.9", "9.8")}, ("teleread", "1.2.3", False)),
        ({"archive": "cancelled", "teleread": "confirmed"}, {"teleread": ("9.9", "9.8")}, None),
        ({"archive": "cancelled", "teleread": "cancelled"}, {}, None),
        ({"archive": "pending", "teleread": "cancelled"}, {}, ("", "1.2.3", True)),
        ({"archive": "confirmed", "teleread": "confirmed"}, {"archive": ("", "1.2.7")}, ("archive", "1.2.7", False)),
    ],
)
def test_what_is_proved_is_named_as_the_archive_has_it(
    filled: Filled, states: dict[str, str], sent: dict[str, tuple[str, str]], expected: tuple[str, str, bool] | None
) -> None:
    """A copy without identity, under UIDs of its own, is no proof of the image; a result has its study's own UID."""
    filled.execute("DELETE FROM sent_copy")
    for name, state in states.items():
        filled.execute("UPDATE delivery SET state = ? WHERE destination = ?", state, name)
    for name, uids in sent.items():
        filled.execute(
            "INSERT INTO sent_copy (delivery_id, instance_id, at, sha256, transfer_syntax_uid, sop_instance_uid,"
            " study_uid, received_bytes, bytes) SELECT id, instance_id, 1, x'', '', ?, ?, 1, 1 FROM delivery"
            " WHERE destination = ?",
            *(*uids, name),
        )
    with filled.db.reading() as conn:
        found = step_images.list_proved_instances(conn, 1)
    assert [(each.kept_by, each.study_uid, each.is_open) for each in found] == ([expected] if expected else [])


def test_what_a_note_has_rejected_is_not_announced_and_holds_nothing_up(filled: Filled) -> None:
    filled.execute("UPDATE delivery SET state = 'confirmed'")
    filled.execute("INSERT INTO rejected_instance SELECT sop_instance_uid, '113037', '1.7', 1, 1 FROM instance")
    with filled.db.reading() as conn:
        assert step_images.list_proved_instances(conn, 1) == []
