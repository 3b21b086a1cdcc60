"""The SCU's side of an association: what is proposed, what is met, and that nothing broken is used again."""

from __future__ import annotations

import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from edge.dicom import pdu, pdu_reader
from edge.dicom.acse import Context
from edge.dicom.scu import Association, Patience, plan_contexts
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from edge.dicom.wire import Digest
from edge.errors import AssociationRejected, PeerError, ProtocolError, Unreadable
from edge.model import ContextKey
from tests.support import scripted
from tests.support.objects import ct_files, dataset, read_meta
from tests.support.peers import StoreScp, free_port, wait_until
from tests.support.scripted import ScriptedScp

CT, MR = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"
EXPLICIT, IMPLICIT = EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN
JPEG, JPEG_LS, J2K = "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"
FALLBACKS = ((EXPLICIT, IMPLICIT), (JPEG_LS, J2K))
PATIENCE = Patience()
#: For peers that fall silent: whoever answers has longer.
IMPATIENT = Patience(associate=0.4, answer=0.4)


# -- what is proposed -------------------------------------------------------------------------------------------------


def proposed(*kinds: ContextKey, limit: int = 128) -> list[tuple[str, tuple[str, ...]]]:
    plan = plan_contexts(kinds, FALLBACKS, limit)
    assert [context.id for context in plan.contexts] == list(range(1, 2 * len(plan.contexts), 2))
    return [(context.abstract_syntax, context.transfer_syntaxes) for context in plan.contexts]


def test_each_kind_has_its_own_context_and_its_class_the_fallbacks() -> None:
    assert proposed(ContextKey(CT, JPEG)) == [(CT, (JPEG,)), (CT, (EXPLICIT, IMPLICIT)), (CT, (JPEG_LS, J2K))]


def test_a_fallback_does_not_repeat_the_kind() -> None:
    assert proposed(ContextKey(CT, EXPLICIT)) == [(CT, (EXPLICIT,)), (CT, (IMPLICIT,)), (CT, (JPEG_LS, J2K))]
    assert proposed(ContextKey(CT, J2K)) == [(CT, (J2K,)), (CT, (EXPLICIT, IMPLICIT)), (CT, (JPEG_LS,))]


def test_kinds_of_one_class_share_its_fallbacks() -> None:
    both = proposed(ContextKey(CT, EXPLICIT), ContextKey(CT, JPEG))
    assert both == [(CT, (EXPLICIT,)), (CT, (IMPLICIT,)), (CT, (JPEG_LS, J2K)), (CT, (JPEG,))]
    assert len(proposed(ContextKey(CT, EXPLICIT), ContextKey(CT, IMPLICIT))) == 3
    assert len(proposed(ContextKey(CT, JPEG), ContextKey(CT, JPEG))) == 3


def test_no_context_is_proposed_twice() -> None:
    kinds = [
        ContextKey(sop_class, syntax) for sop_class in (CT, MR) for syntax in (J2K, IMPLICIT, JPEG, EXPLICIT, JPEG_LS)
    ]
    for start in range(len(kinds)):
        contexts = proposed(*kinds[start:], *kinds[:start])
        assert len(set(contexts)) == len(contexts)


@pytest.mark.parametrize("count", [128, 129, 300])
def test_what_does_not_fit_is_left_for_another_association(count: int) -> None:
    waiting = tuple(ContextKey(f"1.2.3.{number}", JPEG) for number in range(count))
    served: list[ContextKey] = []
    while waiting:
        plan = plan_contexts(waiting, FALLBACKS)
        assert len(plan.contexts) <= 128
        assert waiting[0] in plan.kinds, "the most urgent kind goes first"
        # Who has no context of his own class' fallbacks would be held for good when his own is refused.
        for kind in plan.kinds:
            assert len([c for c in plan.contexts if c.abstract_syntax == kind.sop_class_uid]) == 3
        served += plan.kinds
        waiting = plan.left
    assert len(served) == len(set(served)) == count


def test_many_syntaxes_of_one_class_split_too() -> None:
    kinds = [ContextKey(CT, f"1.2.3.{number}") for number in range(130)]
    plan = plan_contexts(kinds, FALLBACKS)
    assert (len(plan.contexts), len(plan.left)) == (128, 4)
    assert plan_contexts(plan.left, FALLBACKS).left == ()


