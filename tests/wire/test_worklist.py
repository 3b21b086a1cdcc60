"""The worklist from its source to a modality, with DCMTK at both ends."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from edge.config.sections import Calendar
from edge.dicom import items, pdu
from edge.dicom.command import DATA_SET, Element
from edge.dicom.dialogue import Deadline, Dialogue
from edge.dicom.items import Attributes, ElementValue
from edge.dicom.scu import Peer, Secure
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN
from edge.outbound import worklist as outbound_worklist
from edge.outbound.worklist import WorklistKeeper, store_list, views_of
from edge.query.worklist import WorklistItem, find_items, split_steps
from edge.scp.services import worklist, worklist_source
from edge.scp.services.service import CALLER_LEAVES
from edge.store.database import Transaction, insert_row
from tests.support.gateway import CONFIG, Receiving
from tests.support.peers import absent, free_port
from tests.support.performing import CREATED, ended, send_step
from tests.support.worklists import EXAMPLES, ITEMS, WorklistScp, find
from tests.wire.test_dialogue import REQUEST, dialogue_with

MODALITIES = """
[modality.ct1]
ae_title = "CT1"
services = ["echo", "worklist", "mpps"]
[modality.mr1]
ae_title = "MR1"
services = ["echo", "worklist"]
[modality.plain]
ae_title = "PLAIN"
[destination.ris]
ae_title = "RIS"
host = "127.0.0.1"
port = {port}
[worklist]
from = "ris"
refresh = "60s"
"""
STEP = "ScheduledProcedureStepSequence[0]."
NOON = datetime(2026, 1, 2, 12, tzinfo=timezone.utc).timestamp()


class Clock:
    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Site:
    """A gateway with a worklist whose clock the test has."""

    def __init__(self, edge: Receiving, ris: WorklistScp, clock: Clock) -> None:
        self.edge, self.ris, self.clock = edge, ris, clock
        self.keeper = WorklistKeeper(edge.db, lambda: edge.config, lambda _: None, clock)
        self.folder = edge.data_dir / "answers"

    def poll(self, after: float = 61.0) -> None:
        self.clock.now += after
        self.keeper.step()

    def serve(self, name: str, *parts: str) -> None:
        """Configure what of the list a modality is served."""
        modalities = self.edge.receiver.config.modalities
        changed = {**modalities, name: replace(modalities[name], worklist=parts)}
        self.edge.receiver.config = replace(self.edge.receiver.config, modalities=changed)

    def find(self, *keys: str, query: Path | None = None, calling: str = "CT1") -> list[str]:
        return find(self.edge.port, self.folder, *keys, query=query, calling=calling)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    clock, port = Clock(NOON), free_port()
    text = CONFIG.replace('[modality.any]\nae_title = "*"\n', MODALITIES.format(port=port))
    ris = WorklistScp(tmp_path / "ris", port)
    ris.put(ITEMS)
    with Receiving(tmp_path, text) as edge, ris:
        monkeypatch.setattr("tests.support.gateway.CLOCK", clock)
        made = Site(edge, ris, clock)
        made.poll(0)
        yield made


def test_the_list_is_served_with_all_that_is_asked_and_no_more(site: Site) -> None:
    found = site.find(
        f"{STEP}Modality=CT",
        "PatientName",
        "AccessionNumber",
        "StudyInstanceUID",
        f"{STEP}ScheduledProcedureStepStartDate",
    )
    assert len(found) == 2
    assert "[Doe^Jane]" in found[0]
    assert "[2.25.101]" in found[0]
    assert "Chest" not in found[0], "not asked"
    assert "[A3]" in found[1]


@pytest.mark.parametrize(
    ("keys", "accessions"),
    [
        ((f"{STEP}ScheduledStationAETitle=MR1",), ["A2"]),
        ((f"{STEP}ScheduledProcedureStepStartDate=20260102",), ["A1", "A2"]),
        ((f"{STEP}ScheduledProcedureStepStartDate=20260103-20260104",), ["A3"]),
        ((f"{STEP}ScheduledProcedureStepStartDate=-20260102",), ["A1", "A2"]),
        ((f"{STEP}ScheduledProcedureStepStartTime=1000-1100",), ["A1", "A2"]),
        ((f"{STEP}ScheduledPerformingPhysicianName=performing*",), ["A1", "A2", "A3"]),
        (("PatientName=DOE*",), ["A1", "A3"]),
        (("PatientID=P1",), ["A1"]),
        (("AccessionNumber=A2",), ["A2"]),
        (("RequestedProcedureID=RP1",), ["A1"]),
        (("StudyInstanceUID=2.25.101",), ["A1"]),
        ((f"{STEP}ScheduledProcedureStepStatus=",), ["A1", "A2", "A3"]),
        (("ScheduledProcedureStepSequence",), ["A1", "A2", "A3"]),
        (("PatientName=Nobody",), []),
    ],
)
def test_matching_keys(site: Site, keys: tuple[str, ...], accessions: list[str]) -> None:
    found = site.find("AccessionNumber", *keys)
    assert [next(a for a in ("A1", "A2", "A3") if f"[{a}]" in each) for each in found] == accessions


def test_a_greek_name_comes_in_its_character_set(site: Site) -> None:
    (found,) = site.find("AccessionNumber=A2", "PatientName")
    assert "ISO_IR 192" in found
    assert any("\u0370" <= char <= "\u03ff" for char in found)


def test_a_study_without_uid_has_the_same_at_every_poll(site: Site) -> None:
    (before,) = site.find("AccessionNumber=A3", "StudyInstanceUID")
    site.ris.clear()
    site.poll()
    assert site.find("AccessionNumber=A3") == []
    site.ris.put(ITEMS)
    site.poll()
    (after,) = site.find("AccessionNumber=A3", "StudyInstanceUID")
    assert "[2.25." in before
    assert after == before


def test_a_source_that_is_known_to_match_dates_is_asked_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has never had anything for the days is asked for all it has as well."""
    asked: list[str] = []
    ask = outbound_worklist.find_worklist

    def note(where: Peer, title: str, keys: Attributes, secure: Secure | None) -> list[Attributes]:
        asked.append(title)
        return ask(where, title, keys, secure)

    monkeypatch.setattr(outbound_worklist, "find_worklist", note)
    site.ris.clear()
    site.poll()
    assert len(asked) == 1
    new = WorklistKeeper(site.edge.db, lambda: site.edge.config, lambda _: None, site.clock)
    new.step()
    assert len(asked) == 3


