"""The copies that go out: what a correction and a compression cost, and knowing patients on the receiving path."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jpeg_ls
import numpy as np
import psutil
import pydicom

from edge.config.coercion import Coercion
from edge.config.tables import keys
from edge.dicom import part10
from edge.dicom.header import read_from
from edge.model import InstanceHeader, Origin
from edge.transform import Transcoder
from edge.transform.correct import correct_data_set
from edge.transform.corrections import TodayFacts, rules_for
from edge.transform.editing import edited_pieces
from edge.transform.syntaxes import JPEG_LS, NATIVE
from tests.bench.peers import EDGE, HERE, Gateway, archive_at
from tests.bench.row import Figures, Target
from tests.bench.rows.inward import receive
from tests.bench.stage import KIB, Stage
from tests.support.objects import ct_files, real_files
from tests.support.peers import free_port

LEAST_BYTES, RADIOGRAPH = 100 * KIB, 2048
MILLISECONDS, MS_PER_MB = "ms of CPU", "ms/MB"
CHARLS = "CharLS alone"
IDENTITY = "edge, HL7 and corrections"
TODAY = TodayFacts("PAT-C", "MTF0067", "TODAY^NAME", "19700101", "F", 1_790_000_000.0)


@dataclass(frozen=True)
class Correction:
    """A CT with the demographics of today and a rule: read, decided, written. Checksums are of the sending."""

    name: str = "correct"
    what: str = "a CT of 512 KiB gets the demographics of today and a rule"
    peers: tuple[str, ...] = (EDGE,)
    targets: tuple[Target, ...] = (Target(MILLISECONDS, at_least=2.0),)

    def measure(self, peer: str, stage: Stage) -> Figures:
        lines = {"set": {"InstitutionName": "Example Health Clinic"}, "remove": ["PatientComments"]}
        rule = Coercion("site", **{key: keys(Coercion)[key].read(value) for key, value in lines.items()})
        rules = rules_for([rule])
        with stage.directory() as directory:
            (path,) = ct_files(directory, 1, 512 * KIB)
            meta = part10.parse_meta(path.read_bytes()[: part10.MAX_META])
            data = path.read_bytes()[meta.dataset_offset :]
            header = InstanceHeader(
                "", "", meta.context_key.transfer_syntax_uid, Origin("CT1", "EDGE", "10.0.0.1", 0.0)
            )
            times = []
            target, syntax = directory / "copy.part", meta.context_key.transfer_syntax_uid
            for _ in range(stage.few(200, 20)):
                began, read = time.thread_time(), read_from(data)
                found = correct_data_set(read, len(data), syntax, header, rules, TODAY, "Edge 0067")
                assert found is not None
                with target.open("wb", buffering=0) as file:
                    file.write(part10.plain_head(meta.context_key, meta.sop_instance_uid))
                    for piece in edited_pieces(read, len(data), found.edits):
                        file.write(piece)
                times.append(time.thread_time() - began)
        return {MILLISECONDS: 1000 * sorted(times)[len(times) // 2]}


@dataclass(frozen=True)
class Compression:
    """Real images of one modality, encoded as JPEG-LS, decoded and compared, one at a time: CPU of both processes."""

    name: str
    modality: str
    most_ms_per_mb: float
    peers: tuple[str, ...] = (EDGE, CHARLS)

    @property
    def what(self) -> str:
        return f"{self.modality} images become JPEG-LS, each frame checked, one core"

    @property
    def targets(self) -> tuple[Target, ...]:
        return Target(MS_PER_MB, at_least=self.most_ms_per_mb), Target(MS_PER_MB, (CHARLS,), 0.75)

    def measure(self, peer: str, stage: Stage) -> Figures:
        with stage.directory() as directory, closing(Transcoder(workers=1, timeout=120)) as transcoder:
            images = list_images(self.modality)
            if images[0].stat().st_size < LEAST_BYTES:
                images = [_tiled(images[0], directory)]
            size = sum(path.stat().st_size for path in images)
            tasks = [partial(_convert, transcoder, directory / "copy.dcm", path) for path in images]
            if peer == CHARLS:
                tasks = [partial(_code_alone, pydicom.dcmread(path)) for path in images]
            tasks[0]()  # the worker starts
            rounds, began = stage.few(10, 1), _cpu_seconds()
            for task in tasks * rounds:
                task()
            seconds = _cpu_seconds() - began
        return {MS_PER_MB: 1000 * seconds / (rounds * size / 1e6)}


def list_images(modality: str) -> list[Path]:
    """The largest real images of a modality whose pixels are native."""
    of_modality = [each.path for each in real_files() if each.row["modality"] == modality]
    native = [path for path in of_modality if _is_part10(path) and _syntax_of(path) in NATIVE]
    chosen = sorted(native, key=lambda path: -path.stat().st_size)[:8]
    assert chosen, f"no native image of {modality}"
    return [path for path in chosen if path.stat().st_size >= LEAST_BYTES] or chosen[:1]


def _tiled(path: Path, directory: Path) -> Path:
    """A small image repeated until it is as large as a radiograph: 2048 rows and columns."""
    ds = pydicom.dcmread(path)
    pixels = ds.pixel_array
    times = [-(-RADIOGRAPH // each) for each in pixels.shape[:2]]
    tiled = np.tile(pixels, times)[:RADIOGRAPH, :RADIOGRAPH]
    ds.Rows, ds.Columns = tiled.shape
    ds.PixelData = tiled.tobytes()
    ds.save_as(directory / "tiled.dcm")
    return directory / "tiled.dcm"


def _syntax_of(path: Path) -> str:
    return part10.parse_meta(path.read_bytes()[: part10.MAX_META]).context_key.transfer_syntax_uid


def _is_part10(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _cpu_seconds() -> float:
    """Of this process and its workers."""
    own = psutil.Process()
    return sum(sum(each.cpu_times()[:2]) for each in (own, *own.children()))


def _convert(transcoder: Transcoder, target: Path, path: Path) -> None:
    with path.open("rb") as file:
        meta = part10.parse_meta(file.read(part10.MAX_META))
    transcoder.convert(path, meta.dataset_offset, meta.context_key.transfer_syntax_uid, JPEG_LS, target)
    target.unlink()


def _code_alone(ds: pydicom.Dataset) -> None:
    """The library alone encodes and decodes each frame, as deep as Edge does."""
    depth = ds.BitsAllocated if ds.PixelRepresentation or ds.BitsStored > 12 else ds.BitsStored
    length = ds.Rows * ds.Columns * ds.BitsAllocated // 8
    for at in range(0, len(ds.PixelData), length):
        code = jpeg_ls.encode_buffer(ds.PixelData[at : at + length], ds.Rows, ds.Columns, 1, depth)
        jpeg_ls.decode_from_buffer(bytes(code))


@dataclass(frozen=True)
class ReceivingPath:
    """The same objects into a gateway that knows patients and corrects, and into one that does neither."""

    name: str = "in-identity"
    what: str = "600 CT of 512 KiB where HL7 and corrections are on, beside a gateway without"
    peers: tuple[str, ...] = (IDENTITY, EDGE)
    targets: tuple[Target, ...] = (Target("s", against=(EDGE,), at_least=0.97),)

    def measure(self, peer: str, stage: Stage) -> Figures:
        objects = stage.objects(stage.few(600, 50), 512 * KIB)
        more = ""
        if peer == IDENTITY:
            more = f'[hl7]\nport = {free_port()}\n[feed.his]\nhosts = ["127.0.0.1"]\nauthority = "MTF0067"\n'
            more += '[coerce.site]\nset = { InstitutionName = "Example Health Clinic" }\n'
        with stage.directory() as directory, Gateway(directory, archive_at(free_port(), more=more)).at(HERE) as server:
            return receive(server, objects, 1, HERE)


ROWS = (
    Correction(),
    Compression("compress-ct", "CT", 1000 / 25),
    Compression("compress-mr", "MR", 1000 / 25),
    Compression("compress-dx", "DX", 1000 / 12),
    ReceivingPath(),
)
