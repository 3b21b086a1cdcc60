"""The worker process: `python -m edge.transform.worker`, started by edge.transform.transcoder alone.

It bounds its own memory, answers nothing but JSON, lets no library speak, and dies with its parent.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

from edge.errors import TransformError
from edge.transform.recode import transcode


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """What became of one request. Errors tell nothing of what the object says: it may be a patient's."""
    try:
        done = transcode(**{**request, "source": Path(request["source"]), "target": Path(request["target"])})
        return {"dataset_offset": done.dataset_offset, "size": done.size}
    except TransformError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": "cannot convert: it takes more memory than a conversion may", "exhausted": True}
    except OSError as error:
        return {"errno": error.errno or errno.EIO, "about": str(error.filename)}
    except Exception as error:  # noqa: BLE001 - a fault of ours: said by type and place, the text may be a value
        where = error.__traceback__
        while where and where.tb_next:
            where = where.tb_next
        place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else "nowhere"
        return {"refused": f"cannot convert: unexpected {type(error).__name__} at {place}"}


def _serve(lifeline: int, memory: int) -> None:
    """Convert what standard input asks for, until it ends or the parent dies."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent ends us
    resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # SIGIO, which kills, when the parent's end of the pipe closes: even in the midst of a codec. PR_SET_PDEATHSIG
    # would act at the end of the thread that started us.
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)
    with contextlib.suppress(PermissionError):  # a hardened unit may forbid it
        os.nice(5)  # receiving and sending come first
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is no answer
    for line in sys.stdin:
        answers.write(json.dumps(_answer(json.loads(line))) + "\n")


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
