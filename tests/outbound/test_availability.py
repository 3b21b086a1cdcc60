"""Instance Availability Notification: of what, and when it may be said."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.outbound.steps.availability import MOST_EXAMINED, Availability, choose_announced
from edge.store import step_images
from edge.store.step_images import NotificationWait, ProvedInstance
from tests.support.filled import CONFIG, Filled

TO_BOTH = CONFIG.replace('to = ["archive"]', 'to = ["archive", "teleread"]') + '[mpps]\nian = ["archive"]\n'
KEPT = ("archive", "1.2.3", False)
HOURS = 3600.0


def enter_step(filled: Filled, number: int) -> int:
    filled.execute(
        "INSERT INTO performed_step (id, sop_instance_uid, state, digest, calling_ae, called_ae, address,"
        " modality_name, station_ae, modality, step_id, study_uid, accession_number, created_at, ended_at, notify)"
        " VALUES (?, '1.9.' || ?, 'COMPLETED', x'', 'CT1', 'EDGE', '', '', '', '', '', '1.2.3', '', 1, 1, 1)",
        number,
        number,
    )
    return number


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    """One image, which a performed step names, and which two destinations get."""
    with Filled(tmp_path_factory.mktemp("proved"), TO_BOTH) as made:
        made.receive(1, StudyInstanceUID="1.2.3")
        enter_step(made, 1)
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
        ({"archive": "confirmed", "teleread": "held"}, {}, KEPT),
        ({"archive": "held", "teleread": "cancelled"}, {}, ("", "1.2.3", False)),
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


def proved(uid: str, kept_by: str = "", *, is_open: bool = False, is_held: bool = False) -> ProvedInstance:
    return ProvedInstance("1.2.3", "1.3", "1.1", uid, kept_by, is_open, is_held)


PROVED, OPEN, HELD = proved("1", "archive"), proved("2", is_open=True), proved("3", is_held=True)


@pytest.mark.parametrize(
    ("found", "missing", "is_late", "announced"),
    [
        ([PROVED], 0, False, [PROVED]),
        ([PROVED], 1, False, []),
        ([PROVED], 1, True, [PROVED]),
        ([PROVED, OPEN], 0, True, []),
        ([PROVED, HELD], 0, False, []),
        ([PROVED, HELD], 0, True, [PROVED]),
        ([HELD], 0, True, []),
    ],
)
def test_when_an_announcement_may_be_made(
    found: list[ProvedInstance], missing: int, is_late: bool, announced: list[ProvedInstance]
) -> None:
    assert choose_announced(found, missing, is_late=is_late) == announced


def test_what_a_person_decides_late_is_announced_then(tmp_path: Path) -> None:
    """Two images of which one is held: what is proved is announced after a while, and both when the other is as well.

    Steps before it of which nothing is proved hold nothing up, however many they are.
    """
    with Filled(tmp_path, TO_BOTH) as made:
        made.receive(2, StudyInstanceUID="1.2.3")
        for number in range(1, MOST_EXAMINED + 2):
            enter_step(made, number)
        made.execute("INSERT INTO performed_instance SELECT id, '1.2', '1.1', '1.3' FROM performed_step")
        made.execute("UPDATE instance SET sop_instance_uid = '1.2' WHERE id = 1")
        last = enter_step(made, MOST_EXAMINED + 2)
        made.execute(f"INSERT INTO performed_instance SELECT {last}, sop_instance_uid, '1.1', '1.3' FROM instance")
        made.execute("UPDATE delivery SET state = iif(instance_id = 1, 'held', 'confirmed')")
        clock = [1.0]
        availability = Availability(made.db, lambda: made.config, lambda: clock[0], lambda: clock[0])

        def announced() -> list[tuple[int, int]]:
            for _ in range(3):
                clock[0] += 2.0
                availability.step()
            with made.db.reading() as conn:
                sql = "SELECT step_id, record FROM step_message WHERE kind = 'available' ORDER BY id"
                return [(row[0], int(row[1].split()[-1])) for row in conn.execute(sql)]

        assert announced() == []
        clock[0] += 3 * HOURS
        assert announced() == [(last, 1)]
        assert announced() == [(last, 1)], "once"
        with made.db.reading() as conn:
            assert step_images.find_notification_wait(conn, last) == NotificationWait(missing=0, open=0, held=1)
        made.execute("UPDATE delivery SET state = 'confirmed'")
        assert (last, 2) in announced()
        assert made.one("SELECT count(*) FROM performed_step WHERE notify = 1") == 0


def test_what_a_note_has_rejected_is_not_announced_and_holds_nothing_up(filled: Filled) -> None:
    filled.execute("UPDATE delivery SET state = 'confirmed'")
    filled.execute("INSERT INTO rejected_instance SELECT sop_instance_uid, '113037', '1.7', 1, 1 FROM instance")
    with filled.db.reading() as conn:
        assert step_images.list_proved_instances(conn, 1) == []
