"""The requests that a running gateway takes from people: by `edge` through the control socket, and by the console.

A command is a name and a dictionary; its answer is a dictionary, or an EdgeError: the refusal in words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

from edge import __version__
from edge.config.sections import Config
from edge.daemon.changes import CHANGES, RELEASER_DECISIONS, announce_to_centre
from edge.daemon.configuring import Configuring, handlers_of
from edge.daemon.control import Handler
from edge.daemon.notifications import Notifications
from edge.daemon.outbound import Outbound
from edge.daemon.request import Params
from edge.daemon.restoring import Restores
from edge.errors import EdgeError
from edge.storage.release import Releaser
from edge.storage.repair import Repairer
from edge.store.database import Store

#: Change -> the key of a destination that must be configured, and of one that must not be.
_DESTINATIONS = {
    "queue-reroute": ("destination", ""),
    "destination-try": ("name", ""),
    "worklist-refresh": ("source", ""),
    "study-send": ("destination", ""),
    "destination-rename": ("new", "old"),
    "destination-retire": ("", "name"),
}


class Commands:
    """All handlers, by name. Thread-safe: each command is a change of the catalog, or one call of a part."""

    def __init__(
        self,
        db: Store,
        outbound: Outbound,
        notifications: Notifications,
        releaser: Releaser,
        repairer: Repairer,
        config: Callable[[], Config],
        status: Callable[[], Params],
        setup_link: Callable[[], str | None],
        settle: Callable[[], bool],
        wake_steps: Callable[[], None],
        configuring: Configuring,
        ready: Callable[[], tuple[bool, str]],
        restores: Restores,
    ) -> None:
        """`settle`: bring into the catalog what was answered until now, within a bounded time; False: not all is."""
        self._db, self._config, self._repairer, self._try_now = db, config, repairer, outbound.try_now
        self._wake = dict.fromkeys(("queue", "destination", "study"), outbound.wake_all) | {
            "notify": notifications.wake_couriers,
            "mpps": wake_steps,
        }
        self.handlers: Mapping[str, Handler] = {
            **{name: partial(self._change, name) for name in CHANGES},
            **{name: partial(decide, releaser) for name, decide in RELEASER_DECISIONS.items()},
            "ping": lambda _: {"version": __version__},
            "status": lambda _: {"status": status()},
            "settle": lambda _: {"settled": settle()},
            "console-setup": lambda _: {"link": setup_link()},
            "repair": self._repair,
            "announce": self._announce,
            "ready": lambda _: dict(zip(("ready", "reason"), ready(), strict=True)),
            "restore-begin": restores.begin,
            "restore-state": restores.state,
            **handlers_of(configuring),
        }

    on_import: Callable[[], None] = staticmethod(lambda: None)  # called when an import has work
    on_worklist: Callable[[], None] = staticmethod(lambda: None)  # called when a person wants the worklist now

    def ask(self, command: str, request: Params) -> Mapping[str, Any]:
        """Carry out one command. Raises EdgeError."""
        handler = self.handlers.get(command)
        if handler is None:
            raise EdgeError(f"this gateway knows no command {command}")
        return handler(request)

    def _change(self, name: str, request: Params) -> Params:
        """Change the catalog, and wake who has work by it."""
        self._check_destinations(name, request)
        answer = CHANGES[name](self._db, request)
        if name == "destination-try":
            self._try_now(request["name"])
        if name == "import-assign":
            self.on_import()
        if name == "worklist-refresh":
            self.on_worklist()
        if (wake := self._wake.get(name.partition("-")[0])) is not None:
            wake()
        return answer

    def _check_destinations(self, name: str, request: Params) -> None:
        """Refuse a change whose destinations are not configured, or where it must not be, still are."""
        known, (there, gone) = self._config().destinations, _DESTINATIONS.get(name, ("", ""))
        if there and request[there] not in known:
            names = ", ".join(known) or "none"
            raise EdgeError(f'there is no destination "{request[there]}"; the running configuration has: {names}')
        if gone and request[gone] in known:
            text = "is in the running configuration: remove its table and reload first"
            raise EdgeError(f"destination {request[gone]} {text}")

    def _announce(self, request: Params) -> Params:
        answer = announce_to_centre(self._db, self._config(), request)
        self._wake["notify"]()
        return answer

    def _repair(self, request: Params) -> Params:
        return {"mended": [asdict(self._repairer.repair(each)) for each in request["ids"]]}  # language: a JSON key
