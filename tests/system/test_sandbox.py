"""The worker of the codecs, taken over by an object: what it can still do, and what it cannot."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from edge.errors import TransformError, Transient
from edge.text import MIB
from edge.transform import Transcoder, sandbox, transcoder
from edge.transform.syntaxes import EXPLICIT_LITTLE, IMPLICIT_LITTLE, RLE
from tests.support.objects import read_meta
from tests.support.peers import REPOSITORY
from tests.unit.test_transform import image, only_worker, saved, workers_of

#: Runs in place of a conversion, in the worker, once it has given up what it does not need. Answers what succeeded.
TAKEN_OVER = """
import ctypes, mmap, os, resource, signal, socket, threading
import edge.transform.recode as recode
from edge.errors import TransformError

libc = ctypes.CDLL(None, use_errno=True)
PARENT = os.getppid()
MEMORY = ctypes.create_string_buffer(8)

def executable():
    if libc.mprotect(ctypes.c_void_p(PAGE), 4096, 7):
        raise OSError
    return True

def called(name, *arguments):
    if getattr(libc, name)(*arguments) < 0:
        raise OSError

class Span(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]

ADDRESS = Span(ctypes.addressof(MEMORY), 8)
THEIRS = Span(%(address)d, 8)
page = mmap.mmap(-1, 4096)
PAGE = ctypes.addressof(ctypes.c_char.from_buffer(page))

ACTS = {
    "read a file": lambda: open("/etc/passwd").read(1),
    "look for a file": lambda: os.stat("/etc/passwd"),
    "list files": lambda: os.listdir("/"),
    "make a file": lambda: open("%(folder)s/made", "w"),
    "remove a file": lambda: os.unlink("%(folder)s/in.dcm"),
    "rename a file": lambda: os.rename("%(folder)s/in.dcm", "%(folder)s/gone"),
    "change its rights": lambda: os.chmod("%(folder)s/in.dcm", 0o777),
    "ask the file system": lambda: os.statvfs("/"),
    "open a socket": lambda: socket.socket(),
    "open a local socket": lambda: socket.socket(socket.AF_UNIX),
    "make a pair": lambda: socket.socketpair(),
    "fork": lambda: os.fork() or os._exit(0),
    "start a thread": lambda: threading.Thread(target=print).start(),
    "start a program": lambda: os.execv("/bin/true", ["true"]),
    "signal the parent": lambda: os.kill(PARENT, 0),
    "read the parent's memory": lambda: called(
        "process_vm_readv", PARENT, ctypes.byref(ADDRESS), 1, ctypes.byref(THEIRS), 1, 0),
    "open the parent's memory": lambda: open(f"/proc/{PARENT}/mem", "rb"),
    "trace the parent": lambda: called("ptrace", 16, PARENT, 0, 0),
    "take the parent's descriptors": lambda: called("syscall", 434, PARENT, 0),
    "execute what it wrote": executable,
    "have more memory": lambda: resource.setrlimit(resource.RLIMIT_AS, (-1, -1)),
    "have a file in memory": lambda: os.memfd_create("x"),
    "ignore that its parent dies": lambda: signal.signal(signal.SIGIO, signal.SIG_IGN),
    "change its descriptors": lambda: __import__("fcntl").fcntl(0, 8, PARENT),
    "become another": lambda: os.setuid(12345),
    "ring": lambda: called("syscall", 425, 1, ctypes.create_string_buffer(120)),
    "load into the kernel": lambda: called("syscall", 321, 0, MEMORY, 8),
    "write what it only may read": lambda: os.pwrite(SOURCE, b"x", 0),
    "read what it only may write": lambda: os.pread(TARGET, 1, 0),
}
SOURCE = TARGET = -1

def taken_over(files, request):
    global SOURCE, TARGET
    SOURCE, TARGET = files.source, files.target
    done = []
    for name in %(acts)s or ACTS:
        try:
            ACTS[name]()
            done.append(name)
        except (OSError, RuntimeError, ValueError):
            pass
    raise TransformError("|" + "|".join(done))

