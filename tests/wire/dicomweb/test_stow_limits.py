"""STOW-RS of an object that is larger than any buffer: in constant memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

from tests.support.objects import ct_files, sop_instance_uid
from tests.support.web_door import BOUNDARY, WebEdge, related

MIB = 1 << 20
#: Of the object, and what all processes together may take more of memory meanwhile.
LARGE, GROWTH = 192 * MIB, 48 * MIB


def large_body(path: Path, size: int) -> Iterator[bytes]:
    """One part: an object whose pixel data has `size` bytes."""
    head = path.read_bytes()
    at = head.rindex(b"\xe0\x7f\x10\x00OW\x00\x00") + 8
    yield f"--{BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode() + head[:at] + size.to_bytes(4, "little")
    piece = bytes(range(256)) * (MIB // 256)
    for _ in range(size // MIB):
        yield piece
    yield f"\r\n--{BOUNDARY}--\r\n".encode()


def private_bytes(pid: int) -> int:
    """Memory of a process and of all below it that is theirs alone."""
    found = 0
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                found = int(line.split()[1]) << 10
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += sum(map(private_bytes, map(int, (task / "children").read_text().split())))
    except OSError:
        pass  # it has ended
    return found


def test_an_object_of_any_size_takes_no_memory(edge: WebEdge, tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "ct", 1, 4096)
    small = edge.stow(*(each.read_bytes() for each in ct_files(tmp_path / "warm", 4, 300_000)))
    assert small.status == 200
    before, peak, ended = private_bytes(edge.pid), [0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.05):
            peak[0] = max(peak[0], private_bytes(edge.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    answer = edge.web("POST", "/studies", {"Content-Type": related()}, large_body(path, LARGE))
    ended.set()
    watcher.join()
    assert (answer.status, answer.stored()) == (200, [sop_instance_uid(path)])
    assert peak[0] - before < GROWTH
    edge.settle(30)
    kept = [each for each in (edge.data_dir / "spool").rglob("*.dcm") if each.stat().st_size > LARGE]
    assert len(kept) == 1
