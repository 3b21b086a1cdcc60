"""Objects that nobody should send: each is stored or refused, quickly, in little memory, and byte for byte."""

from __future__ import annotations

import hashlib
import random
import sqlite3
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from edge.dicom import header
from edge.dicom.acse import Context
from edge.dicom.scu import Association, Patience
from edge.errors import EdgeError, Unreadable
from tests.support.objects import new_uid
from tests.support.peers import free_port
from tests.torture.besieged import MB
from tests.torture.custody import CT, EXPLICIT, store
from tests.torture.gateway import Gateway, archive_at
from tests.torture.messages import mutated
from tests.torture.row import Budget, Score

IMPLICIT, BIG, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.1.99"
SYNTAXES = (EXPLICIT, IMPLICIT, BIG, DEFLATED, "1.2.840.10008.1.2.4.90")
SECONDS, GROWTH = 1.0, 64 * MB
ITEM, END_ITEM, END_SEQUENCE = (
    struct.pack("<HHL", 0xFFFE, n, s) for n, s in ((0xE000, 0xFFFFFFFF), (0xE00D, 0), (0xE0DD, 0))
)


def element(tag: int, vr: bytes, value: bytes, length: int | None = None) -> bytes:
    """Explicit little endian; `length`: what it claims."""
    size = len(value) if length is None else length
    if vr in (b"OB", b"OW", b"SQ", b"UN", b"UT"):
        return struct.pack("<HH2sHL", tag >> 16, tag & 0xFFFF, vr, 0, size) + value
    return struct.pack("<HH2sH", tag >> 16, tag & 0xFFFF, vr, size & 0xFFFF) + value


def even(value: bytes, pad: bytes = b"\0") -> bytes:
    return value + pad * (len(value) % 2)


def sound(uid: str, more: bytes = b"", sop_class: str = CT, study: str = "1.2.3.4", **texts: bytes) -> bytes:
    """A data set with what the catalog reads; `more` goes before the pixel data."""
    return b"".join(
        (
            element(0x00080005, b"CS", texts.get("charset", b"ISO_IR 100")),
            element(0x00080016, b"UI", even(sop_class.encode())),
            element(0x00080018, b"UI", even(uid.encode("latin-1"))),
            element(0x00080060, b"CS", b"CT"),
            element(0x00100010, b"PN", even(texts.get("name", b"Test^Patient"), b" ")),
            element(0x00100020, b"LO", even(texts.get("id", b"P1"), b" ")),
            element(0x0020000D, b"UI", even(study.encode("latin-1"))),
            element(0x0020000E, b"UI", even(study.encode("latin-1") + b".1")),
            more,
            element(0x7FE00010, b"OW", bytes(64)),
        )
    )


def nested(uid: str, depth: int) -> bytes:
    return sound(uid, (element(0x00400275, b"SQ", b"", 0xFFFFFFFF) + ITEM) * depth + (END_ITEM + END_SEQUENCE) * depth)


def deflated(data: bytes) -> bytes:
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    return even(squeeze.compress(data) + squeeze.flush())


CRAFTED = {
    "log lines": b"x\r\nCRITICAL edge: all is lost\r\n",
    "terminal escapes": b"\x1b]0;pwned\x07\x1b[31m",
    "HTML": b"<script>alert(1)</script>\"'><img src=x onerror=alert(1)>",
    "SQL": b"'; DROP TABLE instance; --",
    "CSV formula": b'=cmd|"/C calc"!A0',
    "syslog": b"<0>1 2026-01-01T00:00:00Z evil - - - pwned",
    "format string": b"%s%s%s%n{0.__class__}${jndi:ldap://x/}",
    "Unicode": "\u202eevil\ufeff\u0000".encode(),
}
UIDS = {
    "slashes": "../../../../tmp/pwned",
    "an absolute path": "/tmp/w-pwned",
    "NULs": "1.2\0.3/../x",
    "200 characters": "1." * 99 + "11",
    "letters": "1.2.x.3",
    "newlines": "1.2\n.3",
    "nothing": "",
    "trailing blanks": "{uid}   ",
    "a leading zero": "1.2.03.4",
}


