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

from edge import __version__
from edge.config.sections import Config
from edge.console.accounts import CatalogAccounts
from edge.control import Handler
from edge.daemon.outbound import Links
from edge.errors import EdgeError
from edge.model import Priority
from edge.monitor import engine
from edge.release import Releaser
from edge.storage.repair import Repairer
from edge.store import access_log, destinations, ledger, operator_actions, outbox
from edge.store.database import Connection, Database
from edge.store.destinations import Progress
from edge.store.operator_actions import Moved
from edge.text import counted
from edge.web.accounts import Account, Role

log = logging.getLogger(__name__)

Told = dict[str, Any]


class Commands:
    """The handlers, by name. Thread-safe: each command is one transaction, or one call of a station's."""

    def __init__(
        self,
        db: Database,
        links: Links,
        releaser: Releaser,
        repairer: Repairer,
        accounts: CatalogAccounts,
        config: Callable[[], Config],
        status: Callable[[], Told],
        setup_link: Callable[[], str | None],
    ) -> None:
        self._db, self._links, self._accounts, self._config = db, links, accounts, config
        self._releaser = releaser
        self.handlers: Mapping[str, Handler] = {
            "ping": lambda _: {"version": __version__},
            "status": lambda _: {"status": status()},
            "queue-retry": self._retry,
            "queue-release": self._release,
            "queue-cancel": self._cancel,
            "queue-hold": self._hold,
            "queue-hasten": self._hasten,
            "queue-redirect": self._redirect,
            "instance-release": self._release_instances,
            "instance-discard": self._discard_instances,
            "instance-export": self._export_instance,
            "instance-viewed": self._view_instances,
            "destination-retire": self._retire,
            "destination-rename": self._rename,
            "repair": lambda told: {"mended": [asdict(repairer.mend(each)) for each in told["ids"]]},
            "alert-acknowledge": self._acknowledge,
            "viewed": lambda told: self._looked(access_log.viewed, told),
            "audit-reported": lambda told: self._looked(access_log.reported, told),
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

    def _retry(self, told: Told) -> Told:
        who, why = told["who"], told.get("reason", "")
        return self._sent_on(lambda conn: operator_actions.retry(conn, told["ids"], time.time(), who, why))

    def _release(self, told: Told) -> Told:
        who, why, named = told["who"], _reason(told), told.get("named") is True
        return self._sent_on(
            lambda conn: operator_actions.release(conn, told["ids"], time.time(), who, why, named=named)
        )

    def _sent_on(self, move: Callable[[Connection], Moved]) -> Told:
        moved = self._db.write(move)
        self._links.wake_all()
        return _as_answer(moved)

    def _cancel(self, told: Told) -> Told:
        who, why = told["who"], _reason(told)
        return _as_answer(
            self._db.write(lambda conn: operator_actions.cancel(conn, told["ids"], time.time(), who, why))
        )

    def _hold(self, told: Told) -> Told:
        who, reason = told["who"], told.get("reason", "")
        return {
            "moved": self._db.write(lambda conn: operator_actions.hold(conn, told["ids"], time.time(), who, reason))
        }

    def _hasten(self, told: Told) -> Told:
        who, why, priority = told["who"], told.get("reason", ""), Priority[told["priority"].upper()]
        return {
            "moved": self._db.write(
                lambda conn: operator_actions.set_priority(conn, told["ids"], priority, time.time(), who, why)
            )
        }

    def _redirect(self, told: Told) -> Told:
        who, why, name = told["who"], told.get("reason", ""), told["destination"]
        known = self._config().destinations
        if name not in known:
            raise EdgeError(f'there is no destination "{name}"; there are: {", ".join(known)}')
        named = told.get("named") is True
        work = partial(operator_actions.reassign, destination=name, who=who, why=why, named=named)
        moved = self._db.write(lambda conn: work(conn, told["ids"], now=time.time()))
        self._links.wake([name])
        return {"moved": moved}

    # -- instances ----------------------------------------------------------------------------------------------------

    def _release_instances(self, told: Told) -> Told:
        who, why, named = told["who"], _reason(told), told.get("named") is True
        return {"decided": [asdict(self._releaser.release(each, who, why, named=named)) for each in told["ids"]]}

    def _discard_instances(self, told: Told) -> Told:
        who, why = told["who"], _reason(told)
        return {"decided": [asdict(self._releaser.discard(each, who, why)) for each in told["ids"]]}

    def _export_instance(self, told: Told) -> Told:
        number, who, where = told["id"], told["who"], told["where"]
        self._db.write(lambda conn: operator_actions.note_exported(conn, number, time.time(), who, where))
        return {}

    def _view_instances(self, told: Told) -> Told:
        who, ids, how = told["who"], told["ids"], told["why"]
        self._db.write(lambda conn: access_log.viewed_instances(conn, time.time(), who, ids, how))
        return {}

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
        found = self._db.write(lambda conn: engine.acknowledge(conn, number, who, note, time.time()))
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


def _reason(told: Told) -> str:
    """Why a person decides so: the ledger keeps it. Raises EdgeError where it is not said."""
    reason = str(told.get("reason", "")).strip()
    if not reason:
        raise EdgeError("say why: a decision needs its reason")
    return reason


def _as_answer(moved: Moved) -> Told:
    return {"moved": moved.count, "left": {code.value: n for code, n in moved.left.items()}}
