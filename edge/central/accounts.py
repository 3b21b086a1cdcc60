"""The record of what happens to the accounts of the centre's pages: its table `journal`."""

from __future__ import annotations

from edge.store.central.centre_state import journal
from edge.store.engine import EngineTransaction
from edge.text import moment_text
from edge.web.accounts import AccountEvent


def record_in_journal(conn: EngineTransaction, event: AccountEvent) -> None:
    """One row for each event, in the caller's transaction."""
    source = f"from {event.address}"
    more = f" (and {event.left_out} more like it)" if event.left_out else ""
    locked = f"locked until {moment_text(event.until)} after {event.failures} failures, {source}"
    texts = {
        AccountEvent.SIGNED_IN: f"signed in, {source}",
        AccountEvent.SIGNED_OUT: f"signed out, {source}",
        AccountEvent.REFUSED: f"sign-in refused, {source}{more}",
        AccountEvent.LOCKED: f"account {event.account}: {locked}",
        AccountEvent.CHANGED: f"account {event.account}: {event.change}",
    }
    journal(conn, event.who, texts[event.kind], event.at)
