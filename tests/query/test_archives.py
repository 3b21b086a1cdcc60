"""Archives that are asked beside the catalog: what one costs that does not answer, and what of it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.dicom.items import Attributes, item
from edge.query import archive, merging
from edge.query.archive import ArchiveQuestion, Archives
from edge.query.entities import Entity
from edge.query.levels import Level, LevelQuery, read_question, tag_of
from tests.query.test_catalog_answers import identifier
from tests.support.gateway import CONFIG, configuration
from tests.support.peers import wait_until
from tests.support.scripted import ScriptedScp, fall_silent

THROUGH = """
[query]
through = ["vna"]
[destination.vna]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = {port}
"""


def question() -> LevelQuery:
    return read_question(identifier("STUDY", PatientID="P1"), Level.STUDY, is_relational=False)


def ask(archives: Archives, down: dict[str, float] | None = None) -> str:
    """Ask once; why there is no answer."""
    (asked,) = archives.ask(question(), "STUDY", down or {}, False)
    wait_until(lambda: asked.is_done, 20, "its budget is used up")
    asked.close()
    return asked.failure


def test_one_that_is_silent_uses_its_budget_once_and_is_not_called_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "FIRST_ANSWER_SECONDS", 0.2)
    now = [1000.0]
    with ScriptedScp(associations=[fall_silent]) as silent:
        config = configuration(tmp_path, CONFIG + THROUGH.format(port=silent.port))
        archives = Archives(lambda: config, clock=lambda: now[0])
        assert ask(archives) == archive.NO_ANSWER
        wait_until(lambda: archives._asking["vna"] == 0, 20, "its thread has ended")
        assert [ask(archives) for _ in range(3)] == [archive.CIRCUIT_OPEN] * 3
        assert silent.connections == 1
        now[0] += archive.AWAY_SECONDS + 1
        assert ask(archives) == archive.NO_ANSWER
        assert silent.connections == 2
        assert ask(archives, down={"vna": 1.0}) == archive.CIRCUIT_OPEN, "the forwarder knows that it is away"
        silent.stopping.set()


def test_only_some_ask_one_archive_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MOST_AT_ONCE", 2)
    with ScriptedScp(associations=[fall_silent]) as silent:
        config = configuration(tmp_path, CONFIG + THROUGH.format(port=silent.port))
        archives = Archives(lambda: config)
        asked = [archives.ask(question(), "STUDY", {}, False)[0] for _ in range(3)]
        assert [each.failure for each in asked] == ["", "", archive.BUSY]
        silent.stopping.set()
        for each in asked:
            if isinstance(each, ArchiveQuestion):
                each._thread.join(60)


INSTANCES = "NumberOfStudyRelatedInstances"


def study(**keys: str) -> Attributes:
    return item({tag_of(keyword): value for keyword, value in keys.items()})


@pytest.mark.parametrize(
    ("here", "there", "undelivered", "count", "is_here"),
    [
        ("3", "3", 0, "3", True),
        ("3", "5", 0, "5", False),  # the larger
        ("3", "", 0, "3", True),  # the archive does not say
        ("3", "many", 0, "3", True),
        ("3", "2", 1, "3", True),  # one is still on its way there
        ("3", "3", 1, "4", False),  # what it has and what it was not sent yet
        ("", "5", 0, "5", False),
    ],
)
def test_counts_are_the_larger_and_say_whether_all_is_here(
    here: str, there: str, undelivered: int, count: str, is_here: bool
) -> None:
    ours, theirs = Entity(study(**{INSTANCES: here})), Entity(study(**{INSTANCES: there}), False, ("VNA",))
    found = merging.complete(ours, theirs, undelivered)
    assert (found.attributes.text(tag_of(INSTANCES)), found.is_here) == (count, is_here)
    assert found.retrieve_from == ("VNA",)


def test_the_cache_wins_and_the_archive_completes_it() -> None:
    ours = Entity(study(PatientName="Doe^Jane", StudyDescription="", ModalitiesInStudy="CT"))
    theirs = Entity(study(PatientName="OLD^NAME", StudyDescription="Thorax", ModalitiesInStudy="CT\\SR"), False)
    found = merging.complete(ours, theirs).attributes
    assert found.text(tag_of("PatientName")) == "Doe^Jane"
    assert found.text(tag_of("StudyDescription")) == "Thorax"
    assert found[tag_of("ModalitiesInStudy")].values == ("CT", "SR")
