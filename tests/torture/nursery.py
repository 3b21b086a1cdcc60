"""A process that has imported the gateway, and forks it: a round then costs no start of Python.

    python -m tests.torture.nursery

A line "CONFIG_DIR LOG NOTIFY_SOCKET WAIT" on standard input starts the gateway in a child of its own session; its
pid is the answer. With WAIT = 1 the child stops itself first (SIGSTOP), so that a tracer can be attached. The line
"reap PID" waits for a child and answers with its exit code. The children die with this process.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1


def main() -> None:
    from edge.daemon import lifecycle  # the import that is to be paid once
    from edge.query import process
    from edge.scp import receiving
    from edge.scp.dicomweb.process import run_web_door
    from edge.scp.fork_server import ForkServer

    def run_gateway(config: Path) -> int:
        runs = receiving.run_receiver, process.run_answering, run_web_door, receiving.run_hl7_receiver
        return lifecycle.run(config, ForkServer(*runs))

    libc = ctypes.CDLL(None)
    for line in sys.stdin:
        words = line.split()
        if words[0] == "reap":
            print(os.waitstatus_to_exitcode(os.waitpid(int(words[1]), 0)[1]), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            _set_state(run_gateway, *words)
        print(pid, flush=True)


def _set_state(run: Callable[[Path], int], config: str, log: str, notify: str, wait: str) -> None:
    """The child: never returns."""
    code = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for number in (1, 2):
            os.dup2(out, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.environ["NOTIFY_SOCKET"] = notify
        if wait == "1":
            os.kill(os.getpid(), signal.SIGSTOP)
        code = run(Path(config))
    except BaseException:  # noqa: BLE001  as Python would end: said, and then over
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    main()
