"""Archives behind the gateway that answer nonsense to what a viewer has it ask."""

from __future__ import annotations

import random
import sqlite3
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from edge.dicom import items
from edge.dicom.command import CommandField, Element, response_to
from tests.support.committing import CT_CLASS
from tests.support.nursery import Nursery
from tests.support.objects import ct_files, new_uid, sop_instance_uid
from tests.support.peers import storescu
from tests.support.scripted import Link, ScriptedScp
from tests.support.viewer import (
    ARCHIVE,
    COMPLETE,
    FIND,
    GET,
    LEVEL,
    PATIENT_ID,
    SERIES_UID,
    SOP_UID,
    STUDY_UID,
    THROUGH,
    call,
    study_keys,
)
from tests.torture.gateway import Gateway
from tests.torture.row import HURRIED_SECONDS, Budget, Score
from tests.torture.rows.services import wrong_of_fetched

Answer = Callable[[Link, int, items.Attributes], None]


class Archive(ScriptedScp):
    """Answers each message as its script says: C-FIND by one act, C-GET and C-MOVE by another."""

    def __init__(self, find: Answer, get: Answer, study: str) -> None:
        super().__init__(stores=[self._act])
        self._acts = {CommandField.C_FIND_RQ: find, CommandField.C_GET_RQ: get, CommandField.C_MOVE_RQ: get}
        self.study, self.images = study, [f"{study}.{number}" for number in (2, 3, 4)]

    def _act(self, link: Link, context: int, command) -> None:  # type: ignore[no-untyped-def]
        link.command = command  # type: ignore[attr-defined]
        data = link.read_object(context, command).data_set
        keys = items.decode_items(data, link.contexts[context][1])
        self._acts[CommandField(command.number(Element.COMMAND_FIELD))](link, context, keys)


def answer(link: Link, context: int, status: int, data: bytes = b"", **changed: int) -> None:
    said = response_to(link.command, status) | {Element[name.upper()]: value for name, value in changed.items()}  # type: ignore[attr-defined]
    if data:
        said[Element.DATA_SET_TYPE] = 1
    link.wire.send_message(context, said, data)


def encode(link: Link, context: int, keys: dict[int, str]) -> bytes:
    return items.encode_items(items.item(keys), link.contexts[context][1])


def say_what_it_has(link: Link, context: int, keys: items.Attributes) -> None:
    """Honestly: one study of one series of three images, to those who ask for that."""
    archive = link.scp
    assert isinstance(archive, Archive)
    level, series = keys.text(LEVEL), f"{archive.study}.1"
    if keys.text(STUDY_UID) in ("", archive.study):
        for uid in archive.images if level == "IMAGE" else ("",):
            found = {LEVEL: level, STUDY_UID: archive.study, PATIENT_ID: "P1", SERIES_UID: series}
            found |= {SOP_UID: uid, 0x00080016: CT_CLASS} if uid else {}
            found = {tag: text for tag, text in found.items() if tag in keys or tag in (LEVEL, STUDY_UID)}
            answer(link, context, 0xFF00, encode(link, context, found))
    answer(link, context, 0)


def say_nothing_of(link: Link, context: int, _: items.Attributes) -> None:
    answer(link, context, 0)


def other_study(link: Link, context: int, keys: items.Attributes) -> None:
    """What nobody asked for."""
    found = {LEVEL: "STUDY", STUDY_UID: "1.2.3.4.99", PATIENT_ID: "OTHER"}
    answer(link, context, 0xFF00, encode(link, context, found))
    answer(link, context, 0)


def garbage(link: Link, context: int, _: items.Attributes) -> None:
    answer(link, context, 0xFF00, random.Random(context).randbytes(400))
    answer(link, context, 0)


def pending_without_data(link: Link, context: int, _: items.Attributes) -> None:
    for _each in range(50):
        answer(link, context, 0xFF00)
    answer(link, context, 0)


