"""Who acts, as the kernel knows it: who signed in (loginuid, the same behind sudo and su), else the account.

`loginuid` is set by pam_loginuid at sign-in and inherited from then on (proc(5), /proc/PID/loginuid); a process of a
service has none. What a caller says of itself, in its environment or in its request, is never asked.

Limits: root can set its loginuid, unless the kernel was told otherwise (`auditctl --loginuid-immutable`). Where the
process of a caller cannot be seen (ProtectProc= of the unit, another user), its account is the answer.
"""

from __future__ import annotations

import os
import pwd
import socket
import struct
from pathlib import Path

from edge.text import printable

PROC = Path("/proc")
#: (uid_t) -1: nobody has signed in.
UNSET = 0xFFFF_FFFF
_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid (unix(7), struct ucred)


def here() -> str:
    """Who runs this process."""
    return name_of(acting("self", os.getuid()))


def at(sock: socket.socket) -> str:
    """Who has connected to this Unix socket (SO_PEERCRED)."""
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return name_of(acting(str(pid), uid & UNSET))


def acting(pid: str, uid: int, proc: Path = PROC) -> int:
    """The user who signed in where this process comes from, else its own (`uid`)."""
    try:
        found = int((proc / pid / "loginuid").read_text("ascii"))
    except (OSError, ValueError):
        return uid
    return uid if found == UNSET else found


def name_of(uid: int) -> str:
    """A user's name, made printable."""
    try:
        return printable(pwd.getpwuid(uid).pw_name)[:64]
    except KeyError:
        return f"uid {uid}"
