"""The first message of a DICOM connection, for edge.scp.listener: its A-ASSOCIATE-RQ (PS3.8 section 9.3.2)."""

from __future__ import annotations

from edge.dicom import pdu
from edge.dicom.acse import calling_title, reject_pdu
from edge.scp.listener import CLIENT_HELLO, CallerRefused

#: A-ASSOCIATE-RJ: rejected-transient, service provider (presentation), local limit exceeded (PS3.8 table 9-21).
LOCAL_LIMIT_EXCEEDED = (2, 3, 2)
_NO_REASON, UNEXPECTED_PDU, _INVALID_PARAMETER_VALUE = 0, 2, 6  # of A-ABORT (PS3.8 table 9-26)


class DicomProtocol:
    """See edge.scp.listener.WireProtocol."""

    name = "DICOM"
    first_message = "A-ASSOCIATE-RQ"
    title_bytes = 42
    too_many = reject_pdu(*LOCAL_LIMIT_EXCEEDED)
    too_large = pdu.abort(2, _NO_REASON)

    def missing(self, data: bytearray) -> int:
        if data and data[0] != pdu.A_ASSOCIATE_RQ:
            speaks_tls = data[0] == CLIENT_HELLO
            hint = " (it speaks TLS, this port does not)" if speaks_tls else ""
            why = f"its first byte is 0x{data[0]:02X}, not an A-ASSOCIATE-RQ{hint}"
            answer = pdu.abort(2, UNEXPECTED_PDU) if data[0] <= pdu.A_ABORT else b""
            raise CallerRefused(why, answer, is_mistaken=speaks_tls)
        if len(data) < 6:
            return 6 - len(data)
        length = int.from_bytes(data[2:6], "big")
        if length > pdu.MAX_ASSOCIATE:
            why = f"its A-ASSOCIATE-RQ claims {length} bytes, more than {pdu.MAX_ASSOCIATE}"
            raise CallerRefused(why, pdu.abort(2, _INVALID_PARAMETER_VALUE))
        return 6 + length - len(data)

    def title(self, data: bytearray) -> str:
        return calling_title(data) if self.is_plain(data[0] if data else 0) else ""

    def is_plain(self, first: int) -> bool:
        return first == pdu.A_ASSOCIATE_RQ
