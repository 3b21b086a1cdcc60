"""A terminal of 80 columns and 24 lines, as people have it: tmux."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Sequence

from tests.support.peers import requires, run

COLUMNS, LINES = 80, 24


def show_in_terminal(commands: Iterable[Sequence[str]]) -> list[str]:
    """What is seen of commands, one after the other. A line that the terminal had to wrap is one line, too long."""
    tmux = [requires("tmux"), "-L", f"edge-test-{os.getpid()}", "-f", "/dev/null"]
    script = "; ".join([*map(shlex.join, commands), shlex.join([*tmux, "wait-for", "-S", "shown"]), "sleep 600"])
    run([*tmux, "new-session", "-d", "-x", str(COLUMNS), "-y", str(LINES), script])
    try:
        run([*tmux, "wait-for", "shown"], timeout=120)
        return run([*tmux, "capture-pane", "-p", "-J", "-S", "-"]).stdout.splitlines()
    finally:
        run([*tmux, "kill-server"], check=False)
