"""The daemon's control socket, over a real socket, with callers that misbehave."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.daemon import control
from edge.daemon.control import CommandRefused, Control, DaemonDown, call
from edge.errors import EdgeError
from edge.network.sockets import socket_address


def add(told: dict[str, Any]) -> dict[str, Any]:
    return {"sum": sum(told["ids"])}


def refuse(_: dict[str, Any]) -> dict[str, Any]:
    raise EdgeError("not today: come back tomorrow")


def fail(_: dict[str, Any]) -> dict[str, Any]:
    raise ZeroDivisionError("PHI that nobody shall see")


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def served(data_dir: Path) -> Iterator[Control]:
    server = Control(data_dir, {"ping": lambda _: {}, "add": add, "refuse": refuse, "fail": fail})
    server.start()
    yield server
    server.stop()


def raw(data_dir: Path, sent: bytes) -> bytes:
    """What the daemon answers to these bytes, to its end."""
    with socket.socket(socket.AF_UNIX) as sock, socket_address(data_dir, control.NAME) as address:
        sock.settimeout(60)
        sock.connect(address)
        sock.sendall(sent)
        sock.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: sock.recv(65_536), b""))


def test_a_command_gets_its_answer(served: Control, data_dir: Path) -> None:
    assert call(data_dir, "ping") == {"ok": True}
    assert call(data_dir, "add", ids=[1, 2, 3])["sum"] == 6


def test_a_refusal_comes_with_its_reason(served: Control, data_dir: Path) -> None:
    with pytest.raises(CommandRefused, match="not today"):
        call(data_dir, "refuse")


def test_a_bug_is_told_without_its_words_and_the_daemon_lives_on(served: Control, data_dir: Path) -> None:
    with pytest.raises(CommandRefused) as failure:
        call(data_dir, "fail")
    assert "ZeroDivisionError" in str(failure.value)
    assert "PHI" not in str(failure.value)
    assert call(data_dir, "ping")["ok"]


def test_an_unknown_command_names_the_remedy(served: Control, data_dir: Path) -> None:
    with pytest.raises(CommandRefused, match="same version"):
        call(data_dir, "dance")


@pytest.mark.parametrize(
    "sent", [b"", b"\n", b"nonsense\n", b"[]\n", b'"ping"\n', b"{}\n", b'{"command": []}\n', b"\xff\n"]
)
def test_nonsense_is_refused(served: Control, data_dir: Path, sent: bytes) -> None:
    assert json.loads(raw(data_dir, sent))["ok"] is False
    assert call(data_dir, "ping")["ok"]


def test_an_endless_line_is_cut_off(served: Control, data_dir: Path) -> None:
    try:
        answer = raw(data_dir, b"x" * (8 * control.MAX_REQUEST))
    except (ConnectionResetError, BrokenPipeError):
        answer = b""
    assert answer == b""
    assert call(data_dir, "ping")["ok"]


def test_a_request_too_long_is_not_sent(served: Control, data_dir: Path) -> None:
    with pytest.raises(EdgeError, match="longer than"):
        call(data_dir, "add", ids=list(range(20_000)))


def test_silent_callers_cost_their_time_only(served: Control, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "CALLER_SECONDS", 0.3)
    silent = [socket.socket(socket.AF_UNIX) for _ in range(control.WORKERS)]
    try:
        with socket_address(data_dir, control.NAME) as address:
            for sock in silent:
                sock.connect(address)
        assert call(data_dir, "ping")["ok"]
    finally:
        for sock in silent:
            sock.close()


def test_nobody_listens(data_dir: Path) -> None:
    with pytest.raises(DaemonDown, match="does not run"):
        call(data_dir, "ping")
    with pytest.raises(DaemonDown):
        call(data_dir / "absent", "ping")


def test_a_stopped_daemon_is_down_and_leaves_nothing(data_dir: Path) -> None:
    server = Control(data_dir, {"ping": lambda _: {}})
    server.start()
    server.stop()
    assert not (data_dir / control.NAME).exists()
    with pytest.raises(DaemonDown):
        call(data_dir, "ping")


def test_a_killed_daemon_leaves_a_socket_that_is_replaced(data_dir: Path) -> None:
    left = socket.socket(socket.AF_UNIX)
    with socket_address(data_dir, control.NAME) as address:
        left.bind(address)
    left.close()
    with pytest.raises(DaemonDown):
        call(data_dir, "ping")
    server = Control(data_dir, {"ping": lambda _: {}})
    server.start()
    assert call(data_dir, "ping")["ok"]
    server.stop()


def test_two_daemons_on_one_directory(served: Control, data_dir: Path) -> None:
    with pytest.raises(EdgeError, match="another gateway"):
        Control(data_dir, {}).start()
    assert call(data_dir, "ping")["ok"]


def test_only_the_owner_may_come_in(served: Control, data_dir: Path) -> None:
    mode = os.stat(data_dir / control.NAME).st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_the_path_may_be_longer_than_a_socket_address(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120) / ("e" * 120)
    deep.mkdir(parents=True)
    server = Control(deep, {"ping": lambda _: {}})
    server.start()
    assert call(deep, "ping")["ok"]
    server.stop()


def test_a_daemon_that_hangs_is_told_apart_from_one_that_is_down(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "ANSWER_SECONDS", 0.2)
    done = threading.Event()
    server = Control(data_dir, {"hang": lambda _: {"late": done.wait(10)}})
    server.start()
    with pytest.raises(EdgeError, match="does not answer") as failure:
        call(data_dir, "hang")
    assert not isinstance(failure.value, DaemonDown)
    done.set()
    server.stop()


def test_what_is_being_answered_ends_before_stop_returns(data_dir: Path) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(_: dict[str, Any]) -> dict[str, Any]:
        entered.set()
        leave.wait(10)
        return {"done": True}

    server = Control(data_dir, {"slow": slow})
    server.start()
    answers: list[dict[str, Any]] = []
    caller = threading.Thread(target=lambda: answers.append(call(data_dir, "slow")))
    caller.start()
    assert entered.wait(60)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    leave.set()
    stopper.join(60)
    caller.join(60)
    assert answers == [{"ok": True, "done": True}]