@pytest.mark.parametrize("uid", ["", "1.2 3", "../../etc", "1." + "2" * 64])
def test_what_is_not_a_uid_is_never_proposed(uid: str) -> None:
    plan = plan_contexts([ContextKey(uid, EXPLICIT), ContextKey(CT, uid), ContextKey(MR, EXPLICIT)], FALLBACKS)
    assert plan.kinds == {ContextKey(MR, EXPLICIT)}
    assert plan.left == ()


# -- what is met ------------------------------------------------------------------------------------------------------


def connect(port: int, *kinds: ContextKey, patience: Patience = PATIENCE) -> Association:
    plan = plan_contexts(kinds or (ContextKey(CT, EXPLICIT),), FALLBACKS)
    return Association.open("127.0.0.1", port, "EDGE", "ARCHIVE", plan.contexts, patience=patience)


def test_nobody_listens() -> None:
    with pytest.raises(PeerError, match="refuses the connection: nothing listens there"):
        connect(free_port())


def test_an_unknown_name() -> None:
    with pytest.raises(PeerError, match=r"no-such-host\.invalid cannot be resolved"):
        Association.open("no-such-host.invalid", 104, "EDGE", "ARCHIVE", [], patience=PATIENCE)


def test_packets_that_are_dropped() -> None:
    """A listener whose backlog is full answers no SYN: what a firewall does."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as server:
        port = server.getsockname()[1]
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(("127.0.0.1", port))
            with pytest.raises(PeerError, match=r"did not answer within 0\.3 s: it is down, or a firewall"):
                connect(port, patience=Patience(connect=0.3))
        finally:
            for filler in fillers:
                filler.close()


@pytest.mark.parametrize(
    ("act", "words"),
    [
        (scripted.fall_silent, r"then fell silent: no answer to A-ASSOCIATE in 0\.4 s"),
        (scripted.hang_up, "closed the connection instead of answering A-ASSOCIATE: no DICOM there, or DICOM over TLS"),
        (scripted.say(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "it speaks HTTP"),
        (scripted.say(b"SSH-2.0-OpenSSH_9.2\r\n"), "it speaks SSH"),
        (scripted.say(bytes.fromhex("15030300020246")), "it speaks TLS"),
        (scripted.say(b"hello world"), "does not speak DICOM: its answer begins with bytes 68 65 6c 6c 6f 20"),
        (scripted.say(b"\x02\0\xff\xff\xff\xff"), "does not speak DICOM"),
        (scripted.say(b"\x02\0\0\0\0\x04junk"), "answers no presentation context"),
        (scripted.say(b"\x02\0\0\0\x10\0junk"), "closed the connection"),
        (scripted.say(b"\x07\0\0\0\0\x04\0\0\2\1"), "aborted the association"),
    ],
)
def test_what_else_may_answer(act: scripted.Associate, words: str) -> None:
    with ScriptedScp(associations=[act]) as scp, pytest.raises(PeerError, match=words):
        connect(scp.port, patience=IMPATIENT if act is scripted.fall_silent else PATIENCE)


def test_an_answer_that_trickles_is_bounded_as_a_whole() -> None:
    def trickle(scp: ScriptedScp, sock: socket.socket, request: object) -> None:
        sock.sendall(b"\x02\0\0\0\x80\0")
        while not scp.stopping.wait(0.05):
            sock.sendall(b"\0")

    with ScriptedScp(associations=[trickle]) as scp, pytest.raises(PeerError, match="fell silent"):
        connect(scp.port, patience=IMPATIENT)


@pytest.mark.parametrize(
    ("reject", "words"),
    [
        ((1, 1, 7), "for good: it does not answer to that AE title"),
        ((1, 1, 3), "for good: it does not know our AE title"),
        ((2, 3, 1), "for now: temporary congestion"),
    ],
)
def test_a_rejection_in_words(reject: tuple[int, int, int], words: str) -> None:
    with ScriptedScp(associations=[scripted.reject(*reject)]) as scp:
        with pytest.raises(AssociationRejected, match=words) as caught:
            connect(scp.port)
        assert (caught.value.result, caught.value.source, caught.value.reason) == reject


def test_ipv6() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        server.settimeout(60)
        port = server.getsockname()[1]
        with pytest.raises(PeerError, match="fell silent"):
            Association.open("::1", port, "EDGE", "ARCHIVE", [Context(1, CT, (EXPLICIT,))], patience=IMPATIENT)


def test_what_was_not_proposed_is_not_accepted() -> None:
    """An SCP that names another syntax, or a context of its own, has accepted nothing."""

    def act(scp: ScriptedScp, sock: socket.socket, request: scripted.Request) -> scripted.Link | None:
        body = scripted.accept_pdu(request, [scripted.ContextResult(c.id, JPEG) for c in request.contexts], {})
        sock.sendall(body)
        return scripted.Link(scp, sock, request)

    with ScriptedScp(associations=[act]) as scp:
        association = connect(scp.port)
        assert association.accepted == {}
        assert set(association.refused) == {1, 3, 5}
        association.release()


# -- messages ---------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path) -> Iterator[tuple[int, int, int, bytes]]:
    """Descriptor, offset, length and digest of a data set."""
    blob = path.read_bytes()
    offset = read_meta(blob[:16_384])[1]
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd, offset, len(blob) - offset, hashlib.sha256(blob[offset:]).digest()
    finally:
        os.close(fd)


def store(association: Association, path: Path, uid: str = "1.2.3", priority: int = 0) -> tuple[int, str]:
    with opened(path) as (fd, offset, length, digest):
        return association.store(1, CT, uid, fd, offset, length, Digest(hashlib.sha256, digest), priority)


@pytest.mark.parametrize("max_pdu", [0, 1, 4095, 4096, 16_384, 131_072, 1 << 31])
def test_the_data_set_arrives_byte_for_byte_at_any_pdu_length(
    tmp_path: Path, max_pdu: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pdu_reader, "MAX_PDU_IN", pdu.MAX_PDU_OUT)  # 0 and 1 << 31 let us send our longest
    paths = [*ct_files(tmp_path / "a", 2, 300_000), *ct_files(tmp_path / "b", 2, 3_000)]
    with ScriptedScp(associations=[scripted.accept(max_pdu=max_pdu)]) as scp:
        association = connect(scp.port)
        for number, path in enumerate(paths):
            assert store(association, path, f"1.2.{number}") == (0, "")
        association.release()
    assert [each.data_set for each in scp.received] == [dataset(path) for path in paths]
    assert scp.releases == 1


def test_an_empty_data_set_ends_too(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with ScriptedScp() as scp, (tmp_path / "empty").open("rb") as file:
        association = connect(scp.port)
        assert association.store(1, CT, "1.2.3", file.fileno(), 0, 0) == (0, "")
        association.release()
    assert [each.data_set for each in scp.received] == [b""]


def test_a_real_storescp_keeps_what_was_sent(tmp_path: Path, archive: StoreScp) -> None:
    paths = ct_files(tmp_path / "ct", 3)
    association = connect(archive.port, patience=Patience())
    for number, path in enumerate(paths):
        assert store(association, path, f"1.2.{number}")[0] == 0
    association.release()
    assert sorted(dataset(path) for path in archive.files()) == sorted(dataset(path) for path in paths)


def test_priority_and_status_and_comment_travel(tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1, 3_000)
    with ScriptedScp(stores=[scripted.succeed, scripted.answer_with(0xC123, "no such patient")]) as scp:
        association = connect(scp.port)
        assert store(association, path, priority=1) == (0, "")
        assert store(association, path) == (0xC123, "no such patient")
        association.release()
    assert scp.received[0].priority == 1


def test_message_ids_wrap_around(tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1, 3_000)
    with ScriptedScp() as scp:
        association = connect(scp.port)
        association._message_id = 0xFFFE
        for _ in range(3):
            assert store(association, path)[0] == 0
        assert association._message_id == 2
        association.release()


@pytest.mark.parametrize(
    ("act", "error", "words"),
    [
        (scripted.abort_midway, PeerError, "aborted|lost"),
        (scripted.reset_midway, PeerError, "lost"),
        (scripted.abort_after, PeerError, "aborted the association"),
        (scripted.never_answer, PeerError, "fell silent"),
        (scripted.answer_after(600.0), PeerError, "fell silent"),
        (scripted.answer_another, ProtocolError, "answered 8001 to message 2 where 8001 to message 1 was due"),
        (scripted.answer_as_echo, ProtocolError, "answered 8030 to message 1 where 8001"),
        (scripted.ask_to_release, PeerError, "asked to release"),
    ],
)
def test_after_any_failure_the_association_is_gone(
    tmp_path: Path, act: scripted.Store, error: type[PeerError], words: str
) -> None:
    (path,) = ct_files(tmp_path, 1)
    with ScriptedScp(stores=[act]) as scp:
        association = connect(scp.port, patience=replace(PATIENCE, answer=0.4) if words == "fell silent" else PATIENCE)
        with pytest.raises(error, match=words):
            store(association, path)
        assert association.wire.sock.fileno() == -1
        with pytest.raises(PeerError):
            store(association, path)
        assert scp.stores == 1


def test_an_answer_too_many_ends_the_association(tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1, 3_000)
    with ScriptedScp(stores=[scripted.answer_twice]) as scp:
        association = connect(scp.port)
        assert store(association, path)[0] == 0
        with pytest.raises(ProtocolError, match="answered 8001 to message 1 where 8001 to message 2 was due"):
            store(association, path)


def test_a_peer_that_stops_reading_does_not_hold_us(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.dicom.wire.Wire.send_raw.__defaults__", (0.4,))
    (path,) = ct_files(tmp_path, 1, 32 << 20)
    with ScriptedScp(stores=[scripted.never_read]) as scp:
        association = connect(scp.port)
        with pytest.raises(PeerError, match=r"took no more data|lost"):
            store(association, path)


@pytest.mark.parametrize(("size", "begun"), [(500_000, 0), (2_000_000, 1)])
def test_bytes_that_changed_never_arrive_whole(tmp_path: Path, size: int, begun: int) -> None:
    """What fits into one buffer is checked before anything goes."""
    (path,) = ct_files(tmp_path, 1, size)
    with ScriptedScp() as scp:
        association = connect(scp.port)
        with opened(path) as (fd, offset, length, _), pytest.raises(Unreadable, match="checksum differs"):
            association.store(1, CT, "1.2.3", fd, offset, length, Digest(hashlib.sha256, bytes(32)))
        assert association.wire.sock.fileno() == -1
    assert scp.stores == begun
    assert scp.received == []


def test_a_file_that_ends_too_early_never_arrives_whole(tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1)
    with ScriptedScp() as scp:
        association = connect(scp.port)
        with opened(path) as (fd, offset, length, digest), pytest.raises(Unreadable, match="shorter"):
            association.store(1, CT, "1.2.3", fd, offset, length + 2, Digest(hashlib.sha256, digest))
    assert scp.received == []


def test_echo() -> None:
    with ScriptedScp() as scp:
        association = connect(scp.port, ContextKey(VERIFICATION, IMPLICIT))
        context = association.context_for(VERIFICATION)
        assert context is not None
        assert association.echo(context) == 0
        assert association.context_for(CT) is None
        association.release()


@pytest.mark.parametrize("release", ["answer", "close", "abort", "silent"])
def test_release_is_bounded_whatever_the_peer_does(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.dicom.pdu_reader.PDU_SECONDS", 600.0)
    with ScriptedScp(release=release) as scp:
        association = connect(scp.port)
        monkeypatch.setattr("edge.dicom.scu.RELEASE_SECONDS", 600.0)
        association.release(seconds=0.4)
        assert association.wire.sock.fileno() == -1
        assert scp.releases == 1


def test_a_peer_that_has_hung_up_is_not_quiet(tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1, 3_000)
    with ScriptedScp(stores=[scripted.succeed, scripted.close_after_answer]) as scp:
        association = connect(scp.port)
        store(association, path)
        assert association.is_quiet()
        store(association, path)
        wait_until(lambda: not association.is_quiet(), 5, "it is noticed")
        association.abort()


def test_kill_ends_a_wait_from_another_thread(tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1, 3_000)
    with ScriptedScp(stores=[scripted.never_answer]) as scp:
        association = connect(scp.port, patience=Patience())
        threading.Timer(0.2, association.kill).start()
        with pytest.raises(PeerError):
            store(association, path)