def sequences_without_end(link: Link, context: int, _: items.Attributes) -> None:
    opened = b"\x40\x00\x75\x02SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    answer(link, context, 0xFF00, opened * 500)
    answer(link, context, 0)


def other_message(link: Link, context: int, _: items.Attributes) -> None:
    answer(link, context, 0, message_id_responded_to=4711)


def another_command(link: Link, context: int, _: items.Attributes) -> None:
    answer(link, context, 0, command_field=CommandField.C_ECHO_RSP)


def failure(link: Link, context: int, _: items.Attributes) -> None:
    answer(link, context, 0xC0FE)


def no_dicom(link: Link, context: int, _: items.Attributes) -> None:
    link.wire.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n")


def half_a_message(link: Link, context: int, _: items.Attributes) -> None:
    link.wire.send_raw(b"\x04\x00\x00\x00\x01\x00\x00\x00")
    link.wire.close()


def hang_up(link: Link, context: int, _: items.Attributes) -> None:
    link.reset()


def fall_silent(link: Link, context: int, _: items.Attributes) -> None:
    link.scp.stopping.wait(30)


def success_without_objects(link: Link, context: int, _: items.Attributes) -> None:
    answer(link, context, 0, completed=3, failed=0, warning=0)


def give(link: Link, context: int, uid: str, data: bytes, cut: int = 0) -> None:
    """A C-STORE; `cut`: bytes that do not come before the connection ends."""
    at = next((number for number, (uid_of, _) in link.contexts.items() if uid_of == CT_CLASS), context)
    request: dict[int, int | str] = {
        Element.COMMAND_FIELD: CommandField.C_STORE_RQ,
        Element.AFFECTED_SOP_CLASS_UID: CT_CLASS,
        Element.AFFECTED_SOP_INSTANCE_UID: uid,
        Element.MESSAGE_ID: 77,
        Element.PRIORITY: 0,
        Element.DATA_SET_TYPE: 1,
    }
    if cut:
        link.wire.send_message(at, request)
        link.wire.send_raw(struct.pack(">BxLLBB", 4, len(data) + 6, len(data) + 2, at, 2) + data[:-cut])
        link.wire.close()
        return
    link.wire.send_message(at, request, data)
    link.wire.read_command(30)


def object_of(link: Link, uid: str, study: str) -> bytes:
    return encode(
        link, next(iter(link.contexts)), {0x00080016: CT_CLASS, SOP_UID: uid, STUDY_UID: study, PATIENT_ID: "P1"}
    )


def objects_nobody_asked_for(link: Link, context: int, keys: items.Attributes) -> None:
    give(link, context, "1.2.3.4.99.1", object_of(link, "1.2.3.4.99.1", "1.2.3.4.99"))
    answer(link, context, 0)


def objects_of_garbage(link: Link, context: int, keys: items.Attributes) -> None:
    for uid in keys[SOP_UID].values:
        give(link, context, uid, b"\x08\x00\x18\x00UI\xff\xff" + b"garbage " * 40)
    answer(link, context, 0)


def objects_with_another_uid_inside(link: Link, context: int, keys: items.Attributes) -> None:
    for uid in keys[SOP_UID].values:
        give(link, context, uid, object_of(link, "1.2.3.4.99.2", "1.2.3.4.99"))
    answer(link, context, 0)


def objects_that_are_cut(link: Link, context: int, keys: items.Attributes) -> None:
    uid = keys[SOP_UID].values[0]
    give(link, context, uid, object_of(link, uid, keys.text(STUDY_UID)) + bytes(3000), cut=2000)


ANSWERS_TO_QUERIES = (
    other_study, garbage, pending_without_data, sequences_without_end, other_message, another_command, failure,
    no_dicom, half_a_message, hang_up, fall_silent,
)  # fmt: skip
ANSWERS_TO_RETRIEVALS = (
    success_without_objects, objects_nobody_asked_for, objects_of_garbage, objects_with_another_uid_inside,
    objects_that_are_cut, other_message, another_command, failure, no_dicom, half_a_message, hang_up,
)  # fmt: skip


