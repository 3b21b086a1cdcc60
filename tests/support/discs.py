"""Discs of other clinics, with their DICOMDIR by DCMTK."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

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
