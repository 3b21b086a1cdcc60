"""C-GET and C-MOVE with getscu, movescu and storescp: counts, statuses, syntaxes, who may, and what fails."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.dataset import Dataset
from pynetdicom import AE, build_role, evt
from pynetdicom.sop_class import CTImageStorage
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelFind as FIND
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelGet as GET
from pynetdicom.sop_class import StudyRootQueryRetrieveInformationModelMove as MOVE

from edge.dicom import items, pdu
from edge.dicom.acse import Context, Role
from edge.dicom.command import DATA_SET, CommandField, Element
from edge.dicom.scu import Association
from edge.model import ContextKey
from edge.scp.services import retrieving
from edge.scp.services.move import _OtherAssociations, find_move_destination
from tests.support import scripted
from tests.support.gateway import CONFIG, Receiving, configuration
from tests.support.objects import ct_files, dataset, new_uid, sop_instance_uid
from tests.support.peers import StoreScp, free_port, storescu, wait_until
from tests.support.querying import QUERY, final_status, run_dcmtk
from tests.support.scripted import ScriptedScp

EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"


class Filled:
    """A gateway with one study of five images."""

    def __init__(self, tmp_path: Path, more: str = "") -> None:
        tmp_path.mkdir(exist_ok=True)
        self.edge = Receiving(tmp_path, CONFIG + QUERY + more)
        self.study = new_uid()
        self.paths = ct_files(tmp_path / "made", 5, 20_000, StudyInstanceUID=self.study)

    def __enter__(self) -> Filled:
        self.edge.__enter__()
        storescu(self.paths, self.edge.port)
        self.edge.settle()
        return self

    def __exit__(self, *error: Any) -> None:
        self.edge.__exit__(*error)

    def keys(self, **more: str) -> Dataset:
        keys = Dataset()
        keys.QueryRetrieveLevel, keys.StudyInstanceUID = "STUDY", self.study
        for keyword, value in more.items():
            setattr(keys, keyword, value)
        return keys


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    with Filled(tmp_path_factory.mktemp("edge")) as found:
        yield found


def getscu(filled: Filled, folder: Path, *keys: str, calling: str = "VIEWER") -> str:
    folder.mkdir()
    given = [word for key in keys for word in ("-k", key)]
    where = ["-od", str(folder), "-aet", calling, "-aec", "EDGE", "127.0.0.1", str(filled.edge.port)]
    done = run_dcmtk("getscu", "-d", "-S", "+B", *where, "-k", "QueryRetrieveLevel=STUDY", *given)
    return done.stdout + done.stderr


def test_getscu_gets_a_study_as_it_is_kept(filled: Filled, tmp_path: Path) -> None:
    said = getscu(filled, tmp_path / "got", f"StudyInstanceUID={filled.study}")
    assert final_status(said) == "0000"
    got = sorted((tmp_path / "got").iterdir())
    assert len(got) == 5
    kept = {dcmread(path).SOPInstanceUID: dataset(path) for path in filled.paths}
    for path in got:
        assert dataset(path) == kept[dcmread(path).SOPInstanceUID]


def test_nothing_that_matches_is_a_success_of_no_operations(filled: Filled, tmp_path: Path) -> None:
    said = getscu(filled, tmp_path / "got", "StudyInstanceUID=1.2.3")
    assert final_status(said) == "0000"
    assert not [*(tmp_path / "got").iterdir()]


def test_a_retrieval_without_a_key_is_a900(filled: Filled, tmp_path: Path) -> None:
    assert final_status(getscu(filled, tmp_path / "got", "StudyInstanceUID")) == "a900"


def test_who_may_not_retrieve_is_given_nothing(filled: Filled, tmp_path: Path) -> None:
    said = getscu(filled, tmp_path / "got", f"StudyInstanceUID={filled.study}", calling="OTHER")
    assert not [*(tmp_path / "got").iterdir()], said


class Getter:
    """pynetdicom as the SCU of a C-GET."""

    def __init__(self, filled: Filled, syntaxes: list[str], *, has_role: bool = True) -> None:
        self.received: list[Dataset] = []
        ae = AE("VIEWER")
        ae.add_requested_context(GET, IMPLICIT)
        ae.add_requested_context(CTImageStorage, syntaxes)
        roles = [build_role(CTImageStorage, scp_role=True)] if has_role else []
        handlers = [(evt.EVT_C_STORE, self._store)]
        self.association = ae.associate("127.0.0.1", filled.edge.port, ext_neg=roles, evt_handlers=handlers)
        assert self.association.is_established

    def _store(self, event: Any) -> int:
        self.received.append(event.dataset)
        return 0

    def get(self, keys: Dataset) -> list[tuple[Dataset, Dataset | None]]:
        try:
            return list(self.association.send_c_get(keys, GET))
        finally:
            self.association.release()


def test_counts_add_up(filled: Filled) -> None:
    getter = Getter(filled, [EXPLICIT])
    answers = getter.get(filled.keys())
    for status, _ in answers[:-1]:
        done = status.NumberOfCompletedSuboperations + status.NumberOfFailedSuboperations
        assert status.NumberOfRemainingSuboperations + done + status.NumberOfWarningSuboperations == 5
    final = answers[-1][0]
    assert (final.Status, final.NumberOfCompletedSuboperations, len(getter.received)) == (0, 5, 5)


def test_what_no_context_carries_has_failed_and_is_listed(filled: Filled) -> None:
    getter = Getter(filled, ["1.2.840.10008.1.2.4.50"])
    final, listed = getter.get(filled.keys())[-1]
    assert (final.Status, final.NumberOfFailedSuboperations) == (0xA702, 5)
    assert listed is not None
    assert sorted(listed.FailedSOPInstanceUIDList) == sorted(dcmread(each).SOPInstanceUID for each in filled.paths)


def test_without_the_role_nothing_is_given(filled: Filled) -> None:
    getter = Getter(filled, [EXPLICIT], has_role=False)
    assert getter.get(filled.keys())[-1][0].Status == 0xA702
    assert getter.received == []


def test_one_who_may_only_retrieve_stores_nothing(tmp_path: Path) -> None:
    only = QUERY.replace('"echo", "store", "query", "retrieve"', '"echo", "retrieve"')
    with Receiving(tmp_path, CONFIG.replace('[modality.any]\nae_title = "*"\n', "") + only) as edge:
        (path,) = ct_files(tmp_path / "made", 1, 2048)
        contexts, roles = [Context(1, CTImageStorage, (EXPLICIT,))], {CTImageStorage: Role(scu=True, scp=True)}
        association = Association.open("127.0.0.1", edge.port, "VIEWER", "EDGE", contexts, roles=roles)
        with path.open("rb") as file:
            offset = path.stat().st_size - len(dataset(path))
            status, _ = association.store(
                1, CTImageStorage, sop_instance_uid(path), file.fileno(), offset, len(dataset(path))
            )
        assert status == 0x0124
        association.release()
        assert edge.files() == []


# -- C-MOVE -----------------------------------------------------------------------------------------------------------


def move_to(port: int, name: str = "dest", ae_title: str = "DEST") -> str:
    return f'[destination.{name}]\nae_title = "{ae_title}"\nhost = "127.0.0.1"\nport = {port}\n'


def movescu(filled: Filled, to: str, *keys: str) -> str:
    given = [word for key in keys for word in ("-k", key)]
    where = ["-aet", "VIEWER", "-aec", "EDGE", "-aem", to, "127.0.0.1", str(filled.edge.port)]
    done = run_dcmtk("movescu", "-d", "-S", *where, "-k", "QueryRetrieveLevel=STUDY", *given)
    return done.stdout + done.stderr


def test_movescu_has_a_study_sent_to_a_destination(tmp_path: Path) -> None:
    with StoreScp(tmp_path / "dest") as scp, Filled(tmp_path / "edge", move_to(scp.port)) as filled:
        said = movescu(filled, "DEST", f"StudyInstanceUID={filled.study}")
        assert final_status(said) == "0000"
        assert len(scp.files()) == 5
        assert filled.edge.rows("SELECT state, count(*) FROM delivery GROUP BY 1") == [("pending", 5)], "no delivery"


def test_each_object_names_who_asked(tmp_path: Path) -> None:
    originators = []

    def store(event: Any) -> int:
        request = event.request
        originators.append((request.MoveOriginatorApplicationEntityTitle, request.MoveOriginatorMessageID))
        return 0

    port = free_port()
    ae = AE("DEST")
    ae.add_supported_context(CTImageStorage, [EXPLICIT])
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        with Filled(tmp_path, move_to(port)) as filled:
            status, _ = move(filled, "DEST", 7)[-1]
            assert (status.Status, status.NumberOfCompletedSuboperations) == (0, 5)
            assert originators == [("VIEWER", 7)] * 5
    finally:
        server.shutdown()


def move(filled: Filled, to: str, message_id: int = 1, study: str = "") -> list[tuple[Dataset, Dataset | None]]:
    ae = AE("VIEWER")
    ae.add_requested_context(MOVE, IMPLICIT)
    association = ae.associate("127.0.0.1", filled.edge.port)
    assert association.is_established
    named = {"StudyInstanceUID": study} if study else {}
    try:
        return list(association.send_c_move(filled.keys(**named), to, MOVE, msg_id=message_id))
    finally:
        association.release()


@pytest.mark.parametrize(("seconds", "pending"), [(1e9, 1), (0.0, 6)])
def test_pending_comes_at_the_start_and_then_once_in_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float, pending: int
) -> None:
    monkeypatch.setattr(retrieving, "PENDING_SECONDS", seconds)
    with StoreScp(tmp_path / "dest") as scp, Filled(tmp_path / "edge", move_to(scp.port)) as filled:
        answers = [status for status, _ in move(filled, "DEST")]
        assert [each.Status for each in answers] == [0xFF00] * pending + [0]
        assert answers[0].NumberOfRemainingSuboperations == 5
        none, _ = move(filled, "DEST", study="1.2.3")[-1]
        assert (none.Status, none.NumberOfCompletedSuboperations, none.NumberOfFailedSuboperations) == (0, 0, 0)


def test_a_retrieval_is_no_delivery(tmp_path: Path) -> None:
    """What is owed to a destination is owed to it still, once somebody has had it moved there."""
    with StoreScp(tmp_path / "dest") as scp:
        filled = Filled(tmp_path / "edge")
        filled.edge.config.destinations["archive"] = replace(filled.edge.config.destinations["archive"], port=scp.port)
        with filled:
            assert move(filled, "ARCHIVE")[-1][0].Status == 0
            assert scp.stores() == 5
            assert filled.edge.rows("SELECT state, attempts FROM delivery") == [("pending", 0)] * 5


def test_a_destination_that_nobody_named_is_a801(filled: Filled) -> None:
    status, _ = move(filled, "NOBODY")[-1]
    assert status.Status == 0xA801
    assert "NOBODY" in status.ErrorComment
    noted = filled.edge.noted[-1]
    assert (noted.status, noted.comment, noted.destination) == (0xA801, status.ErrorComment, "NOBODY")


def test_a_destination_that_is_away_is_a702_with_all_listed(tmp_path: Path) -> None:
    with Filled(tmp_path, move_to(free_port())) as filled:
        status, listed = move(filled, "DEST")[-1]
        assert (status.Status, status.NumberOfFailedSuboperations) == (0xA702, 5)
        assert status.ErrorComment.startswith("DEST gets nothing more: 127.0.0.1:")
        noted = filled.edge.noted[-1]
        assert (noted.status, noted.comment.rstrip()) == (0xA702, status.ErrorComment)
        assert listed is not None
        assert len(listed.FailedSOPInstanceUIDList) == 5


def test_some_that_fail_are_b000_with_their_list(tmp_path: Path) -> None:
    refused: list[str] = []

    def store(event: Any) -> int:
        if len(refused) < 2:
            refused.append(event.request.AffectedSOPInstanceUID)
            return 0xA700
        return 0

    port = free_port()
    ae = AE("DEST")
    ae.add_supported_context(CTImageStorage, [EXPLICIT])
    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        with Filled(tmp_path, move_to(port)) as filled:
            status, listed = move(filled, "DEST")[-1]
            counts = status.NumberOfCompletedSuboperations, status.NumberOfFailedSuboperations
            assert (status.Status, counts) == (0xB000, (3, 2))
            assert listed is not None
            assert sorted(listed.FailedSOPInstanceUIDList) == sorted(refused)
    finally:
        server.shutdown()


def test_a_file_that_is_damaged_fails_alone_and_is_examined(tmp_path: Path) -> None:
    with StoreScp(tmp_path / "dest") as scp, Filled(tmp_path / "edge", move_to(scp.port)) as filled:
        path = filled.edge.files()[0]
        blob = bytearray(path.read_bytes())
        blob[-5] ^= 1
        path.write_bytes(blob)
        status, listed = move(filled, "DEST")[-1]
        assert (status.Status, status.NumberOfFailedSuboperations) == (0xB000, 1)
        getter = Getter(filled, [EXPLICIT])
        final, _ = getter.get(filled.keys())[-1]
        assert (final.Status, final.NumberOfCompletedSuboperations) == (0xB000, 4)
        assert listed is not None
        path.unlink()
        assert Getter(filled, [EXPLICIT]).get(filled.keys())[-1][0].NumberOfFailedSuboperations == 1
        assert filled.edge.damaged == [str(path.relative_to(filled.edge.data_dir / "spool"))] * 3


def test_a_cancel_ends_within_one_object(tmp_path: Path) -> None:
    stored: list[int] = []
    port = free_port()
    ae = AE("DEST")
    ae.add_supported_context(CTImageStorage, [EXPLICIT])
    asking: list[Any] = []

    def store(_event: Any) -> int:
        stored.append(1)
        if len(stored) == 2:
            association = asking[0]
            association.send_c_cancel(1, query_model=MOVE)
        return 0

    server = ae.start_server(("127.0.0.1", port), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    try:
        with Filled(tmp_path, move_to(port)) as filled:
            mover = AE("VIEWER")
            mover.add_requested_context(MOVE, IMPLICIT)
            association = mover.associate("127.0.0.1", filled.edge.port)
            asking.append(association)
            status, _ = list(association.send_c_move(filled.keys(), "DEST", MOVE, msg_id=1))[-1]
            assert status.Status == 0xFE00
            assert len(stored) <= 3
            total = status.NumberOfRemainingSuboperations + status.NumberOfCompletedSuboperations
            assert total == 5
            association.release()
    finally:
        server.shutdown()


def test_a_receiver_that_ends_an_idle_association_gets_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As one does with a limit of seconds, while what comes next is fetched from an archive."""
    associate = _OtherAssociations._associate

    def associate_later(carrier: _OtherAssociations, key: ContextKey) -> Association:
        if (open_one := carrier._association) is not None:
            wait_until(lambda: not open_one.is_quiet(), 20, "the receiver has ended it")
        return associate(carrier, key)

    monkeypatch.setattr(_OtherAssociations, "_associate", associate_later)
    with (
        ScriptedScp(stores=[scripted.close_after_answer]) as scp,
        Filled(tmp_path, move_to(scp.port)) as filled,
    ):
        status, _ = move(filled, "DEST")[-1]
        assert (status.Status, status.NumberOfCompletedSuboperations) == (0, 5)
        assert len(scp.uids()) == 5