@dataclass(frozen=True)
class Case:
    """What is sent: (SOP Instance UID of the command, data set); in which syntax."""

    name: str
    make: Callable[[str], tuple[str, bytes]]
    syntax: str = EXPLICIT


def _deep(depth: int, uid: str) -> tuple[str, bytes]:
    return uid, nested(uid, depth)


def _gigantic(vr: bytes, uid: str) -> tuple[str, bytes]:
    return uid, sound(uid, element(0x00091010, vr, b"x" * 10, 0xFFFFFFFE))


def _named(bad: str, uid: str) -> tuple[str, bytes]:
    return bad.format(uid=uid), sound(bad.format(uid=uid))


def _written_in(charset: bytes, uid: str) -> tuple[str, bytes]:
    return uid, sound(uid, charset=even(charset, b" "), name=b"\xff\xfe\x81\x1b$B^")


def _about(text: bytes, uid: str) -> tuple[str, bytes]:
    return uid, sound(uid, name=text, id=text)


def _behind(magic: bytes, uid: str) -> tuple[str, bytes]:
    return uid, magic.ljust(128, b"\0") + b"DICM" + sound(uid)


def cases() -> Iterator[Case]:
    yield Case("sound", lambda uid: (uid, sound(uid)))
    for depth in (65, 1_000, 100_000):
        yield Case(f"nesting {depth:,} deep", partial(_deep, depth))
    yield Case("nesting of defined length", lambda uid: (uid, sound(uid, _defined(2_000))))
    items = (
        element(0x00400275, b"SQ", b"", 0xFFFFFFFF) + struct.pack("<HHL", 0xFFFE, 0xE000, 0) * 1_000_000 + END_SEQUENCE
    )
    yield Case("a million empty items", lambda uid: (uid, sound(uid, items)))
    yield Case("a million empty elements", lambda uid: (uid, sound(uid, element(0x00090010, b"LO", b"") * 1_000_000)))
    for vr in (b"UN", b"OB", b"SQ", b"UT"):
        yield Case(f"{vr.decode()} of 4 GB", partial(_gigantic, vr))
    yield Case("first element of 4 GB", lambda uid: (uid, element(0x00080005, b"UN", b"", 0xFFFFFFF0) + sound(uid)))
    yield Case(
        "deflate bomb, 1000:1",
        lambda uid: (uid, deflated(sound(uid, element(0x00091010, b"OB", bytes(100 * MB))))),
        DEFLATED,
    )
    yield Case(
        "deflate bomb before the UIDs",
        lambda uid: (uid, deflated(element(0x00080001, b"UN", bytes(200 * MB)) + sound(uid))),
        DEFLATED,
    )
    yield Case("deflated noise", lambda uid: (uid, random.Random(1).randbytes(10_000)), DEFLATED)
    yield Case(
        "no SOP Instance UID",
        lambda uid: (uid, sound(uid).replace(element(0x00080018, b"UI", even(uid.encode())), b"")),
    )
    yield Case("SOP Instance UID twice", lambda uid: (uid, element(0x00080018, b"UI", b"1.2.9\0") + sound(uid)))
    yield Case("another UID than the command's", lambda uid: (uid, sound("1.2.3.9")))
    yield Case("no Study Instance UID", lambda uid: (uid, sound(uid, study="")))
    yield Case("a study UID with slashes", lambda uid: (uid, sound(uid, study="../../etc/passwd")))
    for what, bad in UIDS.items():
        yield Case(f"UID with {what}", partial(_named, bad))
    for charset in (b"ISO 2022 IR 999", b"\xff\xfe", b"\\\\\\\\", b"ISO_IR 192", b"GB18030", b"'; DROP"):
        yield Case(
            f"character set {charset!r}",
            partial(_written_in, charset),
        )
    for what, text in CRAFTED.items():
        yield Case(f"values made for {what}", partial(_about, text))
    for magic in (b"MZ\x90\0", b"\x7fELF", b"#!/bin/sh\n"):
        yield Case(
            f"{magic[:4]!r} where a preamble would be",
            partial(_behind, magic),
        )
    yield Case("nothing at all", lambda uid: (uid, b""))
    yield Case("one byte", lambda uid: (uid, b"\x08"))
    yield Case("zeros", lambda uid: (uid, bytes(MB)))
    yield Case("ones", lambda uid: (uid, b"\xff" * MB))
    yield Case(
        "a VR that is none", lambda uid: (uid, sound(uid, struct.pack("<HH2sHL", 9, 16, b"\0\1", 0, 0xFFFFFFFF)))
    )
    yield Case("big endian as little", lambda uid: (uid, sound(uid)), BIG)
    yield Case("explicit as implicit", lambda uid: (uid, sound(uid)), IMPLICIT)


