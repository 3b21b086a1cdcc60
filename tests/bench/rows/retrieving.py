"""C-FIND, C-GET and C-MOVE beside Orthanc and DCMTK's dcmqrscp, all asked by the same programs of DCMTK.

What comes is dropped by who asked for it, so that no other disk is measured. Time is from the start of the program that
asks to its end.
"""

from __future__ import annotations

import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench.lean import send_lean
from tests.bench.peers import EDGE, LONGEST, ORTHANC, STORESCU, Gateway, QuietOrthanc, Storescp, archive_at, send
from tests.bench.row import SECONDS, Figures, Target
from tests.bench.stage import GB, KIB, Stage
from tests.support.objects import ct_files, new_uid
from tests.support.peers import ENVIRONMENT, free_port, requires
from tests.support.querying import DcmqrScp

DCMQRSCP = "dcmqrscp"
PEERS = (EDGE, ORTHANC, DCMQRSCP)
RATE, ONE, ALL = "s/GB", "ms, one study", "ms, all studies"
#: Each question is asked this often; the best counts.
TIMES = 5
QUERY = '[query]\n[modality.any]\nae_title = "*"\nservices = ["echo", "store", "query", "retrieve"]\n'


class QuietDcmqrScp(DcmqrScp):
    def command(self) -> list[str]:
        return [word for word in super().command() if word != "-v"]


@contextmanager
def query_server(peer: str, directory: Path, to: int) -> Iterator[Any]:
    """A server by its name in the table, which may move objects to ARCHIVE on port `to`."""
    folder = directory / "server"
    if peer == EDGE:
        server: Any = Gateway(
            folder,
            archive_at(to, more=QUERY).replace('to = ["archive"]', 'to = ["archive"]\nwhen = { Modality = "NONE" }'),
        )
    elif peer == ORTHANC:
        more: dict[str, Any] = {"DicomAlwaysAllowGet": True, "DicomAlwaysAllowMove": True, "DicomThreadsCount": 16}
        server = QuietOrthanc(folder, to, DicomModalities={"archive": ["ARCHIVE", "127.0.0.1", to]}, **more)
    else:
        server = QuietDcmqrScp(folder, f"archive = (ARCHIVE, 127.0.0.1, {to})")
    with server:
        yield server


def ask(program: str, server: Any, *words: str) -> float:
    """The seconds of one question. AssertionError where it does not end with success."""
    where = ["-v", "-S", "-aet", "BENCH", "-aec", server.ae_title, "127.0.0.1", str(server.port)]
    command, began = [requires(program), *where, *words], time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=LONGEST, check=False)
    seconds = time.perf_counter() - began
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-2000:]
    assert "(Success)" in said, said[-2000:]
    return seconds


def keys(*pairs: str) -> list[str]:
    return [word for pair in ("QueryRetrieveLevel=STUDY", *pairs) for word in ("-k", pair)]


@dataclass(frozen=True)
class Find:
    """One study by its Patient ID, and all of them with their counts."""

    name: str = "find"
    what: str = "C-FIND of 200 studies"
    studies: int = 200
    peers: tuple[str, ...] = PEERS
    targets: tuple[Target, ...] = (Target(ONE, (ORTHANC, DCMQRSCP)), Target(ALL, (ORTHANC,), 1.0))

    def measure(self, peer: str, stage: Stage) -> Figures:
        count = stage.few(self.studies, 20)
        made = stage.once(f"studies-{count}", lambda path: make_studies(path, count))
        with stage.directory() as directory, query_server(peer, directory, free_port()) as server:
            send(STORESCU, sorted(made.iterdir()), server.port, server.ae_title)
            wanted = keys("StudyInstanceUID", "PatientName", "StudyDate")
            one = min(ask("findscu", server, *wanted, "-k", "PatientID=P7") for _ in range(TIMES))
            whole = min(ask("findscu", server, *wanted, "-k", "PatientID") for _ in range(TIMES))
        return {ONE: 1000 * one, ALL: 1000 * whole}


def make_studies(path: Path, count: int) -> None:
    for number in range(count):
        ct_files(path / f"{number}", 1, 2 * KIB, StudyInstanceUID=new_uid(), PatientID=f"P{number}")