@pytest.mark.parametrize("leaving", [pdu.abort(), pdu.release_rq()], ids=["abort", "release"])
@pytest.mark.parametrize(
    ("sop_class", "command", "what", "status"),
    [(MOVE, CommandField.C_MOVE_RQ, "retrieve", 0xA702), (FIND, CommandField.C_FIND_RQ, "find", 0xFE00)],
    ids=["move", "find"],
)
def test_a_caller_that_leaves_at_once_is_on_record(
    filled: Filled,
    caplog: pytest.LogCaptureFixture,
    leaving: bytes,
    sop_class: str,
    command: CommandField,
    what: str,
    status: int,
) -> None:
    """What it was shown by then is; and that it leaves is no fault of ours."""
    before = len(filled.edge.noted)
    contexts = [Context(1, sop_class, (IMPLICIT,))]
    association = Association.open("127.0.0.1", filled.edge.port, "VIEWER", "EDGE", contexts)
    identifier = items.item({0x00080052: "STUDY", 0x0020000D: filled.study})
    request: dict[int, int | str] = {
        Element.AFFECTED_SOP_CLASS_UID: sop_class,
        Element.COMMAND_FIELD: command,
        Element.MESSAGE_ID: 1,
        Element.PRIORITY: 0,
        Element.DATA_SET_TYPE: DATA_SET,
        Element.MOVE_DESTINATION: "ARCHIVE",
    }
    association.wire.send_message(1, request, items.encode_items(identifier, IMPLICIT))
    association.wire.send_raw(leaving)
    wait_until(lambda: len(filled.edge.noted) > before, 20, "it is on record")
    association.abort()
    noted = filled.edge.noted[-1]
    assert (noted.what, noted.status, noted.calling_ae) == (what, status, "VIEWER")
    wait_until(lambda: not filled.edge.receiver._open, 20, "the association has ended")
    assert "unexpected" not in caplog.text


