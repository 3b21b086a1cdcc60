"""`make run`: the main job to watch, on the sample configuration.

A stand-in archive (pynetdicom's storage SCP) and the gateway start; half a study goes through; the archive goes away
and the other half is taken all the same; the archive comes back and gets the rest, by itself. Then all stays up, for
your own files. Everything is kept in .edge of this checkout; remove it to begin anew.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AE, AllStoragePresentationContexts, evt
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from edge.config import load_config
from tests.support.objects import ct_files

REPOSITORY = Path(__file__).resolve().parent.parent
CONFIG = REPOSITORY / "conf.d"
SLICES, SIZE = 60, 512 * 1024
say = Console(highlight=False).print


class Archive:
    """A storage SCP that may go away and come back."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port, self.folder = port, folder
        folder.mkdir(parents=True, exist_ok=True)
        self.received: set[str] = set()
        self.on_store: Callable[[str], None] = lambda _: None
        self._server: Any = None

    def up(self) -> None:
        ae = AE("ARCHIVE")
        ae.maximum_pdu_size = 131_072
        for context in AllStoragePresentationContexts:
            ae.add_supported_context(context.abstract_syntax, AllTransferSyntaxes)
        handlers = [(evt.EVT_C_STORE, self._store)]
        self._server = ae.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)

    def down(self) -> None:
        self._server.shutdown()

    def _store(self, event: evt.Event) -> int:
        uid = str(event.request.AffectedSOPInstanceUID)
        (self.folder / f"{len(self.received):06}.dcm").write_bytes(event.encoded_dataset())
        self.received.add(uid)
        self.on_store(uid)
        return 0


@contextlib.contextmanager
def gateway(url: str) -> Iterator[None]:
    """The daemon as a process of its own, ready."""
    log = CONFIG.parent / ".edge" / "edge.log"
    log.parent.mkdir(exist_ok=True)
    with log.open("ab") as output:
        command = [sys.executable, "-m", "edge", "run", "--config", str(CONFIG)]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=output, stderr=output, start_new_session=True)
    try:
        for _ in range(200):
            if process.poll() is not None:
                raise SystemExit(f"the gateway did not start; its last words are in {log}:\n{_tail(log)}")
            if get(f"{url}/readyz") is not None:
                break
            time.sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text("utf-8", "replace").splitlines()[-5:])


def get(url: str) -> Any:
    """The JSON or text behind a URL; None while nobody answers 200."""
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            body = response.read()
    except (urllib.error.URLError, OSError):
        return None
    return json.loads(body) if body.startswith(b"{") else body


class Watch:
    """Three bars: taken by the gateway, at the archive, confirmed."""

    def __init__(self, progress: Progress, url: str, archive: Archive) -> None:
        self.url, self.archive, self.progress = url, archive, progress
        self.base = self.status()["destinations"]["archive"]["confirmed"]
        self.received = self.status()["instances"]["received"]
        names = ("taken by the gateway", "at the archive", "confirmed")
        self.bars = [progress.add_task(name, total=SLICES) for name in names]

    def status(self) -> Any:
        return get(f"{self.url}/api/status") or self.status()

    def look(self) -> tuple[int, int]:
        """Update the bars; (taken, confirmed) since the demonstration began."""
        status = self.status()
        taken = status["instances"]["received"] - self.received
        confirmed = status["destinations"]["archive"]["confirmed"] - self.base
        for bar, done in zip(self.bars, (taken, len(self.archive.received), confirmed), strict=True):
            self.progress.update(bar, completed=min(done, SLICES))
        return taken, confirmed

    def until(self, done: Callable[[int, int], bool], seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not done(*self.look()):
            if time.monotonic() > deadline:
                raise SystemExit("the study did not arrive in time; `edge status` says why")
            time.sleep(0.1)


def send(files: list[Path], port: int) -> None:
    """A modality: pynetdicom's own storescu."""
    for_peer = ["127.0.0.1", str(port), *map(str, files), "-aec", "EDGE", "-aet", "CT1", "-q"]
    subprocess.run([sys.executable, "-m", "pynetdicom", "storescu", *for_peer], check=True, cwd=REPOSITORY)


def show(archive: Archive, port: int, url: str, files: list[Path]) -> None:
    half = len(files) // 2
    columns = (TextColumn("  {task.description:<22}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns) as progress:
        watch = Watch(progress, url, archive)
        progress.print(f"a CT sends {half} of {SLICES} slices, {SIZE // 1024} KiB each …")
        send(files[:half], port)
        watch.until(lambda taken, confirmed: confirmed >= half, 60)
        archive.down()
        progress.print("[red]the archive is gone[/red]; the CT sends the other half all the same …")
        begun = time.monotonic()
        send(files[half:], port)
        watch.until(lambda taken, confirmed: taken >= SLICES, 60)
        progress.print(f"… and was done after {time.monotonic() - begun:.1f} s: {half} slices wait on our disk, safe")
        time.sleep(2)
        archive.up()
        progress.print("[green]the archive is back[/green]; nobody touches anything …")
        watch.until(lambda taken, confirmed: confirmed >= SLICES, 120)
    say(f"all {len(archive.received)} slices are at the archive, once each, and confirmed.\n")


def stay(archive: Archive, port: int, url: str) -> None:
    """Until Ctrl-C: whoever sends sees it arrive."""
    archive.on_store = lambda uid: say(f"  at the archive: {uid}")
    python = os.path.relpath(sys.executable, Path.cwd())
    say(f"The gateway stays up. Your own files: {python} -m pynetdicom storescu 127.0.0.1 {port} PATH -r -aec EDGE")
    say(f"What it says: {python} -m edge status --config conf.d      Its numbers: {url}/metrics      End: Ctrl-C")
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    say("stopping in order …")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--once", action="store_true", help="end when the study has arrived")
    once = parser.parse_args().once
    config = load_config(CONFIG)
    url = f"http://{config.console.host}:{config.console.port}"
    archive = Archive(config.destinations["archive"].port, config.site.data_dir / "archive")
    try:
        archive.up()
    except OSError as error:
        raise SystemExit(f"port {archive.port} of the stand-in archive: {error.strerror}; what else uses it?") from None
    files = ct_files(config.site.data_dir / "study", SLICES, SIZE)
    try:
        with gateway(url):
            say(f"edge listens on port {config.listen.port}, a stand-in archive on {archive.port}\n")
            show(archive, config.listen.port, url, files)
            if not once:
                stay(archive, config.listen.port, url)
    finally:
        archive.down()


if __name__ == "__main__":
    main()