@dataclass(frozen=True)
class Retrieve:
    """A study of CT slices, the best of some times."""

    name: str
    what: str
    program: str
    words: Sequence[str]
    count: int = 200
    peers: tuple[str, ...] = PEERS
    targets: tuple[Target, ...] = (Target(RATE, (ORTHANC, DCMQRSCP), 1.0), Target(SECONDS))

    def measure(self, peer: str, stage: Stage) -> Figures:
        count, uid = stage.few(self.count, 40), "1.2.826.0.1.3680043.8.498.200"
        made = stage.once(f"study-{count}", lambda path: ct_files(path, count, 512 * KIB, StudyInstanceUID=uid))
        gigabytes = sum(path.stat().st_size for path in made.iterdir()) / GB
        with (
            stage.directory() as directory,
            Storescp(directory / "to", args=["--ignore"], fork=False) as to,
            query_server(peer, directory, to.port) as server,
        ):
            send(STORESCU, [made], server.port, server.ae_title)
            time.sleep(2.0)  # what is done behind the answer is done, at all
            wanted = keys(f"StudyInstanceUID={uid}")
            seconds = min(ask(self.program, server, *self.words, *wanted) for _ in range(TIMES))
        return {RATE: seconds / gigabytes, SECONDS: seconds}


NOBODY_ASKS = "edge, nobody asks"
EACH, P99 = "ms an object", "ms, answers p99"
#: Between two questions of the viewer that asks all the while.
PAUSE_SECONDS = 0.25


@contextmanager
def asking(server: Any, log: Path) -> Iterator[None]:
    """A viewer meanwhile: `findscu` for all studies, again and again. AssertionError where it had no answer."""
    where = ["-v", "-S", "-aet", "BENCH", "-aec", server.ae_title, "127.0.0.1", str(server.port)]
    question = shlex.join([requires("findscu"), *where, *keys("StudyInstanceUID", "PatientName", "PatientID")])
    loop = f"while {question}; do sleep {PAUSE_SECONDS}; done"
    with log.open("wb") as output:
        viewer = subprocess.Popen(["sh", "-c", loop], stdout=output, stderr=output, env=ENVIRONMENT)
        try:
            yield
            assert viewer.poll() is None, log.read_text()[-2000:]
        finally:
            viewer.kill()
            viewer.wait()
    assert "(Success)" in log.read_text(), "the viewer had no answer"


@dataclass(frozen=True)
class Beside:
    """C-STORE while a viewer asks, and while nobody does: two senders from memory, a catalog of 200 studies."""

    name: str = "beside"
    what: str = "in, CT 512 KiB, lean sender, 2 associations, while findscu asks four times a second"
    studies: int = 200
    count: int = 600
    peers: tuple[str, ...] = (EDGE, NOBODY_ASKS)
    targets: tuple[Target, ...] = (Target(EACH, (NOBODY_ASKS,), 0.97), Target(P99, (NOBODY_ASKS,)))

    def measure(self, peer: str, stage: Stage) -> Figures:
        studies, count = stage.few(self.studies, 20), stage.few(self.count, 40)
        made = stage.once(f"studies-{studies}", lambda path: make_studies(path, studies))
        slice_ = stage.objects(1, 512 * KIB).files()[0]
        with stage.directory() as directory, query_server(EDGE, directory, free_port()) as server:
            if not stage.quick:
                server.wait_at_rest()
            send(STORESCU, sorted(made.iterdir()), server.port, server.ae_title)
            with asking(server, directory / "asked.log") if peer == EDGE else nullcontext():
                sent = send_lean(server.port, server.ae_title, slice_, 2, count)
        assert len(sent.answers) == count, f"{len(sent.answers)} of {count} objects were answered"
        return {EACH: 1000 * sent.seconds / count, P99: 1000 * sent.percentile(0.99)}


ROWS = (
    Find(),
    Beside(),
    Retrieve("get", "C-GET, CT 512 KiB", "getscu", ("--ignore",)),
    Retrieve("move", "C-MOVE, CT 512 KiB, to a storescp", "movescu", ("-aem", "ARCHIVE")),
)
