"""What people may ask of a running gateway, by `edge` through the control socket and by the console's pages: the same.

A command is a name and a dictionary; its answer is a dictionary, or an EdgeError: the refusal in words. Whatever a
person decides is in the ledger with who and why.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from edge import __version__, decisions, destinations, ledger, outbox
from edge.config.sections import Config
from edge.console.accounts import CatalogAccounts
from edge.daemon.links import Links
from edge.db import Connection, Database
from edge.destinations import Progress
from edge.errors import EdgeError
from edge.intake import Intake
from edge.model import Priority
from edge.ops import looks, watch
from edge.ops.control import Handler
from edge.ops.words import counted
from edge.scrub.repair import Repairer
from edge.web.accounts import Account, Role

log = logging.getLogger(__name__)

Told = dict[str, Any]


class Commands:
    """The handlers, by name. Thread-safe: each command is one transaction, or one call of a station's."""

    def __init__(
        self,
        db: Database,
        links: Links,
        intake: Intake,
        repairer: Repairer,
        accounts: CatalogAccounts,
        config: Callable[[], Config],
        status: Callable[[], Told],
        setup_link: Callable[[], str | None],
    ) -> None:
        self._db, self._links, self._accounts, self._config = db, links, accounts, config
        self.handlers: Mapping[str, Handler] = {
            "ping": lambda _: {"version": __version__},
            "status": lambda _: {"status": status()},
            "queue-retry": lambda told: self._retry(told, ledger.RETRIED),
            "queue-release": lambda told: self._retry(told, ledger.RELEASED),
            "queue-hold": self._hold,
            "queue-reroute": lambda told: {"moved": intake.reroute(told["ids"], told["who"], told.get("reason", ""))},
            "queue-hasten": self._hasten,
            "queue-redirect": self._redirect,
            "destination-retire": self._retire,
            "destination-rename": self._rename,
            "repair": lambda told: {"mended": [asdict(repairer.mend(each)) for each in told["ids"]]},
            "alert-acknowledge": self._acknowledge,
            "viewed": lambda told: self._looked(looks.viewed, told),
            "audit-reported": lambda told: self._looked(looks.reported, told),
            "notify-retry": self._retry_notices,
            "notify-discard": self._discard_notices,
            "console-setup": lambda _: {"link": setup_link()},
            "account-put": self._put_account,
            "account-remove": lambda told: {"removed": accounts.remove(told["name"], told["who"])},
        }

    def ask(self, command: str, told: Told) -> Mapping[str, Any]:
        """Carry out one command. Raises EdgeError."""
        handler = self.handlers.get(command)
        if handler is None:
            raise EdgeError(f"this gateway knows no command {command}")
        return handler(told)

    # -- the queue ----------------------------------------------------------------------------------------------------

    def _retry(self, told: Told, event: str) -> Told:
        move = partial(decisions.retry, event=event, why=told.get("reason", ""))
        moved = self._db.write(lambda conn: move(conn, told["ids"], time.time(), told["who"]))
        self._links.wake_all()
        return {"moved": moved}

    def _hold(self, told: Told) -> Told:
        who, reason = told["who"], told.get("reason", "")
        return {"moved": self._db.write(lambda conn: decisions.hold(conn, told["ids"], time.time(), who, reason))}

    def _hasten(self, told: Told) -> Told:
        who, why, priority = told["who"], told.get("reason", ""), Priority[told["priority"].upper()]
        return {
            "moved": self._db.write(lambda conn: decisions.hasten(conn, told["ids"], priority, time.time(), who, why))
        }

    def _redirect(self, told: Told) -> Told:
        who, why, name = told["who"], told.get("reason", ""), told["destination"]
        known = self._config().destinations
        if name not in known:
            raise EdgeError(f'there is no destination "{name}"; there are: {", ".join(known)}')
        moved = self._db.write(lambda conn: decisions.redirect(conn, told["ids"], name, time.time(), who, why))
        self._links.wake([name])
        return {"moved": moved}

    def _retire(self, told: Told) -> Told:
        name, who, why = told["name"], told["who"], told["reason"]
        self._must_be_gone(name)
        return self._in_batches(lambda conn, after: destinations.retire(conn, name, after, time.time(), who, why))

    def _rename(self, told: Told) -> Told:
        old, new, who = told["old"], told["new"], told["who"]
        self._must_be_gone(old)
        if new not in self._config().destinations:
            raise EdgeError(f'there is no destination "{new}" in the running configuration: reload first')
        self._db.write(lambda conn: destinations.begin_rename(conn, old, new, time.time(), who))
        done = self._in_batches(lambda conn, after: destinations.rename(conn, old, new, after))
        self._links.wake([new])
        return done

    def _must_be_gone(self, name: str) -> None:
        if name in self._config().destinations:
            raise EdgeError(f"destination {name} is in the running configuration: remove its table and reload first")

    def _in_batches(self, batch: Callable[[Connection, int], Progress]) -> Told:
        done = destinations.all_batches(lambda after: self._db.write(lambda conn: batch(conn, after)))
        return {"ended": done.ended, "moved": done.moved, "unroutable": done.unroutable}

    # -- alerts, looks, notices ---------------------------------------------------------------------------------------

    def _acknowledge(self, told: Told) -> Told:
        number, who, note = told["id"], told["who"], told.get("note", "")
        found = self._db.write(lambda conn: watch.acknowledge(conn, number, who, note, time.time()))
        return {"kind": found.kind, "subject": found.subject}

    def _looked(self, write: Any, told: Told) -> Told:
        now, who, studies, why = time.time(), told["who"], told["studies"], told["why"]
        return {"recorded": self._db.write(lambda conn: write(conn, now, who, studies, why))}

    def _retry_notices(self, told: Told) -> Told:
        moved = self._db.write(lambda conn: outbox.unpark(conn, told["channel"]))
        self._links.wake_couriers()
        return {"moved": moved}

    def _discard_notices(self, told: Told) -> Told:
        channel, who, parked_only = told["channel"], told["who"], not told["waiting"]

        def work(conn: Connection) -> int:
            moved = outbox.discard(conn, channel, parked_only)
            detail = f"{counted(moved, 'message')} to {channel} discarded"
            ledger.append(conn, time.time(), ledger.OVERRIDDEN, who, [], detail=detail)
            return moved

        moved = self._db.write(work)
        log.warning("%s discarded %d messages of %s", who, moved, channel)
        return {"moved": moved}

    def _put_account(self, told: Told) -> Told:
        """`changed_at` as it was keeps the account's sessions; omitted: they end."""
        changed_at = told.get("changed_at", time.time())
        account = Account(
            told["name"],
            Role[told["role"].upper()],
            told["password"],
            changed_at,
            bool(told.get("disabled")),
            told.get("expires_at"),
        )
        self._accounts.put(account, told["who"], told.get("what", ""))
        return {}
