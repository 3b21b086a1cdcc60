"""Who acts comes from the kernel: no environment and no request can name somebody else."""

from __future__ import annotations

import json
import os
import pwd
import socket
from pathlib import Path
from typing import Any

import pytest

from edge.cli.session import login
from edge.daemon import control, person
from edge.daemon.control import Control
from edge.network.sockets import socket_address

WORDS = ("SUDO_USER", "USER", "LOGNAME", "USERNAME", "SUDO_UID", "LNAME")


def kernels_word() -> str:
    """Who runs the tests, by the kernel."""
    found = int(Path("/proc/self/loginuid").read_text()) if Path("/proc/self/loginuid").exists() else person.UNSET
    return pwd.getpwuid(os.getuid() if found == person.UNSET else found).pw_name


@pytest.fixture
def _forged(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in WORDS:
        monkeypatch.setenv(name, "somebody-else")


@pytest.mark.usefixtures("_forged")
def test_the_environment_names_nobody() -> None:
    assert login() == kernels_word()


@pytest.mark.usefixtures("_forged")
def test_a_request_names_nobody_either(tmp_path: Path) -> None:
    seen: list[dict[str, Any]] = []
    served = Control(tmp_path, {"act": lambda told: seen.append(told) or {}})
    served.start()
    try:
        control.call(tmp_path, "act", who="somebody-else")
        with socket.socket(socket.AF_UNIX) as sock, socket_address(tmp_path, control.NAME) as address:
            sock.connect(address)
            sock.sendall(json.dumps({"command": "act"}).encode() + b"\n")
            assert json.loads(sock.makefile().readline())["ok"]
    finally:
        served.stop()
    assert [each["who"] for each in seen] == [kernels_word()] * 2


@pytest.mark.parametrize(
    ("told", "uid"),
    [("1007\n", 1007), ("4294967295", 5), ("", 5), ("rubbish", 5), (None, 5)],
)
def test_who_signed_in_counts_before_the_account(tmp_path: Path, told: str | None, uid: int) -> None:
    (tmp_path / "77").mkdir()
    if told is not None:
        (tmp_path / "77" / "loginuid").write_text(told)
    assert person.acting_uid("77", 5, tmp_path) == uid


def test_a_user_without_a_name_is_a_number() -> None:
    assert person.user_name(3_999_999_999) == "uid 3999999999"