def test_a_modality_that_can_be_called_back_is_a_destination(tmp_path: Path) -> None:
    config = configuration(
        tmp_path,
        CONFIG + '[modality.ws]\nae_title = "WS"\nhosts = ["10.0.0.7"]\nport = 104\n[modality.ct]\nae_title = "CT"\n',
    )
    found = find_move_destination(config, "WS")
    assert found is not None
    assert (found.host, found.port) == ("10.0.0.7", 104)
    assert find_move_destination(config, "CT") is None
    assert find_move_destination(config, "ws") is None


DESTINATIONS = """
[destination.web]
kind = "dicomweb"
url = "https://archive.test/dicom-web"
[destination.other]
ae_title = "OTHER"
host = "127.0.0.1"
port = 106
[coerce.institution]
set = {{ InstitutionName = "Clinic" }}
{to}
"""


RULE = 'to = ["archive"]'


@pytest.mark.parametrize(
    ("to", "title", "copies_for"),
    [(RULE, "ARCHIVE", "archive"), (RULE, "OTHER", ""), ("", "OTHER", "other"), (RULE, "", None)],
)
def test_a_destination_with_rules_of_its_own_gets_copies(
    tmp_path: Path, to: str, title: str, copies_for: str | None
) -> None:
    """And one of DICOMweb, which has no AE title, is none that objects are moved to."""
    found = find_move_destination(configuration(tmp_path, CONFIG + DESTINATIONS.format(to=to)), title)
    assert (found.copies_for if found is not None else None) == copies_for


