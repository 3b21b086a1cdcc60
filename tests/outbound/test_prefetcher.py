"""When earlier studies are fetched at all: what is more important, what is full, what nobody wants any more."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.dicom.items import Attributes, item
from edge.model import Disk
from edge.outbound.prefetch import Prefetcher
from edge.store import prefetch, worklist
from edge.store.prefetch import PrefetchRequest, PriorStudy
from tests.support.filled import CONFIG, Filled

RULES = '[prefetch.ct]\nfrom = "archive"\n'
LEVEL, SERIES_UID, SOP_UID = 0x00080052, 0x0020000E, 0x00080018
HALF_FULL, FULL = Disk(100, 50), Disk(100, 19)
REQUEST = PrefetchRequest("ct", "archive", "key", "1.2.0", "P1", "Doe^Jane", "19700101", "20260102101500")


class Site:
    """A prefetcher that notes what it would ask and fetch."""

    def __init__(self, filled: Filled) -> None:
        self.filled, self.disk, self.done = filled, HALF_FULL, list[str]()
        given: Any = (lambda _: None, None, lambda: True, lambda: 1000.0)
        self.prefetcher = Prefetcher(filled.db, lambda: filled.config, lambda: self.disk, *given)
        self.prefetcher._choose = lambda _, request: self.done.append(request.study_uid)  # type: ignore[method-assign]
        self.prefetcher._fetch = lambda _, study: self.done.append(study.study_uid)  # type: ignore[method-assign]
        self.prefetcher._plan = lambda _: self.planned.append(1)  # type: ignore[method-assign]
        self.planned: list[int] = []
        self.want(REQUEST)

    def want(self, *requests: PrefetchRequest) -> None:
        self.filled.db.write(lambda conn: prefetch.note_requests(conn, requests, 1.0))

    def step(self) -> list[str]:
        self.done.clear()
        self.prefetcher.step()
        return self.done


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Filled(tmp_path, CONFIG + RULES) as filled:
        yield Site(filled)


def test_the_worklist_is_read_when_it_has_changed(site: Site) -> None:
    site.step()
    site.step()
    assert len(site.planned) == 1
    site.filled.db.write(lambda conn: worklist.replace_items(conn, "", [], 1.0))
    site.step()
    site.step()
    assert len(site.planned) == 2


def test_nothing_is_asked_while_urgent_work_waits(site: Site) -> None:
    assert site.step() == ["1.2.0"]
    site.filled.receive(1, StudyDescription="A STROKE")  # goes to be read at once
    assert site.step() == []
    site.filled.settle("teleread", 1)
    assert site.step() == ["1.2.0"]


def test_routine_work_holds_nothing_up(site: Site) -> None:
    site.filled.receive(3)
    assert site.step() == ["1.2.0"]


def test_nothing_is_asked_above_the_mark_of_the_disk(site: Site) -> None:
    site.disk = FULL
    assert site.step() == []
    site.disk = HALF_FULL
    assert site.step() == ["1.2.0"]


def test_an_archive_that_is_away_is_not_asked(site: Site) -> None:
    site.filled.execute("INSERT INTO destination (name, state, since) VALUES ('archive', 'down', 1.0)")
    assert site.step() == []


def test_an_appointment_that_goes_takes_its_studies_with_it(site: Site) -> None:
    with site.filled.db.reading() as conn:
        request = prefetch.next_request(conn, 2.0, ())
    assert request is not None
    site.filled.db.write(lambda conn: prefetch.note_chosen(conn, request, [PriorStudy("1.9", 5)], 2.0))
    assert site.step() == ["1.9"]
    site.want()  # the list is without the appointment
    assert site.step() == []
    site.want(REQUEST)
    assert site.step() == ["1.2.0"], "it is there again, and the archive is asked again"


def test_what_was_fetched_is_not_fetched_again_until_the_archive_has_more(site: Site) -> None:
    with site.filled.db.reading() as conn:
        request = prefetch.next_request(conn, 2.0, ())
    assert request is not None
    for count, wanted in ((5, ["1.9"]), (5, []), (6, ["1.9"])):
        prior = [PriorStudy("1.9", count)]
        site.filled.db.write(lambda conn, p=prior: prefetch.note_chosen(conn, request, p, 2.0))  # type: ignore[misc]
        assert site.step() == wanted, count
        site.filled.execute("UPDATE prefetch_study SET state = 'fetched'")


class Listing:
    """An archive that has one series of three images."""

    def find(self, keys: Attributes) -> Iterator[Attributes]:
        uids = ["1.3"] if keys.text(LEVEL) == "SERIES" else ["1.4", "1.5", "1.6"]
        tag = SERIES_UID if keys.text(LEVEL) == "SERIES" else SOP_UID
        return (item({tag: uid}) for uid in uids)


def test_neither_what_is_here_nor_what_a_note_hides_is_fetched(site: Site) -> None:
    site.filled.receive(1, SOPInstanceUID="1.4")
    site.filled.execute("INSERT INTO rejected_instance VALUES ('1.5', '113037', '1.7', 1, 1)")
    archive: Any = Listing()
    assert [each.sop_instance_uid for each in site.prefetcher._missing(archive, "1.2")] == ["1.6"]