def test_the_last_list_is_served_while_the_source_is_away_and_not_for_ever(site: Site) -> None:
    site.ris.kill()
    site.poll()
    site.poll()
    assert len(site.find("AccessionNumber")) == 3
    assert site.edge.rows("SELECT failures, last_error <> '' FROM worklist_source") == [(2, 1)]
    site.clock.now = NOON + 24 * 3600 + 10
    with pytest.raises(subprocess.CalledProcessError) as failed:
        site.find("AccessionNumber")
    assert "Refused: OutOfResources" in failed.value.stderr
    site.ris.clear()
    site.ris.start()
    site.poll()
    assert site.find("AccessionNumber") == [], "a final success without items is an empty list"


def test_a_source_that_refuses_or_cuts_has_no_list(tmp_path: Path, site: Site) -> None:
    site.ris.kill()
    with WorklistScp(tmp_path / "refuses", site.ris.port, "--refuse"):
        site.poll()
    assert len(site.find("AccessionNumber")) == 3


def test_a_performed_step_moves_its_item_at_once_and_no_poll_moves_it_back(site: Site) -> None:
    scheduled = _scheduled("2.25.101", "SPS1")
    assert send_step(site.edge.port, "1.9", {**CREATED, **scheduled}).status == 0
    site.edge.settle()
    (found,) = site.find("AccessionNumber=A1", f"{STEP}ScheduledProcedureStepStatus")
    assert "[STARTED]" in found
    assert send_step(site.edge.port, "1.9", ended(["1.5"]), is_set=True).status == 0
    site.edge.settle()
    site.poll()
    assert site.find("AccessionNumber=A1") == []
    assert len(site.find("AccessionNumber", f"{STEP}ScheduledProcedureStepStatus=")) == 2