def _defined(depth: int) -> bytes:
    data = b""
    for _ in range(depth):
        data = element(0x00400275, b"SQ", struct.pack("<HHL", 0xFFFE, 0xE000, len(data)) + data)
    return data


@dataclass(frozen=True)
class Hostile:
    name: str = "hostile-objects"
    what: str = (
        "nesting, a million items, lengths of 4 GB, bombs, bad UIDs and character sets, executables, crafted values"
    )
    survives: str = (
        "stored or refused within 1 s and 64 MB; kept byte for byte or quarantined with a reason; no path from the wire"
    )
    long: int = 0
    quick: int = 0

    def play(self, place: Path, budget: Budget) -> Score:
        score, slowest, most = Score(), 0.0, 0
        limit = budget.within(SECONDS)
        with Gateway(place / "edge", archive_at(free_port())) as gateway:
            gateway.start()
            _store(gateway, Case("first", lambda uid: (uid, sound(uid))), new_uid())
            before = gateway.memory()
            for case in cases():
                wrong, made = [], case.make(new_uid())
                for each in gateway.processes():
                    Path(f"/proc/{each.pid}/clear_refs").write_text("5")
                began, base = time.monotonic(), _peak(gateway)
                try:
                    status: int | str = _store(gateway, case, *made)
                except EdgeError as error:
                    status = str(error)
                took = time.monotonic() - began
                if gateway.has_ended():
                    score.tell(["the gateway has died"], case.name)
                    break
                peak = _peak(gateway) - base
                slowest, most = max(slowest, took), max(most, peak)
                wrong += [f"{took:.2f} s"] if took > limit + len(made[1]) / (100 * MB) else []
                wrong += [f"{peak / MB:.0f} MB"] if peak > GROWTH else []
                wrong += _kept(gateway, made, status)
                score.tell(wrong, case.name)
            strange = _unknown(place / "edge", gateway)
            score.tell(strange + self._shown(gateway, place), "afterwards")
            score.figures = {
                "s, most": slowest,
                "MB more, most": most / MB,
                "MB more in the end": (gateway.memory() - before) / MB,
            }
        return score

    @staticmethod
    def _shown(gateway: Gateway, place: Path) -> list[str]:
        """What was crafted for those who show it harms nobody: neither the log nor the console's pages."""
        said = gateway.log.read_bytes() + gateway.http("/api/status")[1] + gateway.http("/metrics")[1]
        wrong = [
            f"{what} came through to a reader"
            for what, text in CRAFTED.items()
            if what != "format string" and text[:12] in said
        ]
        return wrong + (
            ["a control character is in the log"] if any(c in said for c in (b"\x1b", b"\x07", b"\r")) else []
        )


def _store(gateway: Gateway, case: Case, uid: str, data: bytes | None = None) -> int:
    if data is None:
        uid, data = case.make(uid)
    patience = Patience(connect=60, associate=60, answer=120)
    association = Association.open(
        "127.0.0.1", gateway.port, "CT1", "EDGE", [Context(1, CT, (case.syntax,))], patience=patience
    )
    try:
        return store(association, uid, data)
    finally:
        association.abort()


def _peak(gateway: Gateway) -> int:
    """The most bytes that its processes had in memory since clear_refs, each at its own time."""
    lines = [line for each in gateway.processes() for line in Path(f"/proc/{each.pid}/status").read_text().splitlines()]
    return sum(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) * 1024


