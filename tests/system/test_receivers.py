"""The receiving processes: where one dies, or the daemon, what was answered is kept, and nothing else is answered."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from unittest.mock import MagicMock

import psutil
import pytest

from edge.daemon import receivers
from edge.daemon.receivers import MOST_RECEIVERS, ORDER_SECONDS, Receivers, count_receivers
from edge.dicom.command import Element
from edge.dicom.wire import Wire
from edge.errors import AssociationRejected, PeerError
from tests.support.objects import ct_files, dataset, sop_instance_uid
from tests.support.peers import REPOSITORY, Edge, echoscu, storescu, wait_until
from tests.wire.test_receive import WIRES, caller, store, store_rq

ROUTE = '[destination.archive]\nae_title = "NOBODY"\nhost = "127.0.0.1"\nport = 1\n[route.all]\nto = ["archive"]\n'
MODALITY = ROUTE + '[modality.ct]\nae_title = "CT1"\nassociations = {most}\n'

pytestmark = pytest.mark.skipif(count_receivers() < 2, reason="one core: one receiving process")


def receivers_of(edge: Edge) -> list[psutil.Process]:
    found = []
    for each in psutil.Process(edge.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it has ended since it was listed
            found += [each] if each.name() == "edge-receiver" else []
    return found


def holder_of(edge: Edge, wire: Wire) -> psutil.Process:
    """The receiving process that has the other end of an association."""
    port = wire.sock.getsockname()[1]
    for process in receivers_of(edge):
        if any(each.raddr and each.raddr.port == port for each in process.net_connections("tcp")):
            return process
    raise AssertionError("nobody holds it")


def is_alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


class Sending(threading.Thread):
    """Sends objects over one association until it is lost; keeps what was answered with success."""

    def __init__(self, port: int, files: list[Path]) -> None:
        super().__init__(daemon=True)
        self.wire, self._files = caller(port), files
        self.answered: list[str] = []

    def run(self) -> None:
        for path in self._files:
            try:
                answer = store(self.wire, path)
            except PeerError:
                return
            if answer.number(Element.STATUS) == 0:
                self.answered.append(sop_instance_uid(path))


def sending(edge: Edge, folder: Path, many: int = 4) -> list[Sending]:
    """So many associations that store, in the midst of it."""
    files = ct_files(folder, many * 400, 30_000)
    threads = [Sending(edge.port, files[at::many]) for at in range(many)]
    for thread in threads:
        thread.start()
    wait_until(lambda: all(len(each.answered) > 20 for each in threads), 30, "all of them store")
    return threads


def kept(edge: Edge) -> set[str]:
    edge.settle(20)
    return {sop_instance_uid(path) for path in (edge.data_dir / "spool").rglob("*.dcm")}


@pytest.fixture(autouse=True)
def _hang_up() -> Iterator[None]:
    yield
    while WIRES:
        WIRES.pop().close()


@pytest.fixture
def edge(tmp_path: Path, running: ExitStack) -> Edge:
    return running.enter_context(Edge(tmp_path / "edge", ROUTE))


class Ending:
    """A receiving process that ends as soon as it is asked for something, `count` times; then no more is started."""

    def __init__(self, receivers: Receivers, count: int) -> None:
        self._receivers, self._left, self.pauses = receivers, count, list[float]()
        receivers._start_one = self._start  # type: ignore[assignment,method-assign]
        receivers._stopping.wait = self._wait  # type: ignore[assignment,method-assign]

    def _start(self) -> MagicMock:
        self._left -= 1
        if self._left < 0:
            raise EOFError
        process = MagicMock()
        self._receivers._running.append(process)
        return process

    def _wait(self, seconds: float | None = None) -> bool:
        self.pauses.append(seconds or 0.0)
        return False


@pytest.mark.parametrize(("lived", "pause"), [(0.0, 1.0), (0.4, 0.6), (5.0, 0.0)])
def test_one_that_ends_is_replaced_within_a_second(monkeypatch: pytest.MonkeyPatch, lived: float, pause: float) -> None:
    """At once where it has lived for a second, so that those which end as they start are not started without end."""
    now = [0.0]
    monkeypatch.setattr(receivers, "serve_link", lambda *_: now.__setitem__(0, now[0] + lived))
    monkeypatch.setattr(receivers.time, "monotonic", lambda: now[0])
    made = Receivers(MagicMock(), MagicMock(), MagicMock(), MagicMock(), 0)
    ending = Ending(made, 3)
    made._keep_one()
    assert ending.pauses == [pytest.approx(pause)] * 3


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("error", [EOFError, MemoryError])
def test_one_that_is_not_replaced_any_more_ends_the_gateway(error: type[Exception]) -> None:
    """systemd starts it again."""
    made = Receivers(MagicMock(), MagicMock(), MagicMock(), MagicMock(), 0)
    made._start_one = MagicMock(side_effect=error)  # type: ignore[method-assign]
    made.check()
    for thread in made._threads:
        thread.start()
        thread.join()
    with pytest.raises(RuntimeError, match="is not replaced"):
        made.check()
    made.drain(0.0)
    made.check()


def test_associations_are_spread_over_the_processes(edge: Edge) -> None:
    wires = [caller(edge.port) for _ in range(4)]
    holders = [holder_of(edge, wire).pid for wire in wires]
    assert sorted(map(holders.count, set(holders))) == [4 // count_receivers()] * count_receivers()


def test_what_a_killed_process_has_answered_is_kept_and_another_one_serves(edge: Edge, tmp_path: Path) -> None:
    threads = sending(edge, tmp_path / "ct")
    before = {each.pid for each in receivers_of(edge)}
    doomed = holder_of(edge, threads[0].wire)
    theirs = [each for each in threads if holder_of(edge, each.wire).pid == doomed.pid]
    doomed.kill()
    for each in theirs:
        each.join(60)
        assert not each.is_alive()

    def is_replaced() -> bool:
        found = {each.pid for each in receivers_of(edge)}
        return len(found) == len(before) and doomed.pid not in found

    wait_until(is_replaced, 2, "another process takes its place")  # the other one never stops serving
    others = [each for each in threads if each not in theirs]
    for each in others:
        each.join(60)
        assert len(each.answered) == 400, "the other process has served on"
    answered = {uid for each in threads for uid in each.answered}
    wait_until(lambda: answered <= kept(edge), 20, "all that was answered is kept")
    for _ in range(4):
        storescu(ct_files(tmp_path / "more", 2, 10_000), edge.port)
    status = edge.api_status()
    assert (status["state"], status["journal"]["applied_lag_seconds"]) == ("running", 0)


def test_what_a_killed_process_was_receiving_into_a_file_goes(edge: Edge, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "ct", 1, 8_000_000)
    wire, journal = caller(edge.port), edge.data_dir / "journal"
    whole = wire.send_raw

    def send_half(data: bytes | bytearray | memoryview, wait: float = 10) -> None:
        whole(memoryview(data)[: len(data) // 2], wait)

    wire.send_raw = send_half  # type: ignore[method-assign]
    wire.send_message(1, store_rq(sop_instance_uid(path)), dataset(path))
    wait_until(lambda: list(journal.glob("*.part")), 10, "it is received into a file")
    holder_of(edge, wire).kill()
    wait_until(lambda: not list(journal.glob("*.part")), 10, "the file goes, for nobody was answered")
    storescu([path], edge.port)
    assert kept(edge) == {sop_instance_uid(path)}


def test_when_all_processes_are_killed_service_resumes(edge: Edge, tmp_path: Path) -> None:
    threads = sending(edge, tmp_path / "ct")
    for process in receivers_of(edge):
        process.kill()
    # What was handed on to a process at the moment of its death is lost with it.
    wait_until(lambda: echoscu(edge.port, check=False).returncode == 0, 2, "service resumes")
    assert len(receivers_of(edge)) == count_receivers() or edge.output().count("another one takes its place") >= 1
    for each in threads:
        each.join(60)
    answered = {uid for each in threads for uid in each.answered}
    wait_until(lambda: answered <= kept(edge), 20, "all that was answered is kept")


def test_when_the_daemon_is_killed_nothing_is_answered_that_is_not_replayed(edge: Edge, tmp_path: Path) -> None:
    threads = sending(edge, tmp_path / "ct")
    children = psutil.Process(edge.pid).children(recursive=True)
    os.kill(edge.pid, signal.SIGKILL)
    psutil.wait_procs(children, 60)
    wait_until(lambda: not any(map(is_alive, children)), 5, "none is left")
    for each in threads:
        each.join(60)
        assert not each.is_alive(), "nobody answers it any more"
        assert len(each.answered) < 400
    answered = {uid for each in threads for uid in each.answered}
    edge.kill()
    edge.start()
    assert answered <= kept(edge)


def test_a_start_waits_for_receiving_processes_of_the_run_before(edge: Edge) -> None:
    """One that is still about to write its record must not do so under the next daemon."""
    for process in receivers_of(edge):
        assert any(link.resolve().name == "edge.lock" for link in Path(f"/proc/{process.pid}/fd").iterdir())
    edge.kill()
    lock = os.open(edge.data_dir / "edge.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)  # one that is slow to end
    threading.Timer(1.0, os.close, [lock]).start()
    edge.start()


def test_a_limit_counts_the_associations_of_all_processes(tmp_path: Path, running: ExitStack) -> None:
    edge = running.enter_context(Edge(tmp_path / "edge", MODALITY.format(most=3), unknown="refuse"))
    wires = [caller(edge.port) for _ in range(3)]
    assert len({holder_of(edge, wire).pid for wire in wires}) == 2
    with pytest.raises(AssociationRejected, match="local limit exceeded"):
        caller(edge.port)
    doomed = holder_of(edge, wires[0])
    ended = sum(holder_of(edge, wire).pid == doomed.pid for wire in wires)
    before = {each.pid for each in receivers_of(edge)}
    doomed.kill()
    wait_until(lambda: {each.pid for each in receivers_of(edge)} - before, 5, "another one takes its place")
    for _ in range(ended):
        caller(edge.port)
    with pytest.raises(AssociationRejected, match="local limit exceeded"):
        caller(edge.port)


def test_a_reload_reaches_every_process(tmp_path: Path, running: ExitStack) -> None:
    edge = running.enter_context(Edge(tmp_path / "edge", MODALITY.format(most=9), unknown="refuse"))
    for _ in range(4):
        caller(edge.port)
    edge.configure(MODALITY.format(most=9).replace("CT1", "CT2"))
    edge.reload()
    wait_until(lambda: "has been read again" in edge.output(), 10, "it is read")
    held = []
    for _ in range(4):  # consecutive ones go to different processes
        held.append(caller(edge.port, "CT2"))
        with pytest.raises(AssociationRejected):
            caller(edge.port, "CT1")


def test_processes_that_do_not_do_what_they_are_told_are_replaced_together(tmp_path: Path, running: ExitStack) -> None:
    """A reload waits for all of them no longer than for one: the service manager's patience ends after 30 s."""
    edge = running.enter_context(Edge(tmp_path / "edge", MODALITY.format(most=9), unknown="refuse"))
    stuck = receivers_of(edge)
    for process in stuck:
        process.suspend()
    edge.configure(MODALITY.format(most=9).replace("CT1", "CT2"))
    edge.reload()
    wait_until(lambda: "has been read again" in edge.output(), ORDER_SECONDS + 6, "the reload is over")
    wait_until(lambda: not any(map(is_alive, stuck)), 5, "they are ended")
    wait_until(lambda: len(receivers_of(edge)) == count_receivers(), 5, "another one takes its place")