def _scheduled(study: str, step: str) -> dict[int, object]:
    return {0x00400270: [items.item({0x0020000D: study, 0x00400009: step, 0x00080050: "A1"})]}


def test_a_modality_may_be_served_its_own_steps_or_those_of_today_alone(site: Site) -> None:
    """By `[modality] worklist`; the items are of 2026-01-02, for CT1 and MR1."""
    everything = len(site.find("AccessionNumber"))
    site.serve("ct1", "own")
    own = site.find("AccessionNumber", f"{STEP}ScheduledStationAETitle")
    assert 0 < len(own) < everything
    assert all("[CT1" in each for each in own)
    site.serve("ct1", "today")
    assert site.find("AccessionNumber") == []


@pytest.mark.parametrize(("zone", "accessions"), [("Pacific/Kiritimati", ["A3"]), ("Etc/GMT+12", ["A1", "A2"])])
def test_today_is_the_day_at_the_site(
    site: Site, monkeypatch: pytest.MonkeyPatch, zone: str, accessions: list[str]
) -> None:
    """At noon in Greenwich it is tomorrow in one zone, and not yet in the other."""
    monkeypatch.setattr(worklist, "_now", site.clock)
    receiver = site.edge.receiver
    receiver.config = replace(receiver.config, calendar=Calendar(time_zone=zone))
    site.serve("ct1", "today")
    assert [re.findall(r"\[(A\d)\s*\]", each)[0] for each in site.find("AccessionNumber")] == accessions


def test_only_those_whose_services_name_it(site: Site) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        site.find("AccessionNumber", calling="PLAIN")


@pytest.mark.slow
def test_the_thirteen_queries_of_dcmtk(site: Site) -> None:
    """As wlmscpfs itself and Orthanc answer them."""
    dumps = sorted((EXAMPLES / "wlistdb" / "OFFIS").glob("*.dump"))
    if not dumps:
        absent("DCMTK's example worklists")
    site.ris.clear()
    site.ris.put(dumps, day="20260102")
    site.poll()
    counts = [len(site.find(query=EXAMPLES / "wlistqry" / f"wlistqry{number}.dump")) for number in range(13)]
    assert counts == [10, 10, 0, 10, 0, 6, 0, 0, 0, 0, 10, 10, 0]


