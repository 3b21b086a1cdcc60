"""findscu, movescu and getscu of DCMTK, and what they print."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pydicom

from tests.support.peers import Peer, free_port, listens, requires

QUERY = """
[query]
[modality.viewer]
ae_title = "VIEWER"
services = ["echo", "store", "query", "retrieve"]
"""


def run_dcmtk(program: str, *arguments: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [requires(program), *arguments], capture_output=True, text=True, timeout=timeout, check=False, errors="replace"
    )


def find(
    folder: Path,
    port: int,
    level: str,
    *keys: str,
    root: str = "-S",
    calling: str = "VIEWER",
    called: str = "EDGE",
    options: Sequence[str] = (),
) -> tuple[list[pydicom.Dataset], str]:
    """The answers that findscu gets, and what it prints, which has the statuses."""
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("*.dcm"):
        old.unlink()
    given = [word for key in keys for word in ("-k", key)]
    level_key = ["-k", f"QueryRetrieveLevel={level}"] if level else []
    done = run_dcmtk(
        "findscu", "-d", root, "-X", "-od", str(folder), "-aet", calling, "-aec", called, *options,
        "127.0.0.1", str(port), *level_key, *given,
    )  # fmt: skip
    answers = [pydicom.dcmread(path, force=True) for path in sorted(folder.glob("*.dcm"))]
    return answers, done.stdout + done.stderr


def final_status(printed: str) -> str:
    """The last status of a C-FIND-RSP, C-MOVE-RSP or C-GET-RSP that DCMTK has printed, in hexadecimal."""
    found = re.findall(r"DIMSE Status\s*: 0x([0-9a-f]{4})", printed)
    return found[-1] if found else ""


def statuses(printed: str) -> list[str]:
    return re.findall(r"DIMSE Status\s*: 0x([0-9a-f]{4})", printed)


class DcmqrScp(Peer):
    """DCMTK's dcmqrscp: an archive that answers C-FIND, C-MOVE and C-GET."""

    name = "dcmqrscp"

    def __init__(
        self, directory: Path, peers: str = "", port: int = 0, options: Sequence[str] = (), ae_title: str = "VNA"
    ) -> None:
        """`peers`: lines of its host table. `options`: of its command line."""
        super().__init__(directory)
        self._options, self.ae_title = options, ae_title
        self.port = port or free_port()
        (directory / "vna").mkdir(exist_ok=True)
        self.configuration = directory / "dcmqrscp.cfg"
        self.configuration.write_text(
            f"NetworkTCPPort = {self.port}\nMaxPDUSize = 65536\nMaxAssociations = 16\n"
            f"HostTable BEGIN\n{peers}\nHostTable END\nVendorTable BEGIN\nVendorTable END\n"
            f"AETable BEGIN\n{ae_title} {directory / 'vna'} RW (500, 1024mb) ANY\nAETable END\n"
        )

    def command(self) -> list[str]:
        return [requires("dcmqrscp"), "-v", *self._options, "-c", str(self.configuration)]

    def is_ready(self) -> bool:
        return listens(self.pid, self.port)
