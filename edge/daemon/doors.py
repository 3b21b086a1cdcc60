"""The doors: for each protocol the addresses that callers reach, and the receiving processes that take them.

The addresses are bound when the gateway is built, and opened when everything behind them runs.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from functools import partial

from edge.config.sections import Config
from edge.daemon.receivers import Receivers
from edge.daemon.start import StartError, bind, bind_all
from edge.errors import Cause
from edge.network import sockets
from edge.scp.ports import Ports, Refused
from edge.worker.roster import run_side_by_side


class Door:
    """One protocol. Without `ports` it stays shut."""

    def __init__(self, name: str, receivers: Receivers, refused: Refused) -> None:
        """`name`: for people. `refused` records a connection that no process takes."""
        self.name, self.receivers, self._refused = name, receivers, refused
        self.ports: Ports | None = None

    def open(self) -> None:
        if self.ports is not None:
            self.receivers.start()
            self.ports.open(self._hand_on)

    def _hand_on(self, sock: socket.socket, address: str, is_secure: bool) -> None:
        if why := self.receivers.hand_on(sock, address, is_secure):
            self._refused(address, "", why)

    def addresses(self) -> list[str]:
        """The addresses in words, such as `port 104 (TLS)`."""
        ports = self.ports
        if ports is None:
            return []
        plain, secure = [self.name] * bool(self.name), [*[self.name] * bool(self.name), "TLS"]
        found = ((ports.port, plain), (ports.tls_port, secure))
        return [f"port {port}" + (f" ({', '.join(notes)})" if notes else "") for port, notes in found if port]


class Doors:
    """All of them: DIMSE, HL7 and DICOMweb."""

    def __init__(self, dicom: Door, hl7: Door, web: Door) -> None:
        self.dicom, self.hl7, self.web = dicom, hl7, web
        self._all = (dicom, hl7, web)

    def bind(self, config: Config, refused: Refused, hindered: Callable[[Cause], None]) -> None:
        """Bind what the configuration says. Raises StartError. `hindered`: why nobody can be taken in."""
        inherited = _take_inherited(config)
        make = partial(Ports, refused=refused, hindered=hindered, inherited=inherited)
        bind_all(
            partial(_bind_door, self.dicom, "listen", partial(_dicom_ports, config, make)),
            partial(_bind_door, self.hl7, "hl7", partial(_hl7_ports, config, make)),
            partial(_bind_door, self.web, "dicomweb", partial(_web_ports, config, make)),
        )

    def open(self) -> None:
        for door in self._all:
            door.open()

    def close(self) -> None:
        """Let nobody in any more."""
        for door in self._all:
            if door.ports is not None:
                door.ports.close()

    def drain(self, seconds: float) -> None:
        """What is under way may go on for this time; then the processes end."""
        run_side_by_side([partial(door.receivers.drain, seconds) for door in self._all])

    def configure(self) -> None:
        """Hand the new configuration to every door."""
        for door in self._all:
            door.receivers.configure()

    def check(self) -> None:
        """Raises where no receiving process can be started any more."""
        for door in self._all:
            door.receivers.check()

    def addresses(self) -> list[str]:
        return [each for door in self._all for each in door.addresses()]


def _bind_door(door: Door, table: str, build: Callable[[], Ports | None]) -> None:
    door.ports = bind(table, build)


def _take_inherited(config: Config) -> Mapping[int, socket.socket]:
    """The sockets that systemd listens on for us, by port."""
    listen, tls, hl7 = config.listen, config.tls, config.hl7
    ours = {listen.port if listen.plain else None, tls.port if tls.is_on else None, hl7.port, hl7.tls_port}
    inherited = bind("listen", sockets.take_inherited)
    for strange in inherited.keys() - ours:
        raise StartError(
            f"systemd listens for us on port {strange}, which is no port of [listen], [tls] or [hl7]; "
            "make ListenStream= of edge.socket agree with the configuration"
        )
    return inherited


def _dicom_ports(config: Config, make: Callable[..., Ports]) -> Ports:
    listen, tls = config.listen, config.tls
    return make(listen.host, listen.port if listen.plain else None, tls.port if tls.is_on else None)


def _hl7_ports(config: Config, make: Callable[..., Ports]) -> Ports | None:
    hl7 = config.hl7
    if not hl7.is_on:
        return None
    return make(hl7.host, hl7.port, hl7.tls_port if config.tls.is_on else None, name="hl7 ports")


def _web_ports(config: Config, make: Callable[..., Ports]) -> Ports | None:
    """List the ports for DICOMweb: with [tls] they take TLS only; else they serve this machine alone."""
    web = config.dicomweb
    if not web.is_on:
        return None
    if config.tls.is_on:
        return make(web.host, None, web.port, name="web ports")
    return make(web.host if web.host in ("localhost", "::1") else "127.0.0.1", web.port, None, name="web ports")
