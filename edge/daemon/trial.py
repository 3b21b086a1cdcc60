"""Is what hindered reception over? Find out by doing once what a reception does."""

from __future__ import annotations

import os
import threading
from pathlib import Path

from edge import hindrance
from edge.db import Database
from edge.errors import Cause, Hindered

TRIAL = "trial.part"  # a crash leaves it to the next start, as any partial file
TRIAL_BYTES = 8192


def try_reception(incoming: Path, db: Database) -> Cause | None:
    """Write a small file, start a thread, make an empty transaction. Returns what hinders; None when all succeeds."""
    try:
        _write(incoming / TRIAL)
        thread = threading.Thread(target=lambda: None, daemon=True)
        thread.start()
        thread.join()
        db.write(lambda conn: None)
    except (Hindered, OSError, MemoryError) as error:
        return hindrance.refine(hindrance.cause_of(error), incoming)
    except RuntimeError:
        return Cause.THREADS
    return None


def _write(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(fd, 0, TRIAL_BYTES)
    finally:
        os.close(fd)
        path.unlink(missing_ok=True)
