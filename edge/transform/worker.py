"""The worker process, started by edge.transform.transcoder alone.

It gets descriptors and answers JSON. Before it reads a byte of an object it gives up everything else
(edge.transform.sandbox). It lets no library speak, and dies with its parent.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from edge.errors import TransformError
from edge.transform.sandbox import enter_sandbox

#: The largest request and answer in bytes.
MESSAGE = 65_536


def serve(lifeline: int, memory: int, codecs: bool) -> None:
    """Convert what is asked for at descriptor 0, until it ends or the parent dies."""
    _die_with_parent(lifeline)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the parent ends us
    with suppress(PermissionError):  # a hardened unit may forbid it
        os.nice(5)  # receiving and sending come first
    _load(codecs)
    channel = socket.socket(fileno=0)
    missing = enter_sandbox(memory)
    _send({"missing": missing})
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, MESSAGE, 3)
        if not message:
            return
        answer = _answer(json.loads(message), descriptors)
        for descriptor in descriptors:
            os.close(descriptor)
        _send(answer)


def _die_with_parent(lifeline: int) -> None:
    """SIGIO, which kills, when the parent's end of the pipe closes: even in the middle of a codec.

    PR_SET_PDEATHSIG would act at the end of the thread that started us.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, os.O_ASYNC)


def _load(codecs: bool) -> None:
    """Load all that a conversion may need; a worker for native data sets does without codecs and numpy."""
    if codecs:
        os.environ.update(OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    import edge.transform.recode  # noqa: PLC0415

    if codecs:
        import edge.transform.frame  # noqa: F401, PLC0415
        from edge.transform.picture import load_drawing  # noqa: PLC0415
        from edge.transform.pixels import load_codecs  # noqa: PLC0415

        load_codecs()
        load_drawing()


def _send(answer: dict[str, Any]) -> None:
    os.write(0, json.dumps(answer).encode())


def _answer(asked: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """What became of one request. Errors tell nothing of what the object says: it may be a patient's."""
    from edge.transform.recode import ConversionRequest, Descriptors, transcode  # noqa: PLC0415 - see _load

    try:
        if "frame" in asked:
            from edge.transform.frame import FrameRequest, recode, render  # noqa: PLC0415 - loaded by _load

            frame = FrameRequest(**asked)
            return (recode if frame.form == "values" else render)(Descriptors(*[*descriptors, -1][:3]), frame)
        offset, size = transcode(Descriptors(*[*descriptors, -1][:3]), ConversionRequest(**asked))
        return {"dataset_offset": offset, "size": size}
    except TransformError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"refused": "cannot convert: it takes more memory than a conversion may", "exhausted": True}
    except OSError as error:
        if error.errno == errno.EFBIG:
            return {"refused": "cannot convert: it grows beyond what a conversion may write"}
        return {"errno": error.errno or errno.EIO}
    except Exception as error:  # noqa: BLE001 - a fault of ours: said by type and place, the text may be a value
        where = error.__traceback__
        while where and where.tb_next:
            where = where.tb_next
        place = f"{Path(where.tb_frame.f_code.co_filename).name}:{where.tb_lineno}" if where else "nowhere"
        return {"refused": f"cannot convert: unexpected {type(error).__name__} at {place}"}