recode.transcode = taken_over
"""

#: Acts that Landlock alone, without seccomp, must prevent; files that are not opened are not its concern.
FOR_LANDLOCK = (
    "read a file",
    "list files",
    "make a file",
    "remove a file",
    "rename a file",
    "open the parent's memory",
)

Attack = Callable[..., list[str]]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return saved(tmp_path / "in.dcm", image(np.zeros((64, 64), "u1")))


def convert(transcoder: Transcoder, source: Path, target_syntax: str, target: Path) -> None:
    transcoder.convert(source, read_meta(source.read_bytes())[1], EXPLICIT_LITTLE, target_syntax, target)


def boot(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Have workers run this before they serve."""
    begin, serve = transcoder.BOOT.rsplit(";", 1)
    text = code.replace("{", "{{").replace("}", "}}")
    monkeypatch.setattr(transcoder, "BOOT", f"{begin}; exec({text!r});{serve}")


@pytest.fixture
def attack(monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path) -> Iterator[Attack]:
    """The acts that a worker succeeded with after it was taken over; `weakened` runs in it before."""

    def run(weakened: str = "", acts: tuple[str, ...] = ()) -> list[str]:
        here = np.zeros(8, "u1")  # what it would read of our memory
        names = {"folder": tmp_path, "address": here.ctypes.data, "acts": repr(acts)}
        boot(monkeypatch, TAKEN_OVER % names + weakened)
        worker = Transcoder(workers=1)
        try:
            with pytest.raises(TransformError) as said:
                convert(worker, source, RLE, tmp_path / "out.dcm")
        finally:
            worker.close()
        text = str(said.value)
        assert text.startswith("|"), text
        return [name for name in text.split("|") if name]

    yield run
    assert source.exists()


def test_a_worker_that_was_taken_over_can_do_nothing(attack: Attack) -> None:
    assert attack() == []


def test_without_walls_it_could(attack: Attack) -> None:
    """The acts are real: with no wall at all they succeed."""
    acts = ("read a file", "list files", "open a socket", "execute what it wrote")
    if os.geteuid() == 0:  # others may be kept from it by Yama
        acts += ("read the parent's memory",)
    weakened = "import edge.transform.sandbox as s; s._restrict = s._filter = lambda *_: False"
    assert attack(weakened, acts) == list(acts)


def test_one_wall_is_enough_for_files(attack: Attack) -> None:
    """Landlock alone, where a kernel has no seccomp filter."""
    if sandbox_is_missing("Landlock"):
        pytest.skip("NOT TESTED HERE: this kernel has no Landlock")
    assert attack("import edge.transform.sandbox as s; s._filter = lambda *_: False", FOR_LANDLOCK) == []


def test_seccomp_alone_denies_it_all(attack: Attack) -> None:
    assert attack("import edge.transform.sandbox as s; s._restrict = lambda *_: False") == []


def sandbox_is_missing(wall: str) -> bool:
    script = "from edge.transform.sandbox import enter_sandbox; print(*enter_sandbox(1 << 32))"
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return wall in done.stdout


