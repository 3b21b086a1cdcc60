"""Discs of other clinics, with their DICOMDIR by DCMTK."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pydicom

from tests.support.objects import REAL_CT, new_uid
from tests.support.peers import requires


def burn_disc(disc: Path, paths: Sequence[Path]) -> Path:
    """Copy Part 10 files to a new disc, list them in a DICOMDIR (PS3.10 section 8), and add what viewers add."""
    target = disc / "IMAGES"
    target.mkdir(parents=True)
    names = [f"IM{number:04}" for number in range(len(paths))]
    for name, path in zip(names, paths, strict=True):
        shutil.copy(path, target / name)
    listed = [f"IMAGES/{name}" for name in names]
    subprocess.run([requires("dcmmkdir"), *listed], cwd=disc, check=True, capture_output=True)
    (disc / "AUTORUN.INF").write_text("[autorun]\nopen=viewer.exe\n")
    return disc


def burn_foreign_disc(folder: Path) -> Path:
    """Two images of a patient as another clinic knows her; her birth date is mistyped there."""
    ds, paths = pydicom.dcmread(REAL_CT), []
    ds.PatientName, ds.PatientID, ds.PatientBirthDate, ds.PatientSex = "Foreign^Lea", "KH-20817", "19700110", "F"
    ds.StudyInstanceUID, ds.SeriesInstanceUID, ds.StudyDescription = new_uid(), new_uid(), "CT ABDOMEN"
    for number in range(2):
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = new_uid()
        ds.save_as(folder / f"foreign{number}.dcm")
        paths.append(folder / f"foreign{number}.dcm")
    return burn_disc(folder / "disc", paths)
