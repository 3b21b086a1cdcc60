"""DCMTK's wlmscpfs as a RIS that answers worklist queries, and findscu as the modality that asks."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from tests.support.peers import Peer, listens, requires, run

ITEMS = sorted(Path(__file__).with_name("worklist").glob("*.dump"))
#: DCMTK's own ten items and thirteen queries (package dcmtk-doc or dcmtk).
EXAMPLES = Path("/usr/share/doc/dcmtk/examples")


class WorklistScp(Peer):
    """The called AE title is RIS. Items are read at every query; `args`: faults such as --refuse."""

    name = "wlmscpfs"

    def __init__(self, directory: Path, port: int, *args: str) -> None:
        super().__init__(directory)
        self.port, self._args = port, args
        self.folder = directory / "RIS"
        self.folder.mkdir(exist_ok=True)
        (self.folder / "lockfile").touch()

    def command(self) -> list[str]:
        return [requires("wlmscpfs"), "-s", "-dfr", "-dfp", str(self.directory), *self._args, str(self.port)]

    def is_ready(self) -> bool:
        return self.process is not None and listens(self.process.pid, self.port)

    def put(self, dumps: Iterable[Path], day: str = "") -> None:
        """Add items; `day`: all of them are scheduled then, if given."""
        for path in dumps:
            text = path.read_text()
            if day:
                text = re.sub(r"(\(0040,0002\) DA\s+\[?)\d{8}", rf"\g<1>{day}", text)
            source = self.directory / path.name
            source.write_text(text)
            run([requires("dump2dcm"), "-q", str(source), str(self.folder / f"{path.stem}.wl")])

    def clear(self) -> None:
        for path in self.folder.glob("*.wl"):
            path.unlink()


def find(
    port: int, folder: Path, *keys: str, query: Path | None = None, calling: str = "CT1", called: str = "EDGE"
) -> list[str]:
    """What findscu gets: each answer as dcmdump prints it. Raises CalledProcessError where the query fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("rsp*.dcm"):
        old.unlink()
    command = [requires("findscu"), "-W", "-X", "-od", str(folder), "-aet", calling, "-aec", called]
    for key in keys:
        command += ["-k", key]
    command += ["127.0.0.1", str(port)]
    if query is not None:
        made = folder / f"{query.stem}.query"
        run([requires("dump2dcm"), "-q", str(query), str(made)])
        command.append(str(made))
    done = subprocess.run([*command, "-v"], capture_output=True, text=True, timeout=60, check=False)
    final = re.findall(r"Received Final Find Response \((.*)\)", done.stdout + done.stderr)
    if final != ["Success"]:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, f"{final} {done.stderr}")
    printed = [run([requires("dcmdump"), "+U8", str(path)]).stdout for path in sorted(folder.glob("rsp*.dcm"))]
    return [each.partition("# Dicom-Data-Set")[2] for each in printed]
