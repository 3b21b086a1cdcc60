"""DICOM messages as bytes, sound ones and ones with something wrong."""

from __future__ import annotations

import random
import struct

from edge.dicom import command as dimse
from edge.dicom.acse import Context, Request, request_pdu
from edge.dicom.command import CommandField, Element
from edge.dicom.uids import IMPLICIT_VR_LITTLE_ENDIAN, VERIFICATION
from tests.torture.custody import CT, EXPLICIT

CONTEXTS = (Context(1, CT, (EXPLICIT,)), Context(3, VERIFICATION, (IMPLICIT_VR_LITTLE_ENDIAN,)))
ASSOCIATE = request_pdu(Request("EVIL", "EDGE", CONTEXTS, 16_384))


def p_data(
    fragment: bytes, control: int, context: int = 1, claims: int | None = None, holds: int | None = None
) -> bytes:
    """A P-DATA-TF with one PDV; `claims` and `holds`: the lengths that PDU and PDV lie."""
    pdv = struct.pack(">LBB", len(fragment) + 2 if holds is None else holds, context, control) + fragment
    return struct.pack(">BxL", 4, len(pdv) if claims is None else claims) + pdv


def store_command(uid: str = "1.2.3", **more: int | str) -> bytes:
    elements: dict[int, int | str] = {
        Element.AFFECTED_SOP_CLASS_UID: CT,
        Element.COMMAND_FIELD: CommandField.C_STORE_RQ,
        Element.MESSAGE_ID: 1,
        Element.PRIORITY: 0,
        Element.DATA_SET_TYPE: dimse.DATA_SET,
        Element.AFFECTED_SOP_INSTANCE_UID: uid,
    }
    return dimse.encode(elements | {Element[name.upper()]: value for name, value in more.items()})


def echo_command() -> bytes:
    return dimse.encode(
        {
            Element.AFFECTED_SOP_CLASS_UID: VERIFICATION,
            Element.COMMAND_FIELD: CommandField.C_ECHO_RQ,
            Element.MESSAGE_ID: 1,
            Element.DATA_SET_TYPE: dimse.NO_DATA_SET,
        }
    )


def seeds() -> list[bytes]:
    """Sound messages of every kind that we read; what is wrong is made of these."""
    data = struct.pack("<HH2sH", 8, 0x18, b"UI", 6) + b"1.2.3\0" + bytes(200)
    many = b"".join(p_data(bytes(8), 0) for _ in range(8)) + p_data(b"", 2)
    pair = p_data(store_command(), 3)[6:] + p_data(data, 2)[6:]
    return [
        ASSOCIATE,
        p_data(echo_command(), 3, 3),
        p_data(store_command(), 3) + p_data(data, 2),
        p_data(store_command()[:40], 1) + p_data(store_command()[40:], 3) + many,
        struct.pack(">BxL", 4, len(pair)) + pair,
        struct.pack(">BxLL", 5, 4, 0),
        struct.pack(">BxLL", 6, 4, 0),
        struct.pack(">BxLxxBB", 7, 4, 0, 0),
    ]


def mutated(message: bytes, chance: random.Random) -> bytes:
    """A sound message with some things wrong: bits, lengths, cuts, repetitions, insertions."""
    data = bytearray(message)
    for _ in range(chance.choice((1, 1, 1, 2, 4, 16))):
        if not data:
            break
        at, how = chance.randrange(len(data)), chance.randrange(7)
        if how == 0:
            data[at] ^= 1 << chance.randrange(8)
        elif how == 1:
            data[at] = chance.choice((0, 1, 2, 3, 4, 7, 0x7F, 0x80, 0xFF))
        elif how == 2:
            data[at : at + 4] = chance.choice((b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\1\0\0"))
        elif how == 3:
            del data[at : at + chance.choice((1, 2, 8, 100))]
        elif how == 4:
            data[at:at] = chance.randbytes(chance.choice((1, 2, 6, 40)))
        elif how == 5:
            data[at:at] = data[at : at + chance.choice((4, 12, 80))]
        else:
            del data[at:]
    return bytes(data)