def _kept(gateway: Gateway, made: tuple[str, bytes], status: int | str) -> list[str]:
    """With success: in the catalog, byte for byte. Otherwise nowhere, or in quarantine with a reason, byte for byte."""
    digest = hashlib.sha256(made[1]).digest()
    gateway.settled()
    with closing(sqlite3.connect(f"file:{gateway.data_dir / 'catalog.db'}?mode=ro", uri=True)) as conn:
        row = conn.execute(
            "SELECT state, reason, path, dataset_offset FROM instance WHERE sha256 = ?", (digest,)
        ).fetchone()
    if row is None:
        return ["answered with success and not kept"] if status == 0 else []
    state, reason, path, offset = row
    wrong = [] if (state in ("stored", "conflict")) == (status == 0) else [f"answered {status} and kept as {state}"]
    wrong += ["quarantined without a reason"] if state == "quarantined" and not reason else []
    kept = (gateway.data_dir / "spool" / path).read_bytes()
    wrong += ["not kept byte for byte"] if kept[offset:] != made[1] else []
    return wrong + (["it begins with what the sender chose"] if kept[:128].strip(b"\0") else [])


def _unknown(root: Path, gateway: Gateway) -> list[str]:
    """Files that none of us has named."""
    known = {"edge.log", "conf.d", "notify", "data"}
    wrong = [f"{path} has appeared" for path in root.iterdir() if path.name not in known]
    spool = [path for path in (gateway.data_dir / "spool").rglob("*") if path.is_file()]
    wrong += [f"{path.name} in the spool" for path in spool if not _ours(path)]
    return wrong + [f"{path} has appeared" for path in map(Path, ("/tmp/pwned", "/tmp/w-pwned")) if path.exists()]


def _ours(path: Path) -> bool:
    return path.suffix == ".dcm" and len(path.stem) in (24, 32) and set(path.stem) <= set("0123456789abcdef")


@dataclass(frozen=True)
class FuzzObjects:
    name: str = "fuzz-objects"
    what: str = "data sets with something wrong, into the scan of the header; one in twenty through the gateway"
    survives: str = "each is read or refused in words, within a second; stored byte for byte or quarantined"
    long: int = 100_000
    quick: int = 5_000

    def play(self, place: Path, budget: Budget) -> Score:
        score, slowest = Score(), 0.0
        wanted = frozenset((0x00080016, 0x00080018, 0x00080060, 0x00100010, 0x00100020, 0x0020000D, 0x0020000E))
        with ExitStack() as stack:
            gateway = stack.enter_context(Gateway(place / "edge", archive_at(free_port())))
            gateway.start()
            contexts = [Context(2 * n + 1, CT, (syntax,)) for n, syntax in enumerate(SYNTAXES)]
            association = None
            for number in budget.rounds():
                chance, uid, wrong = budget.chance(number), new_uid(), []
                data = mutated(self._sound(uid, chance), chance)
                data += bytes(len(data) & 1)  # what goes out has no odd fragment (PS3.8 annex E.2)
                syntax = chance.choice(SYNTAXES)
                began = time.perf_counter()
                wrong += self._scan(data, syntax, wanted)
                took = time.perf_counter() - began
                slowest = max(slowest, took)
                wrong += [f"{took:.2f} s"] if took > budget.within(SECONDS) else []
                if number % 20 == 0:
                    association = association or Association.open("127.0.0.1", gateway.port, "CT1", "EDGE", contexts)
                    try:
                        status = store(association, uid, data, 1 + 2 * SYNTAXES.index(syntax))
                        wrong += _kept(gateway, (uid, data), status)
                    except EdgeError as error:
                        association = None
                        wrong.append(f"the association broke: {error}")
                score.tell(wrong, f"data set {number}, seed {budget.seed}")
            if gateway.has_ended():
                score.tell(["the gateway has died"])
        score.figures = {"s for one, most": slowest}
        return score

    @staticmethod
    def _scan(data: bytes, syntax: str, wanted: frozenset[int]) -> list[str]:
        try:
            header.scan(lambda at, n: data[at : at + n], len(data), syntax, wanted, wanted)
        except Unreadable:
            pass
        except Exception as error:  # noqa: BLE001  whatever else comes is what is looked for
            return [f"{type(error).__name__}: {error}"]
        return []

    @staticmethod
    def _sound(uid: str, chance: random.Random) -> bytes:
        data = sound(uid, nested("", 3)[:200] if chance.random() < 0.3 else b"")
        return deflated(data) if chance.random() < 0.1 else data


ROWS = (Hostile(), FuzzObjects())