def test_what_is_read_is_noted_for_retention(tmp_path: Path) -> None:
    noted: list[tuple[list[int], bool]] = []

    class Readers:
        def note(self, studies: list[int], is_begun: bool) -> None:
            noted.append((list(studies), is_begun))

    with StoreScp(tmp_path / "dest") as scp, Filled(tmp_path / "edge", move_to(scp.port)) as filled:
        filled.edge.link.readers = Readers()
        move(filled, "DEST")
    assert noted == [([1], True), ([1], False)]


GIVEN_BACK = """
[query]
through = ["vna"]
[modality.ct1]
ae_title = "CT1"
[destination.vna]
ae_title = "VNA"
host = "{host}"
port = 104
"""


@pytest.mark.parametrize(
    ("calling", "host", "through", "status", "fetched_from"),
    [
        ("VNA", "127.0.0.1", "vna", "0000", "vna"),
        ("vna", "127.0.0.1", "vna", "0000", "vna"),
        ("VNA", "192.0.2.7", "vna", "0124", None),  # at another address than the archive
        ("VNA", "127.0.0.1", "", "", None),  # nothing is retrieved from it
        ("CT1", "127.0.0.1", "vna", "0000", ""),
    ],
)
def test_what_an_archive_gives_back_is_cached_and_nobody_else_may_give(
    tmp_path: Path, calling: str, host: str, through: str, status: str, fetched_from: str | None
) -> None:
    """A C-MOVE to ourselves: the archive need not be a modality, and must be at its own address."""
    text = CONFIG.replace('[modality.any]\nae_title = "*"\n', GIVEN_BACK.format(host=host))
    text = text if through else text.replace('through = ["vna"]', "")
    with Receiving(tmp_path, text) as edge:
        done = storescu(ct_files(tmp_path / "made", 1, 2048), edge.port, "-d", calling=calling, check=False)
        assert final_status(done.stdout + done.stderr) == status
        edge.settle()
        found = [row[0] for row in edge.rows("SELECT fetched_from FROM instance")]
        assert found == ([] if fetched_from is None else [fetched_from])
        assert edge.rows("SELECT count(*) FROM delivery") == [(int(fetched_from == ""),)]
