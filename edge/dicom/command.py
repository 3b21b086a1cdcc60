"""DIMSE command sets (PS3.7 sections 6.3 and 9, annex E), read and written without building a Dataset.

A command set is Implicit VR Little Endian, group 0000 only. Every element that Edge uses is named in `Element`;
others, those of other groups among them, are skipped on reading. A number of odd length is as if it were absent, which
is an error only where it is needed. Damage raises ProtocolError.
"""

from __future__ import annotations

import struct
from enum import IntEnum

from edge.errors import ProtocolError

#: (0000,0800) value that says "no data set follows"; any other value says that one does.
NO_DATA_SET = 0x0101
DATA_SET = 0x0001


class Element(IntEnum):
    """Element numbers within group 0000 (PS3.7 table E.1-1)."""

    GROUP_LENGTH = 0x0000
    AFFECTED_SOP_CLASS_UID = 0x0002
    REQUESTED_SOP_CLASS_UID = 0x0003
    COMMAND_FIELD = 0x0100
    MESSAGE_ID = 0x0110
    MESSAGE_ID_RESPONDED_TO = 0x0120
    MOVE_DESTINATION = 0x0600
    PRIORITY = 0x0700
    DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    OFFENDING_ELEMENT = 0x0901
    ERROR_COMMENT = 0x0902
    ERROR_ID = 0x0903
    AFFECTED_SOP_INSTANCE_UID = 0x1000
    REQUESTED_SOP_INSTANCE_UID = 0x1001
    EVENT_TYPE_ID = 0x1002
    ATTRIBUTE_IDENTIFIER_LIST = 0x1005
    ACTION_TYPE_ID = 0x1008
    REMAINING = 0x1020  # sub-operations; completed, failed and warning ones follow
    COMPLETED = 0x1021
    FAILED = 0x1022
    WARNING = 0x1023
    MOVE_ORIGINATOR_AE_TITLE = 0x1030
    MOVE_ORIGINATOR_MESSAGE_ID = 0x1031
    PASSED_SITES = 0x7F01  # between two Edges alone, which have agreed on it (edge.network.sites)


#: DIMSE statuses (PS3.7 annex C).
SUCCESS, PROCESSING_FAILURE = 0x0000, 0x0110


class CommandField(IntEnum):
    """Values of (0000,0100); a response is its request with the high bit set."""

    C_STORE_RQ = 0x0001
    C_STORE_RSP = 0x8001
    C_GET_RQ = 0x0010
    C_GET_RSP = 0x8010
    C_FIND_RQ = 0x0020
    C_FIND_RSP = 0x8020
    C_MOVE_RQ = 0x0021
    C_MOVE_RSP = 0x8021
    C_CANCEL_RQ = 0x0FFF
    C_ECHO_RQ = 0x0030
    C_ECHO_RSP = 0x8030
    N_EVENT_REPORT_RQ = 0x0100
    N_EVENT_REPORT_RSP = 0x8100
    N_SET_RQ = 0x0120
    N_SET_RSP = 0x8120
    N_ACTION_RQ = 0x0130
    N_ACTION_RSP = 0x8130
    N_CREATE_RQ = 0x0140
    N_CREATE_RSP = 0x8140


_E = Element
_US = frozenset(
    {
        _E.COMMAND_FIELD,
        _E.MESSAGE_ID,
        _E.MESSAGE_ID_RESPONDED_TO,
        _E.PRIORITY,
        _E.DATA_SET_TYPE,
        _E.STATUS,
        _E.ERROR_ID,
        _E.EVENT_TYPE_ID,
        _E.ACTION_TYPE_ID,
        _E.REMAINING,
        _E.COMPLETED,
        _E.FAILED,
        _E.WARNING,
        _E.MOVE_ORIGINATOR_MESSAGE_ID,
    }
)
_UID = frozenset(
    {
        _E.AFFECTED_SOP_CLASS_UID,
        _E.REQUESTED_SOP_CLASS_UID,
        _E.AFFECTED_SOP_INSTANCE_UID,
        _E.REQUESTED_SOP_INSTANCE_UID,
    }
)
_TEXT = frozenset({_E.MOVE_DESTINATION, _E.ERROR_COMMENT, _E.MOVE_ORIGINATOR_AE_TITLE, _E.PASSED_SITES})
_HEADER = struct.Struct("<HHL")
_US_ELEMENT = struct.Struct("<HHLH")
_AT_ELEMENT = struct.Struct("<HHLHH")  # one attribute that a response names
_GROUP_LENGTH = struct.Struct("<HHLL")
_SHORT = struct.Struct("<H")


