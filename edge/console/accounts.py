"""The console's accounts, in the catalog: each change, each sign-in and each lock is in the ledger."""

from __future__ import annotations

from edge.store import ledger
from edge.store.database import Transaction
from edge.text import iso
from edge.web.accounts import AccountEvent


def record_in_ledger(conn: Transaction, event: AccountEvent) -> None:
    """Append a row for an event, in the caller's transaction."""
    name, who, payload = _row(event)
    ledger.append(conn, event.at, name, who, [], payload=payload)


def _row(event: AccountEvent) -> tuple[str, str, ledger.Payload]:
    """(event, who, payload) of the ledger."""
    sign_in = {"action": ledger.SIGN_IN, "address": event.address}
    if event.kind == AccountEvent.SIGNED_IN:
        return ledger.SIGNED_IN, event.who, sign_in
    if event.kind == AccountEvent.SIGNED_OUT:
        return ledger.SIGNED_IN, event.who, sign_in | {"action": ledger.SIGN_OUT}
    if event.kind == AccountEvent.REFUSED:
        return ledger.REFUSED, event.who, sign_in | ({"left_out": event.left_out} if event.left_out else {})
    account = {"action": ledger.ACCOUNT, "account": event.account}
    if event.kind == AccountEvent.LOCKED:
        locked = {"locked_until": iso(event.until), "failures": event.failures, "address": event.address}
        return ledger.CONFIGURED, ledger.EDGE, account | locked
    return ledger.CONFIGURED, event.who, account | {"change": event.change}
