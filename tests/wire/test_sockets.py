"""Listening sockets from systemd: which are ours, and a gateway that serves on them."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.network import sockets
from tests.support.objects import ct_files
from tests.support.peers import Edge, StoreScp, free_port, listens, requires, routes_to, run, storescu, wait_until


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "2"}, [3, 4]),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "0"}, []),
        ({"LISTEN_PID": "8", "LISTEN_FDS": "2"}, []),  # another's: our parent's, say
        ({"LISTEN_FDS": "2"}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "-1"}, []),
        ({"LISTEN_PID": "7", "LISTEN_FDS": "many"}, []),
    ],
)
def test_which_descriptors_are_ours(environment: dict[str, str], expected: list[int]) -> None:
    assert list(sockets.descriptors(environment, 7)) == expected


CALLER = '[modality.any]\nae_title = "*"\nhosts = ["127.0.0.1"]\n'


class Activated(Edge):
    """The gateway as systemd starts it: with the first connection to a socket that listened before."""

    listen = "127.0.0.1:{port}"

    def command(self) -> list[str]:
        hand_on = [
            f"--setenv={name}={value}" for name, value in self.environment().items() if name.startswith("PYTHON")
        ]
        where = f"--listen={self.listen.format(port=self.port)}"
        return [requires("systemd-socket-activate"), where, *hand_on, *super().command()]

    def is_ready(self) -> bool:
        return listens(self.pid, self.port) and echo(self.port) and super().is_ready()


def echo(port: int) -> bool:
    """C-ECHO; it waits in the backlog while the gateway starts."""
    return run([requires("echoscu"), "-to", "10", "127.0.0.1", str(port)], check=False).returncode == 0


@pytest.mark.parametrize("listen", ["127.0.0.1:{port}", "{port}"], ids=["an address", "every address, IPv6 too"])
def test_it_serves_on_the_sockets_of_systemd(tmp_path: Path, listen: str) -> None:
    with StoreScp(tmp_path / "archive") as archive:
        edge = Activated(tmp_path / "edge", routes_to(archive) + CALLER, unknown="refuse")
        edge.listen = listen
        with edge:
            storescu(ct_files(tmp_path / "ct", 2), edge.port)
            wait_until(lambda: len(archive.files()) == 2, 20, "both at the archive")
            assert edge.stop() == 0


def test_a_socket_that_the_configuration_does_not_name_keeps_it_from_starting(tmp_path: Path) -> None:
    edge = Activated(tmp_path / "edge")
    edge.port = free_port()  # the configuration says another
    with pytest.raises(AssertionError, match=f"systemd listens for us on port {edge.port}, which is no port of"):
        edge.start()
