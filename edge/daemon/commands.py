"""The requests that a running gateway takes from people: by `edge` through the control socket, and by the console.

A command is a name and a dictionary; its answer is a dictionary, or an EdgeError: the refusal in words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from edge import __version__
from edge.daemon.changes import CHANGES, RELEASER_DECISIONS, announce_to_centre
from edge.daemon.configuring import handlers_of
from edge.daemon.control import Handler
from edge.daemon.request import Params
from edge.errors import EdgeError

if TYPE_CHECKING:
    from edge.daemon.gateway import Gateway

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

    def __init__(self, gateway: Gateway) -> None:
        self._gateway, outbound = gateway, gateway.outbound
        self._wake = dict.fromkeys(("queue", "destination", "study"), outbound.wake_all) | {
            "notify": gateway.notifications.wake_couriers,
            "mpps": gateway.step_forwarding.wake,
        }
        self.handlers: Mapping[str, Handler] = {
            **{name: partial(self._change, name) for name in CHANGES},
            **{name: partial(decide, gateway.releaser) for name, decide in RELEASER_DECISIONS.items()},
            "ping": lambda _: {"version": __version__},
            "status": lambda _: {"status": gateway.status()},
            "settle": lambda _: {"settled": gateway.settle()},
            "console-setup": lambda _: {"link": gateway.setup_link()},
            "repair": self._repair,
            "announce": self._announce,
            "ready": lambda _: dict(zip(("ready", "reason"), gateway.state.ready(), strict=True)),
            "restore-begin": gateway.restores.begin,
            "restore-state": gateway.restores.state,
            **handlers_of(gateway.configuring),
        }

    def ask(self, command: str, request: Params) -> Mapping[str, Any]:
        """Carry out one command. Raises EdgeError."""
        handler = self.handlers.get(command)
        if handler is None:
            raise EdgeError(f"this gateway knows no command {command}")
        return handler(request)

    def _change(self, name: str, request: Params) -> Params:
        """Change the catalog, and wake who has work by it."""
        self._check_destinations(name, request)
        answer = CHANGES[name](self._gateway.db, request)
        if name == "destination-try":
            self._gateway.outbound.try_now(request["name"])
        if name == "import-assign":
            self._gateway.importer.worker.wake()
        if name == "worklist-refresh":
            self._gateway.worklist_keeper.ask_now()
        if (wake := self._wake.get(name.partition("-")[0])) is not None:
            wake()
        return answer

    def _check_destinations(self, name: str, request: Params) -> None:
        """Refuse a change whose destinations are not configured, or where it must not be, still are."""
        known, (there, gone) = self._gateway.config.destinations, _DESTINATIONS.get(name, ("", ""))
        if there and request[there] not in known:
            names = ", ".join(known) or "none"
            raise EdgeError(f'there is no destination "{request[there]}"; the running configuration has: {names}')
        if gone and request[gone] in known:
            text = "is in the running configuration: remove its table and reload first"
            raise EdgeError(f"destination {request[gone]} {text}")

    def _announce(self, request: Params) -> Params:
        answer = announce_to_centre(self._gateway.db, self._gateway.config, request)
        self._wake["notify"]()
        return answer

    def _repair(self, request: Params) -> Params:
        repaired = [asdict(self._gateway.repairer.repair(each)) for each in request["ids"]]
        return {"mended": repaired}  # language: a JSON key