def test_each_item_is_decoded_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the next query nor the next poll decodes again what has stayed the same."""
    decoded: list[bytes] = []
    decode = worklist_source.decode_item
    monkeypatch.setattr(worklist_source, "decode_item", lambda *row: decoded.append(row[0]) or decode(*row))
    step = items.item({0x00080060: "CT", 0x00400001: "CT1", 0x00400002: "20260102", 0x00400009: "S"})

    def store(count: int) -> None:
        made = [items.item({0x00080050: f"B{at}", 0x00100010: f"Doe^{at}", 0x00400100: [step]}) for at in range(count)]
        found = [one for each in made for one in split_steps(each)]
        site.edge.db.write(lambda conn: store_list(conn, "", found, site.clock.now))

    def find_99() -> int:
        keys = items.item({0x00100010: "doe^99*", 0x00400100: [items.item({0x00400001: "CT1"})]})
        return len(list(find_items(keys, site.edge.receiver.worklist.read("ct1") or ())))

    store(1000)
    assert (find_99(), len(decoded)) == (11, 1000)
    assert (find_99(), len(decoded)) == (11, 1000)
    store(1001)
    assert (find_99(), len(decoded)) == (11, 1001)


def test_without_a_source_it_is_made_of_orders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The orders that HL7 has brought are items; an update is there at once, a cancelled one goes."""
    clock = Clock(NOON)
    text = CONFIG.replace('[modality.any]\nae_title = "*"\n', MODALITIES.format(port=1).replace('from = "ris"\n', ""))
    with Receiving(tmp_path, text) as edge:
        monkeypatch.setattr("tests.support.gateway.CLOCK", clock)
        keeper = WorklistKeeper(edge.db, lambda: edge.config, lambda _: None, clock)
        edge.db.write(_enter_orders)
        keeper.step()
        keys = ("AccessionNumber", "PatientName", "StudyInstanceUID", f"{STEP}Modality")
        found = find(edge.port, tmp_path / "answers", *keys)
        assert len(found) == 1
        assert "[A7]" in found[0]
        assert "[Müller^Jane]" in found[0]
        assert "ISO_IR 192" in found[0]
        assert "[2.25." in found[0], "a Study Instance UID that the order lacked"
        edge.db.write(lambda conn: conn.execute("UPDATE known_patient SET name = 'Mayer^Jane'"))
        keeper.step()
        (updated,) = find(edge.port, tmp_path / "answers", *keys)
        assert "[Mayer^Jane]" in updated
        edge.db.write(lambda conn: conn.execute("UPDATE imaging_order SET status = 'cancelled'"))
        keeper.step()
        assert find(edge.port, tmp_path / "answers", *keys) == []


def _enter_orders(conn: Transaction) -> None:
    conn.execute("INSERT INTO assigning_authority VALUES (1, 'CLINIC', '', '')")
    conn.execute("INSERT INTO known_patient (id, name, changed_at) VALUES (1, 'Müller^Jane', 1.0)")
    conn.execute("INSERT INTO patient_identifier (id, number, authority_id, patient_key) VALUES (1, 'P7', 1, 1)")
    texts = ("placer_number", "filler_number", "study_uid", "procedure_id", "procedure_code", "procedure_scheme")
    texts += ("procedure_text", "step_id", "station_ae", "station_name", "physician", "referring_physician", "issuer")
    row = dict.fromkeys(texts, "") | {"patient_key": 1, "identifier_id": 1, "accession": "A7", "modality": "CT"}
    row |= {"scheduled_at": "202601021015", "priority": 2, "status": "open", "feed": "his"}
    row |= {"created_at": 1.0, "changed_at": 1.0}
    insert_row(conn, "imaging_order", row)


