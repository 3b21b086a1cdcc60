"""Where and with what it was measured."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import psutil

import edge
from tests.bench.stage import file_system
from tests.support.peers import REPOSITORY, requires


def facts(directory: Path, runs: int, quick: bool) -> dict[str, Any]:
    """Date, machine and versions."""
    memory = psutil.virtual_memory().total / (1 << 30)
    return {
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": f"{_cpu()}, {os.cpu_count()} cores, {memory:.0f} GiB",
        "system": f"{_system()}, kernel {platform.release()}, {file_system(directory)}",
        "edge": f"{edge.__version__} ({_commit()}), Python {platform.python_version()}",
        "peers": f"{_version('storescp')}, {_version('Orthanc')}",
        "runs": f"{runs}, in turns" + (", quick: too few objects to judge by" if quick else ""),
    }


def _cpu() -> str:
    found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return found[1] if found else platform.machine()


def _system() -> str:
    return platform.freedesktop_os_release()["PRETTY_NAME"] if sys.platform == "linux" else platform.platform()


def _commit() -> str:
    words = ["git", "-C", str(REPOSITORY), "describe", "--always", "--dirty"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "no git"


def _version(program: str) -> str:
    done = subprocess.run([requires(program), "--version"], capture_output=True, text=True, check=False)
    text = done.stdout + done.stderr
    name = "DCMTK" if program == "storescp" else program
    found = re.search(r"(?:\bv|Orthanc )(\d+\.\d+\.\d+)", text)
    return f"{name} {found[1] if found else 'of unknown version'}"
