"""The person who acts, as the kernel knows: who signed in (loginuid, also behind sudo and su), else the account.

`loginuid` is set by pam_loginuid at sign-in and inherited from then on (proc(5), /proc/PID/loginuid); a process of a
service has none. What a caller says of itself, in its environment or in its request, is never asked.

Limits: root can set its loginuid, unless the kernel forbids it (`auditctl --loginuid-immutable`). Where the
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


def process_user() -> str:
    """Name the user who runs this process."""
    return user_name(acting_uid("self", os.getuid()))


def socket_user(sock: socket.socket) -> str:
    """Name the user who has connected to this Unix socket (SO_PEERCRED)."""
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return user_name(acting_uid(str(pid), uid & UNSET))


def acting_uid(pid: str, uid: int, proc: Path = PROC) -> int:
    """Find the user whose sign-in started a process, else the process's own (`uid`)."""
    try:
        found = int((proc / pid / "loginuid").read_text("ascii"))
    except (OSError, ValueError):
        return uid
    return uid if found == UNSET else found


def user_name(uid: int) -> str:
    """Look up the name of a user, made printable."""
    try:
        return printable(pwd.getpwuid(uid).pw_name)[:64]
    except KeyError:
        return f"uid {uid}"