class Command(dict[int, "int | str"]):
    """One command set: element number -> value. Numbers are ints, UIDs and texts are trimmed strings."""

    __slots__ = ()

    def number(self, element: Element) -> int:
        """A required US value; ProtocolError when it is missing."""
        value = self.get(element)
        if not isinstance(value, int):
            raise ProtocolError(f"the command set lacks (0000,{element:04X}), or has no number in it")
        return value

    def text(self, element: Element) -> str:
        """A UID or text value; empty when it is missing."""
        value = self.get(element, "")
        return value if isinstance(value, str) else ""

    @property
    def has_data_set(self) -> bool:
        return self.get(_E.DATA_SET_TYPE, NO_DATA_SET) != NO_DATA_SET


def decode_command(data: bytes | bytearray | memoryview) -> Command:
    """Read a command set. Raises ProtocolError for anything that is not one."""
    command = Command()
    at, end = 0, len(data)
    while at < end:
        if end - at < 8:
            raise ProtocolError("the command set ends inside an element")
        group, element, length = _HEADER.unpack_from(data, at)
        at += 8
        if length > end - at:
            raise ProtocolError(
                f"({group:04X},{element:04X}) of the command set claims {length} bytes, {end - at} are left"
            )
        if group == 0 and element in _US:
            if length >= 2:  # of several values the first one
                command[element] = _SHORT.unpack_from(data, at)[0]
        elif group == 0 and (element in _UID or element in _TEXT):
            command[element] = bytes(data[at : at + length]).decode("latin-1").strip("\0 ")
        at += length
    if _E.COMMAND_FIELD not in command:
        raise ProtocolError("the command set has no Command Field (0000,0100)")
    return command


def encode(elements: dict[int, int | str]) -> bytes:
    """Write a command set, group length first, elements in ascending order."""
    parts = []
    for element in sorted(elements):
        value = elements[element]
        if element == _E.ATTRIBUTE_IDENTIFIER_LIST and isinstance(value, int):
            parts.append(_AT_ELEMENT.pack(0, element, 4, value >> 16, value & 0xFFFF))
        elif isinstance(value, int):
            parts.append(_US_ELEMENT.pack(0, element, 2, value))
        else:
            raw = value.encode("latin-1", "replace")
            if len(raw) & 1:
                raw += b"\0" if element in _UID else b" "
            parts.append(_HEADER.pack(0, element, len(raw)) + raw)
    body = b"".join(parts)
    return _GROUP_LENGTH.pack(0, 0, 4, len(body)) + body


def response_to(request: Command, status: int, comment: str = "") -> dict[int, int | str]:
    """The response elements for any request: its own UIDs and message ID, no data set (PS3.7 section 9.3)."""
    answer: dict[int, int | str] = {
        _E.COMMAND_FIELD: request.number(_E.COMMAND_FIELD) | 0x8000,
        _E.MESSAGE_ID_RESPONDED_TO: request.number(_E.MESSAGE_ID),
        _E.DATA_SET_TYPE: NO_DATA_SET,
        _E.STATUS: status,
    }
    for affected, requested in (
        (_E.AFFECTED_SOP_CLASS_UID, _E.REQUESTED_SOP_CLASS_UID),
        (_E.AFFECTED_SOP_INSTANCE_UID, _E.REQUESTED_SOP_INSTANCE_UID),
    ):
        uid = request.text(affected) or request.text(requested)
        if uid:
            answer[affected] = uid
    if comment:
        answer[_E.ERROR_COMMENT] = comment[:64]  # LO
    return answer
