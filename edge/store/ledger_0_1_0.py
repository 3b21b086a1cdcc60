"""The rows of the ledger that 0.1.0 wrote: a text and no payload. The one place that reads such a text.

Their hashes cover the text as it is, so no migration may turn it into a payload: it is decoded where a row is read, as
far as code needs it. Of what a person typed nothing is decoded. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping
from typing import Any

from edge.model import ReasonCode
from edge.store import ledger

_ARRIVAL = re.compile(r"from (\S*) for (.*); sha256 ([0-9a-f]*)")
_NO_DESTINATION = "nobody: no route matched"
_ROUTED = re.compile(r"routed to ([^:]+)")
_REDIRECTED = re.compile(r"instead of ([^ :]+)")
_SIGN_IN = re.compile(r"sign-in at the console, from (\S+)")
_CALLER = re.compile(r"from (\S+): ")
_ADDRESS_AT_END = re.compile(r", from (\S+)$")


def decode_text(event: str, who: str, destination: str, text: str) -> dict[str, Any]:
    """The values that the text of a row has; empty where code needs none of them."""
    if event == ledger.HELD:
        return {"reason_code": _reason_code_of_hold(who, destination).value}
    if event in (ledger.RELEASED, ledger.RETRIED):
        return {} if destination else _release(text)
    decode = _DECODERS.get(event)
    return decode(text) if decode is not None else {}


def _reason_code_of_hold(who: str, destination: str) -> ReasonCode:
    """The reason code by who held it: a sender, the destination that never commits to it, or a person."""
    if who == ledger.EDGE:
        return ReasonCode.REFUSED
    return ReasonCode.NOT_COMMITTED if who == destination else ReasonCode.PERSON


def _arrival(text: str) -> dict[str, Any]:
    found = _ARRIVAL.fullmatch(text)
    if found is None:
        return {}
    names = [] if found[2] == _NO_DESTINATION else found[2].split(", ")
    return {**_address(found[1]), "destinations": names, "sha256": found[3]}


def _release(text: str) -> dict[str, Any]:
    found = _ROUTED.match(text)
    return {"destinations": found[1].split(", ")} if found else {}


def _override(text: str) -> dict[str, Any]:
    found = _REDIRECTED.match(text)
    if found is None:
        return {}
    return {"action": ledger.REDIRECT, "instead_of": "" if found[1] == "nowhere" else found[1]}


def _refusal(text: str) -> dict[str, Any]:
    if found := _SIGN_IN.match(text):
        return {"action": ledger.SIGN_IN, **_address(found[1])}
    found = _CALLER.match(text)
    return _address(found[1]) if found else {}


def _sign_in(text: str) -> dict[str, Any]:
    action = ledger.SIGN_OUT if text.startswith("signed out") else ledger.SIGN_IN
    return {"action": action, **_view(text)}


def _view(text: str) -> dict[str, Any]:
    found = _ADDRESS_AT_END.search(text)
    return _address(found[1]) if found else {}


def _configuration(text: str) -> dict[str, Any]:
    action, _, rest = text.partition(": ")
    if action == "rejected":
        return {"action": ledger.REJECT}
    if action == "changed":
        return {"action": ledger.CHANGE, "sections": sorted({key.partition(".")[0] for key in rest.split(", ")})}
    return {"action": ledger.ACCOUNT} if action.startswith("account ") else {}


def _address(text: str) -> dict[str, str]:
    try:
        return {"address": str(ipaddress.ip_address(text))}
    except ValueError:
        return {}


_DECODERS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    ledger.RECEIVED: _arrival,
    ledger.ADOPTED: _arrival,
    ledger.CONFLICT: _arrival,
    ledger.OVERRIDDEN: _override,
    ledger.REFUSED: _refusal,
    ledger.SIGNED_IN: _sign_in,
    ledger.VIEWED: _view,
    ledger.CONFIGURED: _configuration,
    ledger.CONFIRMED: lambda text: {"method": ledger.BY_QUERY} if text == "by C-FIND" else {},
    ledger.RENAMED: lambda text: {"former": text},
}
