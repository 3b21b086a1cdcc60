"""PDUs (PS3.8 section 9.3): their types, the lengths and times that bound them, and those that fit in a line.

edge.dicom.wire reads and writes P-DATA, edge.dicom.acse the A-ASSOCIATE PDUs.
"""

from __future__ import annotations

import struct

from edge.errors import PeerError

A_ASSOCIATE_RQ, A_ASSOCIATE_AC, A_ASSOCIATE_RJ, P_DATA_TF, A_RELEASE_RQ, A_RELEASE_RP, A_ABORT = range(1, 8)

#: Longest P-DATA-TF variable field that we take (we say so in A-ASSOCIATE). DCMTK sends no longer ones.
MAX_PDU_IN = 131_072
#: Longest P-DATA-TF that we send to a peer that names no limit.
MAX_PDU_OUT = 262_144
#: Shortest that we send; DICOM names no least length, and implementations none below 4096. Keeps a send below IOV_MAX.
MIN_PDU_OUT = 1024
#: Longest A-ASSOCIATE-RQ: 128 presentation contexts and the user information, each as long as its length field allows.
MAX_ASSOCIATE = 68 + (4 + 0xFFFF) * (128 + 2)
#: Longest answer to one of ours: an item for each of 128 contexts, and the user information.
MAX_ACCEPT = 131_072
MAX_COMMAND = 65_536
PDU_SECONDS = 25.0
#: What must come of a message in PDU_SECONDS of waiting for it, where it has as many: less than an old modem carries.
LEAST_BYTES = 8_192
IDLE_SECONDS = 600.0


class Released(Exception):
    """The peer asked to release the association: the ordinary end, not an error."""


class Aborted(PeerError):
    """The peer sent A-ABORT."""

    def __init__(self, source: int, reason: int) -> None:
        who = "its user" if source == 0 else "its provider"
        super().__init__(f"the peer aborted the association ({who}, reason {reason})")
        self.source, self.reason = source, reason


def release_rq() -> bytes:
    return struct.pack(">BxLL", A_RELEASE_RQ, 4, 0)


def release_rp() -> bytes:
    return struct.pack(">BxLL", A_RELEASE_RP, 4, 0)


def abort(source: int = 2, reason: int = 0) -> bytes:
    """A-ABORT; source 0 is the service user, 2 the provider (PS3.8 section 9.3.8)."""
    return struct.pack(">BxLxxBB", A_ABORT, 4, source, reason)