def test_a_stop_in_order_leaves_an_empty_journal_and_no_process(edge: Edge, tmp_path: Path) -> None:
    storescu(ct_files(tmp_path / "ct", 5, 10_000), edge.port)
    children = psutil.Process(edge.pid).children(recursive=True)
    caller(edge.port)
    assert edge.stop() == 0
    wait_until(lambda: not any(map(is_alive, children)), 60, "the kernel ends the fork server with the daemon")
    assert "records of the run before" not in edge.start().output()


def test_a_gateway_without_its_fork_server_ends(edge: Edge) -> None:
    (server,) = psutil.Process(edge.pid).children()
    server.kill()
    assert edge.process is not None
    assert edge.process.wait(60) == 1
    assert "the fork server has ended" in edge.output()


def test_four_processes_stay_within_the_memory_of_an_idle_gateway(tmp_path: Path, running: ExitStack) -> None:
    """At most 90 MB on a machine of four cores (PSS): each further process costs what it does not share."""
    edge = running.enter_context(Edge(tmp_path / "edge", ROUTE, forked=False))  # it shares nothing with others
    processes = [psutil.Process(edge.pid), *psutil.Process(edge.pid).children(recursive=True)]
    total = sum(process.memory_full_info().pss for process in processes)
    own = max(process.memory_full_info().uss for process in receivers_of(edge))
    assert total + (MOST_RECEIVERS - count_receivers()) * own <= 90_000_000


