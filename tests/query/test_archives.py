"""Archives that are asked beside the catalog: what one costs that does not answer, and what of it is said."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.dicom.items import Attributes, encode_items, item
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from edge.query import archive, merging, server
from edge.query.answering import ARCHIVE_PAUSE_SECONDS, Answering, QueryOutcome
from edge.query.archive import ArchiveQuestion, Archives
from edge.query.asking import AskedQuery
from edge.query.entities import Entity
from edge.query.levels import Level, LevelQuery, read_question, tag_of
from edge.query.located import ALL_HERE, Located
from edge.query.locating import answer_retrieval
from edge.query.matching import PLAIN_RULES
from edge.query.process import answer
from edge.query.server import next_batch
from edge.store.read_only import CatalogReader
from tests.query.test_catalog_answers import identifier
from tests.support.filled import CONFIG as FILLED
from tests.support.filled import Filled
from tests.support.gateway import CONFIG, configuration
from tests.support.peers import wait_until
from tests.support.scripted import ScriptedScp, fall_silent

SOP_INSTANCE, CT = tag_of("SOPInstanceUID"), "1.2.840.10008.5.1.4.1.1.2"
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
    monkeypatch.setattr(archive, "FIRST_ANSWER_SECONDS", 0.5)
    now = [1000.0]
    with ScriptedScp(associations=[fall_silent]) as silent:
        config = configuration(tmp_path, CONFIG + THROUGH.format(port=silent.port))
        archives = Archives(lambda: config, clock=lambda: now[0])
        assert ask(archives) == archive.NO_ANSWER
        wait_until(lambda: archives._asking["vna"] == 0, 20, "its thread has ended")
        assert [ask(archives) for _ in range(3)] == [archive.CIRCUIT_OPEN] * 3
        wait_until(lambda: silent.connections == 1, 20, "it was called once")
        now[0] += archive.AWAY_SECONDS + 1
        assert ask(archives) == archive.NO_ANSWER
        wait_until(lambda: silent.connections == 2, 20, "it was called again")
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


class Knowing:
    """An archive that has answered: it has every image, whatever a note says."""

    name, ae_title, is_done, failure = "vna", "ARCHIVE", True, ""

    def __init__(self, images: list[Attributes]) -> None:
        self._images = images

    def entities(self) -> list[Entity]:
        return [Entity(each, False, (self.ae_title,)) for each in self._images]

    def instances(self) -> list[Located]:
        return [Located(each.text(SOP_INSTANCE), CT, "", archive=self.name) for each in self._images]

    def close(self) -> None: ...


class Silent(Knowing):
    """One that does not answer, and counts how often it is asked whether it has."""

    def __init__(self) -> None:
        super().__init__([])
        self.asked = 0

    @property
    def is_done(self) -> bool:  # type: ignore[override]
        self.asked += 1
        return False


def test_one_that_is_waited_for_costs_no_processor_and_no_turn_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "ANSWER_TURN_SECONDS", 0.5)
    wanted = encode_items(identifier("STUDY", StudyInstanceUID="1.2"), EXPLICIT_VR_LITTLE_ENDIAN)
    with Filled(tmp_path, FILLED + THROUGH.format(port=106)) as filled:
        reader = CatalogReader(filled.data_dir / "catalog.db")
        for what in ("find", "retrieve"):
            silent = Silent()
            answering = Answering(
                reader, lambda: filled.config, lambda: filled.intake.policy.header, None, lambda *_, one=silent: [one]
            )
            question = answer(answering, AskedQuery(what, "STUDY", EXPLICIT_VR_LITTLE_ENDIAN, "EDGE"), wanted)
            assert next_batch(question, 0xFF00).status is None
            assert silent.asked <= 1 + server.ANSWER_TURN_SECONDS / ARCHIVE_PAUSE_SECONDS
            before = silent.asked
            assert next_batch(question, 0xFF00, lambda: True).status is None
            assert silent.asked == before + 1
        reader.close()


def test_what_a_note_hides_here_is_hidden_there_as_well(tmp_path: Path) -> None:
    """Archives that heed no notes, or have not got one yet, have the image; it is neither found nor fetched."""
    keys = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.3"}
    images = [item({SOP_INSTANCE: uid, **{tag_of(each): uid for each, uid in keys.items()}}) for uid in ("1.4", "1.5")]
    with Filled(tmp_path, FILLED + THROUGH.format(port=106)) as filled:
        filled.execute("INSERT INTO rejected_instance VALUES ('1.5', '113037', '1.7', 1, 1)")
        reader = CatalogReader(filled.data_dir / "catalog.db")
        answering = Answering(
            reader, lambda: filled.config, lambda: filled.intake.policy.header, None, lambda *_: [Knowing(images)]
        )
        asked = read_question(identifier("IMAGE", SOPInstanceUID="", **keys), Level.STUDY, is_relational=False)
        found = answering.find(asked, PLAIN_RULES, "STUDY", QueryOutcome())
        assert [each.attributes.text(SOP_INSTANCE) for each in found if each is not None] == ["1.4"]
        wanted = encode_items(identifier("SERIES", **keys), EXPLICIT_VR_LITTLE_ENDIAN)
        retrieval = AskedQuery("retrieve", "STUDY", EXPLICIT_VR_LITTLE_ENDIAN, "EDGE")
        answers = [*answer_retrieval(answering, retrieval, wanted)]
        located = [Located.decode(each) for each in answers if isinstance(each, bytes) and each != ALL_HERE]
        assert [each.sop_instance_uid for each in located] == ["1.4"]
        reader.close()
