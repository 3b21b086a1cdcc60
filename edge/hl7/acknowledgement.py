"""Acknowledgements (HL7 v2.x section 2.9): ACK with MSA and ERR, in the separators of the message. Pure.

MSA-3 and ERR name segment and field, and no value: they may be written into logs of other systems.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from edge.hl7.form import FormFault
from edge.hl7.message import FrameContent, Hl7Message, Segment, Separators, split_segment

_CODE_WORDS = {
    100: "Segment sequence error", 101: "Required field missing", 201: "Unsupported event code",
    205: "Duplicate key identifier",
}  # fmt: skip


def list_codes(message: Hl7Message, fault: FormFault | None) -> list[str]:
    """List the acknowledgement codes that a message is owed, in order: none, one, or CA and then AA.

    In enhanced mode (MSH-15 or MSH-16 has a value) the accept acknowledgement is CA, CE or CR.
    """
    header = message.header
    accept, application = (header.text(15).upper(), header.text(16).upper()) if header else ("", "")
    plain = fault.answer if fault else "AA"
    if not accept and not application:
        return [plain]
    unwanted = {"NE", "ER"} if fault is None else {"NE", "SU"}
    codes = []
    if accept and accept not in unwanted:
        codes.append("CA" if fault is None else {"AE": "CE", "AR": "CR"}[fault.answer])
    if application not in unwanted and not (fault is not None and codes):
        codes.append(plain)
    return codes


def write_acknowledgement(message: Hl7Message, code: str, fault: FormFault | None, now: float, number: int) -> bytes:
    """Write one ACK. `number`: makes its own control ID unique."""
    header = message.header or split_segment("MSH|^~\\&", Separators())
    by = header.separators
    stamp = time.strftime("%Y%m%d%H%M%S", time.gmtime(now))
    kind = "ACK"
    if message.version >= (2, 4):
        kind = by.component.join(("ACK", message.trigger, "ACK") if message.trigger else ("ACK", "", "ACK"))
    fields = [
        "MSH", by.encoding if message.header is None else header.fields[1], header.raw(5), header.raw(6),
        header.raw(3), header.raw(4), f"{stamp}+0000", "", kind, f"E{int(now)}{number % 1_000_000:06d}",
        header.raw(11) or "P", header.raw(12) or "2.3.1", "", "", "", "", "", header.raw(18),
    ]  # fmt: skip
    lines = [by.field.join(fields).rstrip(by.field)]
    words = _escape(fault.words, by) if fault else ""
    lines.append(by.field.join(("MSA", code, header.raw(10), words)).rstrip(by.field))
    if fault is not None:
        lines.append(_error(fault, message, by, words))
    return "".join(line + "\r" for line in lines).encode("latin-1", "replace")


def _error(fault: FormFault, message: Hl7Message, by: Separators, words: str) -> str:
    """ERR-1 before version 2.5, then ERR-2 to ERR-4 and ERR-8."""
    place = (fault.segment, "1", str(fault.field) if fault.field else "")
    code = (str(fault.code), _CODE_WORDS.get(fault.code, ""), "HL70357")
    if message.version < (2, 5):
        return by.field.join(("ERR", by.component.join((*place, by.subcomponent.join(code)))))
    where = by.component.join(place).rstrip(by.component)
    return by.field.join(("ERR", "", where, by.component.join(code), "E", "", "", "", words))


def _escape(text: str, by: Separators) -> str:
    for char, code in ((by.escape, "E"), (by.field, "F"), (by.component, "S"), (by.subcomponent, "T")):
        text = text.replace(char, f"{by.escape}{code}{by.escape}")
    return text


def join_batch(batch: FrameContent, answers: Sequence[bytes]) -> bytes:
    """The answer to a frame: of a batch a batch, with one acknowledgement a message."""
    if not batch.is_batch:
        return b"".join(answers)
    found = next((each for each in batch.headers if each.startswith(b"BHS")), b"BHS|^~\\&")
    header = _turn_around(split_segment(found.decode("latin-1"), Separators.from_header(found.decode("latin-1"))))
    bar = found[3:4]
    lines = [header.encode("latin-1") + b"\r", *answers, b"BTS" + bar + str(len(answers)).encode() + b"\r"]
    if any(each.startswith(b"FHS") for each in batch.headers):
        lines = [b"FHS" + header.encode("latin-1")[3:] + b"\r", *lines, b"FTS" + bar + b"1\r"]
    return b"".join(lines)


def _turn_around(header: Segment) -> str:
    """A batch header with sender and receiver swapped."""
    by = header.separators
    names = [header.raw(5), header.raw(6), header.raw(3), header.raw(4)]
    return by.field.join(["BHS", header.raw(2) or by.encoding, *names]).rstrip(by.field)