def test_a_list_of_its_own_for_each_modality(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The source is asked under each modality's own title; one that has no list is not served another's."""
    clock, port = Clock(NOON), free_port()
    tables = MODALITIES.format(port=port) + "per_modality = true\n"
    text = CONFIG.replace('[modality.any]\nae_title = "*"\n', tables)
    ris = WorklistScp(tmp_path / "ris", port)
    ris.put(ITEMS)
    with Receiving(tmp_path, text) as edge, ris:
        monkeypatch.setattr("tests.support.gateway.CLOCK", clock)
        assert views_of(edge.config) == {"ct1": "CT1", "mr1": "MR1"}
        WorklistKeeper(edge.db, lambda: edge.config, lambda _: None, clock).step()
        assert edge.rows("SELECT view, version FROM worklist_source ORDER BY view") == [("ct1", 1), ("mr1", 1)]
        edge.db.write(lambda conn: conn.execute("DELETE FROM worklist_source WHERE view = 'mr1'"))
        assert len(find(edge.port, tmp_path / "answers", "AccessionNumber")) == 3
        with pytest.raises(subprocess.CalledProcessError):
            find(edge.port, tmp_path / "answers", "AccessionNumber", calling="MR1")


def test_a_modality_that_is_gone_leaves_nothing_due(tmp_path: Path) -> None:
    clock, port = Clock(NOON), free_port()
    tables = MODALITIES.format(port=port) + "per_modality = true\n"
    ris = WorklistScp(tmp_path / "ris", port)
    ris.put(ITEMS)
    with Receiving(tmp_path, CONFIG.replace('[modality.any]\nae_title = "*"\n', tables)) as edge, ris:
        config = edge.config
        keeper = WorklistKeeper(edge.db, lambda: config, lambda _: None, clock)
        keeper.step()
        kept = {name: each for name, each in config.modalities.items() if name != "mr1"}
        config = replace(config, modalities=kept)
        clock.now += 61.0
        for _ in range(2):
            assert keeper.step() == outbound_worklist.ORDERS_SECONDS


class Interrupted(Sequence[WorklistItem]):
    """A list in the midst of which the peer does something."""

    def __init__(self, found: list[WorklistItem], interrupt: Callable[[], None]) -> None:
        self._found, self._interrupt = found, interrupt

    def __len__(self) -> int:
        return len(self._found)

    def __getitem__(self, at: Any) -> Any:
        if at == 5:
            self._interrupt()
        return self._found[at]


@pytest.mark.parametrize(("comments", "count"), [("", 1), ("x" * 20_000, 5)])
def test_a_cancel_is_met_before_the_next_answer(comments: str, count: int) -> None:
    """Small answers that wait to go together are withdrawn, and large ones go at once: none comes after a C-CANCEL."""
    responder = MagicMock()
    responder.config.modalities, responder.config.calendar = {}, Calendar()

    def serve(dialogue: Dialogue) -> None:
        responder.dialogue = dialogue
        responder.respond = lambda request, answer: dialogue.respond(request, answer.status)
        worklist.serve_worklist(dialogue.receive(60.0), responder)

    with dialogue_with(serve) as ours:
        step = items.item({0x00080060: "CT", 0x00400001: "CT1", 0x00400002: "20260102", 0x00400009: "S"})
        found = [*split_steps(items.item({0x00104000: comments, 0x00400100: [step]}))] * 20
        responder.worklist.read.return_value = Interrupted(found, lambda: ours.cancel(1))
        identifier = items.encode_items(items.item({0x00104000: ""}), EXPLICIT_VR_LITTLE_ENDIAN)
        statuses = []
        for answer in ours.request(1, REQUEST, identifier, deadline=Deadline(60.0)):
            ours.skip(answer)
            statuses.append(answer.status)
    assert statuses == [0xFF00] * count + [0xFE00]
    assert responder.note_query.call_args.args[2].count == count


@pytest.mark.parametrize("leaving", [pdu.abort(), pdu.release_rq()], ids=["abort", "release"])
def test_what_a_modality_was_shown_before_it_left_is_on_record(leaving: bytes) -> None:
    responder = MagicMock()
    responder.config.modalities, responder.config.calendar = {}, Calendar()

    def serve(dialogue: Dialogue) -> None:
        responder.dialogue = dialogue
        with pytest.raises(CALLER_LEAVES):
            worklist.serve_worklist(dialogue.receive(60.0), responder)

    with dialogue_with(serve) as ours:
        step = items.item({0x00080060: "CT", 0x00400001: "CT1", 0x00400002: "20260102", 0x00400009: "S"})
        found = [*split_steps(items.item({0x00100020: "P1", 0x00400100: [step]}))] * 20
        responder.worklist.read.return_value = Interrupted(found, lambda: ours.wire.send_raw(leaving))
        identifier = items.encode_items(items.item({0x00100020: ""}), EXPLICIT_VR_LITTLE_ENDIAN)
        asked = {**REQUEST, Element.MESSAGE_ID: 1, Element.DATA_SET_TYPE: DATA_SET}
        ours.wire.send_message(1, asked, identifier)
    noted = responder.note_query.call_args.args[2]
    assert (noted.count, noted.status) == (5, 0xFE00)


def _length(group: int) -> dict[int, ElementValue]:
    """A group length (PS3.5 section 7.2), as equipment of its time sends it with every group."""
    return {group << 16: ElementValue("UL", ("86",))}


def _of_step(*more: dict[int, ElementValue]) -> dict[int, ElementValue]:
    station = {0x00400001: ElementValue("AE", ("CT1",))}
    step = Attributes({tag: each for some in (station, *more) for tag, each in some.items()})
    return {0x00400100: ElementValue("SQ", (), [step])}


@pytest.mark.parametrize(
    ("keys", "status"),
    [
        ({**_length(0x0008), **_length(0x0010)}, 0xFF00),
        (_of_step(_length(0x0040)), 0xFF00),
        ({0x00080060: ElementValue("CS", ("CT",))}, 0xFF01),
        ({0x00091001: ElementValue("LO", ("of the maker",))}, 0xFF01),
        (_of_step({0x00091001: ElementValue("LO", ("of the maker",))}), 0xFF01),
    ],
)
def test_what_no_item_can_hold_keeps_none_from_a_modality(keys: dict[int, ElementValue], status: int) -> None:
    """An empty success would say that nobody is scheduled."""
    responder = MagicMock()
    responder.config.modalities, responder.config.calendar = {}, Calendar()

    def serve(dialogue: Dialogue) -> None:
        responder.dialogue = dialogue
        responder.respond = lambda request, answer: dialogue.respond(request, answer.status)
        worklist.serve_worklist(dialogue.receive(60.0), responder)

    with dialogue_with(serve) as ours:
        step = items.item({0x00080060: "CT", 0x00400001: "CT1", 0x00400002: "20260102", 0x00400009: "S"})
        responder.worklist.read.return_value = list(split_steps(items.item({0x00100020: "P1", 0x00400100: [step]}))) * 2
        identifier = items.encode_items(Attributes({**items.item({0x00100020: ""}), **keys}), EXPLICIT_VR_LITTLE_ENDIAN)
        statuses, said = [], b""
        for answer in ours.request(1, REQUEST, identifier, deadline=Deadline(60.0)):
            said += ours.read(answer)
            statuses.append(answer.status)
    assert statuses == [status] * 2 + [0]
    assert b"\0\0UL" not in said, "a group length of the question"


@pytest.mark.parametrize(
    ("charset", "name", "served"),
    [
        ("ISO_IR 100", "Müller^Jörg", "ISO_IR 100"),
        ("ISO_IR 126", "Δημητρίου^Λίζα", "ISO_IR 126"),
        ("ISO_IR 192", "Yamada^Tarou=山田^太郎=やまだ^たろう", "ISO_IR 192"),
        ("\\ISO 2022 IR 87", "Yamada^Tarou=山田^太郎=やまだ^たろう", "\\ISO 2022 IR 87"),  # code extensions, both ways
        ("\\ISO 2022 IR 149", "Hong^Gildong=洪^吉洞=홍^길동", "\\ISO 2022 IR 149"),
        ("ISO 2022 IR 13\\ISO 2022 IR 87", "ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎", "ISO 2022 IR 13\\ISO 2022 IR 87"),
        ("\\ISO 2022 IR 87", "Müller^Jörg", "ISO_IR 192"),
        ("ISO_IR 100", "山田", "ISO_IR 192"),
        ("ISO_IR 100", "Doe^Jane", ""),
    ],
)
def test_answers_have_the_character_set_of_the_source_where_it_holds_them(charset: str, name: str, served: str) -> None:
    data = items.encode_items(items.item({0x00100010: name}), EXPLICIT_VR_LITTLE_ENDIAN, tuple(charset.split("\\")))
    found = items.decode_items(data, EXPLICIT_VR_LITTLE_ENDIAN)
    declared = found[0x00080005].values if 0x00080005 in found else ()
    assert (found.text(0x00100010), "\\".join(declared)) == (name, served)
