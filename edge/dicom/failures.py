"""The meaning of a request's final status, except that of C-STORE (edge.dicom.status)."""

from __future__ import annotations

from edge.errors import EdgeError, PeerError, Permanent

#: Statuses that say that asking again soon is of no use (PS3.7 annex C).
LASTING = frozenset({0x0112, 0x0117, 0x0118, 0x0119, 0x0122, 0x0123, 0x0124, 0x0211, 0xA900})

#: Statuses that concern the service or the destination as a whole, not what the request names: no such SOP
#: class, SOP class not supported, no such action, not authorized, unrecognized operation (PS3.7 annex C), out of
#: resources (0213: PS3.7 annex C; A700: PS3.4 table C.4-1).
GENERAL = frozenset({0x0118, 0x0122, 0x0123, 0x0124, 0x0211, 0x0213, 0xA700})


#: PS3.7 annex C, PS3.4 table C.4-1.
_WORDS = {
    0x0105: "no such attribute",
    0x0106: "invalid attribute value",
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0112: "no such SOP instance",
    0x0113: "no such event type",
    0x0114: "no such argument",
    0x0115: "invalid argument value",
    0x0117: "invalid object instance",
    0x0118: "no such SOP class",
    0x0119: "class-instance conflict",
    0x0120: "missing attribute",
    0x0121: "missing attribute value",
    0x0122: "SOP class not supported",
    0x0123: "no such action",
    0x0124: "not authorized",
    0x0210: "duplicate invocation",
    0x0211: "unrecognized operation",
    0x0212: "mistyped argument",
    0x0213: "resource limitation",
    0xA700: "out of resources",
    0xA710: "invalid prior record key",
    0xA900: "identifier does not match SOP class",
}
#: PS3.7 annex C: requested optional attributes are not supported, attribute list error, value out of range.
_WARNINGS = frozenset({0x0001, 0x0107, 0x0116})


class ServiceRefused(Permanent):
    """The destination does not offer the service, or not to us: a person must change one side or the other.

    `status`: of its answer; None where it did not come to that.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


class RequestFailed(PeerError):
    """The destination answered a request with a status that says that it failed."""

    def __init__(self, text: str, status: int) -> None:
        super().__init__(text)
        self.status = status


def is_of_request(error: EdgeError) -> bool:
    """May what the request named have caused this, of which the destination proves others? Else it is general."""
    if isinstance(error, (ServiceRefused, RequestFailed)):
        return error.status is not None and error.status not in GENERAL
    return isinstance(error, PeerError)


def failure(service: str, status: int) -> EdgeError | None:
    """What the final status of a request means; None for success and warnings."""
    if not status or status in _WARNINGS or status >> 12 == 0xB:
        return None
    words = _WORDS.get(status)
    text = f"{service} failed with status {status:04X}" + (f" ({words})" if words else "")
    return ServiceRefused(text, status) if status in LASTING else RequestFailed(text, status)


def raise_failure(service: str, status: int) -> None:
    """Raise what `failure` finds."""
    if (error := failure(service, status)) is not None:
        raise error