@dataclass(frozen=True)
class NonsenseArchives:
    name: str = "nonsense-archives"
    what: str = "archives that answer nonsense to C-FIND, C-GET and C-MOVE, all of them asked at once"
    survives: str = (
        "what is here is found, what is not whole is said, no object comes in that is not what was asked for"
    )
    long: int = 30
    quick: int = 1

    def play(self, place: Path, budget: Budget) -> Score:
        score = Score()
        with ExitStack() as stack:
            liars = [Archive(act, failure, "1.2.3.4.98") for act in ANSWERS_TO_QUERIES]
            givers = [
                Archive(say_what_it_has, act, f"1.2.3.4.{number}") for number, act in enumerate(ANSWERS_TO_RETRIEVALS)
            ]
            archives = [stack.enter_context(each) for each in (*liars, *givers)]
            names = [f"a{number}" for number in range(len(archives))]
            text = THROUGH.format(names=", ".join(f'"{name}"' for name in names))
            text += "".join(
                ARCHIVE.format(name=name, title=f"A{each.port}", port=each.port)
                for name, each in zip(names, archives, strict=True)
            )
            for number in budget.rounds(score):
                with Nursery() as nursery, Gateway(place / f"edge{number}", text, nursery) as gateway:
                    gateway.start()
                    score.tell(self._ask_all(gateway, place / f"made{number}", givers), f"round {number}")
        return score

    @staticmethod
    def _ask_all(gateway: Gateway, made: Path, givers: list[Archive]) -> list[str]:
        here = new_uid()
        files = ct_files(made, 2, 20_000, StudyInstanceUID=here, PatientID="P1")
        storescu(files, gateway.port)
        keys = {LEVEL: "STUDY", PATIENT_ID: "P1", STUDY_UID: ""}
        known, wrong = {here, *(each.study for each in givers)}, list[str]()
        end = time.monotonic() + HURRIED_SECONDS
        while True:  # an archive that has not answered in time is left out, and asked again later
            found = call(gateway.port, FIND, keys)
            said = {each.text(STUDY_UID) for each in found.answers}
            if not said < known or time.monotonic() > end:
                break
        wrong += [f"a query ended with {found.status:04X}"] if found.status else []
        wrong += (
            [f"answers lack {len(known - said)} studies, and have {len(said - known)} others"] if said != known else []
        )
        complete = call(gateway.port, FIND, keys, COMPLETE)
        wrong += (
            [f"an answer that is not complete ended with {complete.status:04X}"] if complete.status != 0xC001 else []
        )
        for each, act in zip(givers, ANSWERS_TO_RETRIEVALS, strict=True):
            got = call(gateway.port, GET, study_keys(each.study))
            while not (got.failed or got.objects) and time.monotonic() < end:
                got = call(gateway.port, GET, study_keys(each.study))
            if got.status not in (0xA702, 0xB000) or got.failed + len(got.objects) != 3 or not got.failed:
                wrong.append(f"{act.__name__}: {got.status:04X}, {got.failed} failed, {len(got.objects)} objects")
        mine = call(gateway.port, GET, study_keys(here))
        wrong += [] if (mine.status, len(mine.objects)) == (0, 2) else [f"what is here: {mine.status:04X}"]
        gateway.settled()
        ours = [sop_instance_uid(path) for path in files]
        asked_for = [*ours, *(uid for each in givers for uid in each.images)]
        wrong += [f"{uid} is here, which nobody asked for" for uid in stored(gateway) if uid not in asked_for]
        wrong += wrong_of_fetched(gateway, besides=ours)
        wrong += ["a thread fell"] if "Traceback" in gateway.words(10_000) else []
        return wrong


def stored(gateway: Gateway) -> list[str]:
    """What is kept as an instance, by its UID."""
    with closing(sqlite3.connect(gateway.data_dir / "catalog.db")) as conn:
        return [row[0] for row in conn.execute("SELECT sop_instance_uid FROM instance WHERE state = 'stored'")]


ROWS = (NonsenseArchives(),)
