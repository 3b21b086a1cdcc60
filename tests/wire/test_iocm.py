"""Rejection notes: they never overtake what they name, take back what has not left, hide, and keep out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.dicom.commitment_data import AskedCommitment
from edge.journal.kinds.commitment_request import CommitmentRequest
from edge.model import Origin, ReasonCode
from edge.outbound.commitment_reports.outcome import decide_outcome
from edge.outbound.job import Leased
from edge.outbound.scheduler import DeliveryScheduler
from edge.store import (
    commitment_requests,
    held,
    leases,
    operator_actions,
    queried,
    queries,
    rejection_notes,
    studies,
    undecided,
)
from tests.support.committing import CT_CLASS
from tests.support.gateway import CONFIG, Receiving
from tests.support.objects import ct_files, rejection_note, sop_instance_uid
from tests.support.peers import storescu
from tests.support.querying import final_status

QUALITY, SAFETY, WORKLIST, RETENTION = "113001", "113037", "113038", "113039"


class Rejecting:
    """A gateway that forwards nothing, three images, and a note about two of them."""

    def __init__(self, edge: Receiving, folder: Path) -> None:
        self.edge, self.folder = edge, folder
        self.images = ct_files(folder / "ct", 3, 20_000)
        self.uids = [sop_instance_uid(each) for each in self.images]

    def send(self, *files: Path) -> None:
        storescu(list(files), self.edge.port)
        self.edge.settle()

    def note(self, code: str, count: int = 2) -> Path:
        return rejection_note(self.folder / f"note-{code}-{count}.dcm", self.images[:count], code)

    def states(self) -> list[tuple[Any, ...]]:
        """(state, reason) of the images' deliveries in order, the notes' last."""
        rows = self.edge.rows(
            "SELECT i.sop_instance_uid, d.state, d.reason_code FROM delivery d JOIN instance i ON i.id = d.instance_id"
            " ORDER BY i.id"
        )
        images = {row[0]: row[1:] for row in rows if row[0] in self.uids}
        return [images[uid] for uid in self.uids if uid in images] + [r[1:] for r in rows if r[0] not in self.uids]

    def lease(self) -> list[str]:
        """What a sender gets now, and has then sent."""

        def take(conn: Any) -> list[str]:
            found = leases.lease(conn, "archive", "here", 1.0, 100, 1 << 30)
            for each in found:
                conn.execute("UPDATE delivery SET state = 'sent', sent_at = 1 WHERE id = ?", (each.delivery_id,))
            return [each.sop_instance_uid for each in found]

        return self.edge.db.write(take)

    def visible(self, states: tuple[str, ...] = queried.STORED_HERE) -> int:
        """How many images a query finds; WADO-RS gives those of them that are here."""
        with self.edge.db.reading() as conn:
            studies = [row[0] for row in conn.execute("SELECT id FROM study")]
            uids = [row[0] for row in conn.execute("SELECT study_uid FROM study")]
            series = [row for each in queried.read_studies(conn, studies, states) for row in each.series.values()]
            found = queried.list_instances_of(conn, [n for each in series for n in each.row_ids], states)
            given = [each.sop_instance_uid for uid in uids for each in held.find_held(conn, uid)]
        if states == queried.STORED_HERE:
            assert sorted(uid for uid, _ in found) == sorted(given)
        return sum(uid in self.uids for uid, _ in found)


def store(edge: Receiving, image: Path) -> str:
    """The status that a sender gets."""
    done = storescu([image], edge.port, "-d", check=False)
    return final_status(done.stdout + done.stderr)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Rejecting]:
    with Receiving(tmp_path, CONFIG) as edge:
        edge.intake.may_reject = lambda origin: origin.calling_ae == "CT1"
        yield Rejecting(edge, tmp_path)


def test_a_note_is_sent_behind_all_that_it_names(site: Rejecting) -> None:
    site.send(*site.images)
    site.send(site.note(QUALITY))
    assert site.states()[-1] == ("deferred", "awaits-images")
    site.edge.db.write(lambda conn: conn.execute("UPDATE delivery SET state = 'pending' WHERE state = 'deferred'"))
    assert set(site.lease()) == set(site.uids), "the note is not among them, even when it is due"
    (note,) = site.lease()
    assert note not in site.uids


def test_a_note_that_broke_an_association_is_not_asked_for_again_and_again(site: Rejecting) -> None:
    """While it waits for images it is not due, so the loop that leases rests."""
    site.send(*site.images)
    site.send(site.note(QUALITY))
    suspect = "UPDATE delivery SET breaks = 1, broke_at = 0, not_before = 0 WHERE state = 'deferred'"
    site.edge.db.write(lambda conn: conn.execute(suspect))
    table = DeliveryScheduler("archive", monotonic=lambda: 1000.0)
    asked = 0
    while asked < 10 and (batch := table.next_batch()).suspect:
        with site.edge.db.reading() as conn:
            found = leases.lease_suspect(conn, "archive", "here", batch.at)
            table.finish_batch(batch, Leased((), suspect=found, next_suspect=leases.next_suspect(conn, "archive")))
        asked += 1
    assert asked == 1


def test_a_held_image_holds_its_note_with_the_reason(site: Rejecting) -> None:
    site.send(*site.images)
    site.edge.db.write(
        lambda conn: conn.execute("UPDATE delivery SET state = 'held', reason_code = 'refused' WHERE instance_id = 1")
    )
    site.send(site.note(QUALITY))
    site.lease()
    site.edge.db.write(lambda conn: rejection_notes.settle_waiting_notes(conn, 5.0))
    assert site.lease() == []
    ((parameters,),) = site.edge.rows("SELECT reason_parameters FROM delivery WHERE reason_code = 'awaits-images'")
    assert parameters == '{"held":1,"waiting":1}'


@pytest.mark.parametrize("code", [SAFETY, WORKLIST])
def test_what_has_not_left_is_taken_back_with_its_note(site: Rejecting, code: str) -> None:
    site.send(*site.images)
    site.send(site.note(code))
    cancelled = ("cancelled", "cancelled")
    assert site.states() == [cancelled, cancelled, ("pending", ""), cancelled]
    assert site.lease() == [site.uids[2]], "what the note does not name goes"
    words = site.edge.rows("SELECT event, words(event, detail, payload) FROM ledger WHERE event = 'cancelled'")
    assert len(words) == 1
    assert "withdrawn by rejection note" in words[0][1]


def test_once_something_has_left_the_rest_goes_and_then_the_note(site: Rejecting) -> None:
    site.send(site.images[0])
    assert site.lease() == [site.uids[0]]
    site.send(*site.images[1:])
    site.send(site.note(SAFETY))
    assert [state for state, _ in site.states()] == ["sent", "pending", "pending", "deferred"]
    assert set(site.lease()) == set(site.uids[1:])
    site.edge.db.write(lambda conn: conn.execute("UPDATE delivery SET state = 'pending' WHERE state = 'deferred'"))
    assert len(site.lease()) == 1


@pytest.mark.parametrize(("code", "left"), [(QUALITY, 1), (SAFETY, 1), (WORKLIST, 1), (RETENTION, 1)])
def test_what_is_rejected_is_not_found_any_more(site: Rejecting, code: str, left: int) -> None:
    site.send(*site.images)
    assert site.visible() == 3
    site.send(site.note(code))
    assert site.visible() == left


def test_quality_may_stay_in_use(tmp_path: Path) -> None:
    with Receiving(tmp_path, CONFIG + '[iocm]\nquality = "show"\n') as edge:
        edge.intake.may_reject = lambda _: True
        site = Rejecting(edge, tmp_path)
        site.send(*site.images)
        site.send(site.note(QUALITY))
        assert site.visible() == 3


def test_a_note_before_its_images_applies_when_they_come(site: Rejecting) -> None:
    site.send(site.note(SAFETY))
    site.send(*site.images)
    assert site.visible() == 1
    assert [state for state, _ in site.states()[:3]] == ["cancelled", "cancelled", "pending"]


def test_what_comes_again_is_kept_out_or_let_in_by_its_code(site: Rejecting) -> None:
    site.send(*site.images)
    site.lease()
    site.send(site.note(SAFETY, 1))
    site.send(site.note(RETENTION, 2))
    assert site.visible() == 1
    site.send(*site.images)
    assert site.visible() == 3, "retention is stronger than safety, and what it names may come again"
    site.send(site.note(WORKLIST, 1))
    site.send(*site.images)
    assert site.visible() == 2, "a wrong entry may not"


def test_a_weaker_note_does_not_undo_a_stronger_one(site: Rejecting) -> None:
    site.send(*site.images)
    site.send(site.note(SAFETY))
    site.send(site.note(QUALITY))
    assert {row[0] for row in site.edge.rows("SELECT code FROM rejected_instance")} == {SAFETY}


def test_a_sender_that_may_not_reject_rejects_nothing(site: Rejecting) -> None:
    site.edge.intake.may_reject = lambda _: False
    site.send(*site.images)
    site.send(site.note(SAFETY))
    assert site.visible() == 3
    assert site.states()[-1] == ("held", "note-not-allowed")
    assert [state for state, _ in site.states()[:3]] == ["pending"] * 3
    assert len(site.lease()) == 3


def test_a_note_that_a_person_releases_takes_effect(site: Rejecting) -> None:
    """It hides, and takes back what has not left, as if its sender were allowed to send it."""
    site.edge.intake.may_reject = lambda _: False
    site.send(*site.images)
    site.send(site.note(SAFETY))
    (note,) = [row[0] for row in site.edge.rows("SELECT id FROM delivery WHERE reason_code = 'note-not-allowed'")]
    with site.edge.db.reading() as conn:
        found = queries.delivery(conn, note)
        assert found is not None
        assert f'`edge queue release {note} --reason "..."` lets the note hide' in undecided.remedy(found)
        assert not undecided.is_undecided(queries.list_object_versions(conn, found.instance_id)[0])
    assert "edge queue release ID" in undecided.decided_by(ReasonCode.NOTE_NOT_ALLOWED)
    done = site.edge.db.write(lambda conn: operator_actions.release(conn, [note], 9.0, "anna", "asked", named=False))
    assert done.count == 1
    assert site.visible() == 1
    assert [state for state, _ in site.states()] == ["cancelled", "cancelled", "pending", "cancelled"]
    rows = site.edge.rows("SELECT who, study_id FROM ledger WHERE event = 'rejected' ORDER BY seq")
    assert [who for who, _ in rows] == ["CT1", "anna"]
    assert {study for _, study in rows} == {1}, "the custody of the study has them"


def test_what_is_rejected_is_not_counted_and_is_marked(site: Rejecting) -> None:
    site.send(*site.images)
    site.send(site.note(QUALITY))
    with site.edge.db.reading() as conn:
        (study, *_) = [each for each in studies.latest_studies(conn, "", 0.0).read() if each.rejected]
        found = queries.instances_of(conn, study.id)
    assert (study.rejected, "2 rejected" in study.marks) == (2, True)
    assert study.instances == len(found) - 2
    assert [each.marks for each in found if each.sop_instance_uid == site.uids[0]] == [["rejected for its quality"]]


def test_commitment_to_what_is_rejected_stays_true(site: Rejecting) -> None:
    """The bytes are held, whoever may see them."""
    site.send(*site.images)
    site.send(site.note(SAFETY))
    asked = AskedCommitment("2.25.7", dict.fromkeys(site.uids, (CT_CLASS,)))
    request = CommitmentRequest("2.25.7", "", Origin("CT1", "EDGE", "127.0.0.1", 1.0), "any")
    site.edge.db.write(lambda conn: commitment_requests.enter_request(conn, "asked", request, asked))
    with site.edge.db.reading() as conn:
        (due,) = commitment_requests.list_due_requests(conn, 2.0)
        named = commitment_requests.read_named_instances(conn, due.id)
    outcomes = [decide_outcome(each, due, "local", is_awaited=False, is_overdue=False).failure for each in named]
    assert outcomes == [0, 0, 0]


def test_what_was_evicted_is_rejected_as_well(site: Rejecting) -> None:
    """An archive has it: it is found no more there than here."""
    site.send(*site.images)
    site.edge.db.write(lambda conn: conn.execute("UPDATE instance SET state = 'evicted'"))
    assert site.visible(queried.HERE_AND_THERE) == 3
    site.send(site.note(SAFETY))
    assert site.visible(queried.HERE_AND_THERE) == 1


@pytest.mark.parametrize(("again", "status"), [("hide", 0), ("refuse", 0x0124)])
@pytest.mark.parametrize("code", [SAFETY, WORKLIST])
def test_what_is_forbidden_is_hidden_or_refused_when_it_comes_again(
    tmp_path: Path, again: str, status: int, code: str
) -> None:
    with Receiving(tmp_path, CONFIG + f'[iocm]\nagain = "{again}"\n') as edge:
        edge.intake.may_reject = lambda _: True
        site = Rejecting(edge, tmp_path)
        site.send(*site.images)
        site.send(site.note(code))
        assert store(edge, site.images[0]) == f"{status:04x}"
        assert store(edge, site.images[2]) == "0000", "what no note names is taken"
        edge.settle()
        assert site.visible() == 1


def test_what_is_expired_may_come_again_where_others_are_refused(tmp_path: Path) -> None:
    with Receiving(tmp_path, CONFIG + '[iocm]\nagain = "refuse"\n') as edge:
        edge.intake.may_reject = lambda _: True
        site = Rejecting(edge, tmp_path)
        site.send(*site.images)
        site.send(site.note(RETENTION))
        site.send(*site.images)
        assert site.visible() == 3


def test_a_note_survives_a_crash_and_is_applied_once(site: Rejecting) -> None:
    site.send(*site.images)
    site.edge.applier.apply = _hindered  # type: ignore[method-assign]
    storescu([site.note(QUALITY)], site.edge.port)
    site.edge.crash()
    site.edge.restart()
    assert site.edge.rows("SELECT count(*) FROM rejection_reference") == [(2,)]


def _hindered(*_: object) -> None:
    raise MemoryError