def test_a_receiving_process_has_nothing_of_the_catalog() -> None:
    program = (
        "import sys, edge.scp.receiving, edge.scp.fork_server\n"
        "print(*(name for name, module in sys.modules.items() if module))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    loaded = set(done.stdout.split())
    assert not loaded & {"sqlite3", "numpy", "pydicom", "starlette", "asyncio", "edge.store", "edge.intake"}


def test_a_receiving_process_learns_how_what_it_started_has_ended() -> None:
    """A converter that the kernel kills is no fault of the object: the caller is told to come again."""
    program = (
        "import os, signal, subprocess; from edge.scp.fork_server import ForkServer\n"
        "def run(descriptors):\n"
        "    started = subprocess.Popen(['sleep', '60'])\n"
        "    os.kill(started.pid, signal.SIGKILL)\n"
        "    os.write(descriptors[0], str(started.wait()).encode())\n"
        "server = ForkServer(run)\n"
        "ours, theirs = os.pipe()\n"
        "server.start([theirs])\n"
        "print(os.read(ours, 64).decode())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=REPOSITORY)
    assert done.stdout.split() == [str(-signal.SIGKILL)]


def test_a_receiving_process_writes_to_the_journal_alone(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path; from edge.transform.sandbox import keep_from_writing\n"
        "folder, other = map(Path, sys.argv[1:]); missing = keep_from_writing(folder)\n"
        "(folder / 'new').write_text('x'); os.unlink(folder / 'new'); (folder / 'old').open('r+').close()\n"
        "print(missing, (other / 'old').read_text())\n"
        "for act in (lambda: (other / 'new').write_text('x'), lambda: (other / 'old').unlink(),\n"
        "            lambda: (other / 'old').open('r+'), lambda: os.rename(folder / 'old', other / 'moved')):\n"
        "    try:\n        act()\n    except OSError as error:\n        print(error.errno)\n"
    )
    for name in ("journal", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "old").write_text(name)
    command = [sys.executable, "-c", program, str(tmp_path / "journal"), str(tmp_path / "other")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=True)
    missing, *errors = done.stdout.splitlines()
    if missing.startswith("['Landlock']"):
        pytest.fail("this kernel has no Landlock")
    assert missing == "[] other"
    assert len(errors) == 4