def test_what_this_kernel_lacks_is_said_and_no_hindrance(
    monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    boot(monkeypatch, "import edge.transform.sandbox as s; s._restrict = s._filter = lambda *_: False")
    worker = Transcoder(workers=1)
    with caplog.at_level(logging.WARNING):
        convert(worker, source, RLE, tmp_path / "out.dcm")
    worker.close()
    said = [record.getMessage() for record in caplog.records]
    assert [text for text in said if "Landlock" in text]
    assert [text for text in said if "seccomp" in text]


def test_it_holds_nothing_but_its_own(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen from outside: environment, descriptors, limits, filter; and it is the first to go when memory ends."""
    monkeypatch.setenv("SECRET", "open-sesame")
    before = {worker.pid for worker in workers_of(os.getpid())}
    worker = Transcoder(workers=1)
    with source.open("rb") as file:
        os.set_inheritable(file.fileno(), True)
        convert(worker, source, RLE, tmp_path / "out.dcm")
        process = only_worker(before)
    folder = Path(f"/proc/{process.pid}")
    try:
        status = dict(line.split(":\t", 1) for line in (folder / "status").read_text().splitlines())
        limits = (folder / "limits").read_text()
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert (folder / "oom_score_adj").read_text() == "1000\n"
        assert re.search(r"Max address space +4294967296 ", limits)
        assert re.search(r"Max core file size +0 +0 ", limits)
        assert re.search(r"Max open files +16 +16 ", limits)
        if os.geteuid() != 0:
            pytest.skip("NOT TESTED HERE: only root sees what else the worker has")
        names = {each.partition(b"=")[0] for each in (folder / "environ").read_bytes().split(b"\0")}
        assert names <= {b"", b"LC_CTYPE", b"MALLOC_TRIM_THRESHOLD_", b"MALLOC_MMAP_THRESHOLD_"}  # PEP 538, mallopt(3)
        descriptors = sorted(os.readlink(each).partition(":")[0] for each in (folder / "fd").iterdir())
        assert descriptors == ["/dev/null", "/dev/null", "pipe", "socket"]
    finally:
        worker.close()


def test_it_cannot_fill_the_disk(monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path) -> None:
    boot(
        monkeypatch,
        "import itertools, os, edge.transform.recode as r\n"
        "r.transcode = lambda f, _: [os.pwrite(f.target, bytes(1 << 20), n << 20) for n in itertools.count()]",
    )
    worker = Transcoder(workers=1, largest=MIB)
    with pytest.raises(TransformError, match="grows beyond"):
        convert(worker, source, RLE, tmp_path / "out.dcm")
    worker.close()
    assert not (tmp_path / "out.dcm").exists()


@pytest.mark.parametrize(
    "answer",
    [
        b"\xff",
        b"[]",
        b"[" * 50_000,
        b'{"dataset_offset": 0, "size": 1' + b"0" * 30 + b"}",
        b'{"dataset_offset": 0, "size": 7}',
        b'{"dataset_offset": -1, "size": 0}',
        b'{"refused": 5}',
        b'{"refused": "red \\u001b[31m\\n' + b"x" * 60_000 + b'"}',
        b'{"errno": 1' + b"0" * 30 + b"}",
        b'{"errno": "5"}',
    ],
)
def test_its_answers_are_not_trusted(
    monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path, answer: bytes
) -> None:
    boot(monkeypatch, f"import os, edge.transform.worker as w\nw._answer = lambda *_: os.write(0, {answer!r}) and {{}}")
    worker = Transcoder(workers=1)
    with pytest.raises((TransformError, Transient)) as said:
        convert(worker, source, RLE, tmp_path / "out.dcm")
    worker.close()
    assert len(str(said.value)) <= 500
    assert str(said.value).isprintable()
    assert not (tmp_path / "out.dcm").exists()


def test_a_worker_that_does_not_start_is_nobodys_fault(
    monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path
) -> None:
    """The object is not to blame: it is tried again."""
    monkeypatch.setattr(transcoder, "BOOT", "raise SystemExit(3) # {}")
    worker = Transcoder(workers=1)
    with pytest.raises(Transient, match=r"cannot start \(exit status 3\)"):
        convert(worker, source, RLE, tmp_path / "out.dcm")
    worker.close()


def test_it_finds_its_code_wherever_the_gateway_was_started(
    monkeypatch: pytest.MonkeyPatch, source: Path, tmp_path: Path
) -> None:
    """With an import path that is relative to the working directory, as `python -c` has it."""
    monkeypatch.chdir(REPOSITORY)
    monkeypatch.setattr(sys, "path", ["", *(each for each in sys.path if Path(each).resolve() != REPOSITORY)])
    worker = Transcoder(workers=1)
    convert(worker, source, RLE, tmp_path / "out.dcm")
    worker.close()


def test_codecs_are_loaded_only_where_frames_are(source: Path, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("NOT TESTED HERE: only root sees what the worker has loaded")
    before = {worker.pid for worker in workers_of(os.getpid())}
    worker = Transcoder(workers=1)
    convert(worker, source, IMPLICIT_LITTLE, tmp_path / "native.dcm")
    assert not loaded(only_worker(before)) & {"numpy", "gdcm", "openjpeg"}
    convert(worker, source, RLE, tmp_path / "frames.dcm")
    codecs = loaded(only_worker(before))
    worker.close()
    assert codecs >= {"numpy", "gdcm", "openjpeg"}


def loaded(process: psutil.Process) -> set[str]:
    """What libraries it has mapped, of those that matter."""
    maps = Path(f"/proc/{process.pid}/maps").read_text()
    return {name for name in ("numpy", "gdcm", "openjpeg") if name in maps}


@pytest.mark.parametrize(("version", "length"), [(1, 8), (3, 8), (4, 16), (6, 24), (9, 24)])
def test_each_kernel_is_asked_for_what_it_knows(version: int, length: int) -> None:
    assert len(sandbox.landlock_attributes(version)) == length
