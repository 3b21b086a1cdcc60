"""What comes from a request, before anybody has signed in: it forges nothing, ends nothing, and fills nothing."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from edge.console.server import Console
from edge.network.shares import Budget
from edge.web.accounts import Account, UserRole
from edge.web.guard import Rules
from edge.web.throttle import FREE_FAILURES, MAX_REMEMBERED, Throttle
from tests.support.web_site import SECRET, Site, csrf

PROXY = Rules("edge-test", frozenset(), "X-Remote-User", ("127.0.0.1",), None)
FORGED = "ERROR edge: forged"


@pytest.fixture
def sites() -> Iterator[Callable[..., Site]]:
    made: list[Site] = []

    def make(rules: Rules | None = None) -> Site:
        made.append(Site(rules))
        return made[-1]

    yield make
    for site in made:
        site.close()


def raw(port: int, head: bytes, body: bytes = b"") -> bytes:
    """What a request in these very bytes is answered."""
    length = b"Content-Length: %d\r\n" % len(body) if body else b""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as sock:
        sock.sendall(head + length + b"Connection: close\r\n\r\n" + body)
        return b"".join(iter(lambda: sock.recv(65_536), b""))


def status(answer: bytes) -> int:
    return int(answer.split(b" ")[1])


HOSTILE = [
    (b"POST /x%0aERROR%20edge:%20forged HTTP/1.1\r\nHost: localhost\r\n", b"csrf=%C3%BC"),
    (b"POST /x HTTP/1.1\r\nHost: localhost\r\nOrigin: http://[\r\n", b"csrf=1"),
    (b"POST /x HTTP/1.1\r\nHost: localhost\r\nCookie: edge-test=" + b"\xfc" * 40 + b"\r\n", b"csrf=%ff%00"),
    (b"GET /n/" + b"9" * 5000 + b" HTTP/1.1\r\nHost: localhost\r\n", b""),
    (b"GET /n/99999999999999999999 HTTP/1.1\r\nHost: localhost\r\n", b""),
    (b"GET /setup?token=%ff%00%C3%BC HTTP/1.1\r\nHost: localhost\r\n", b""),
    (b"GET /sign-in?to=%0d%0aX:%20y HTTP/1.1\r\nHost: localhost\r\n", b""),
    (b'GET /sign-in HTTP/1.1\r\nHost: localhost\r\nCookie: \xfc="\x7f;;=\r\n', b""),
    (b"GET /sign-in HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: \xfc, [, ::ffff:x%\r\n", b""),
    (b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Remote-User: \xfc\r\n", b""),
]


@pytest.mark.parametrize(("head", "body"), HOSTILE)
def test_no_request_of_a_stranger_fails_here(
    sites: Callable[..., Site], caplog: pytest.LogCaptureFixture, head: bytes, body: bytes
) -> None:
    site = sites(PROXY)
    if body:
        head += b"Content-Type: application/x-www-form-urlencoded\r\n"
    assert status(raw(site.server.port, head, body)) < 500
    assert not caplog.records


def test_what_a_request_says_is_printable_in_the_log_and_its_lines_are_bounded(
    sites: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    site = sites()
    client = site.browser()
    for number in range(50):
        assert client.get(f"/breaks/%0a{FORGED}%1b[2J{number}").status_code == 500
    assert 0 < len(caplog.records) <= 20
    lines = caplog.text.splitlines()
    assert not [line for line in lines if line.startswith(FORGED)]
    assert "\x1b" not in caplog.text
    site.clock.now += 3600
    client.get("/breaks/again")
    assert "more like it" in caplog.text  # how many were left out is said


def test_budget_counts_what_it_leaves_out() -> None:
    budget = Budget(2, 60.0)
    assert [budget.take(0.0) for _ in range(4)] == [0, 0, None, None]
    assert budget.take(61.0) == 2
    assert budget.take(61.0) == 0
    assert budget.take(-5000.0) == 0  # a clock that was set back silences nobody


def test_two_names_from_a_proxy_are_none(sites: Callable[..., Site]) -> None:
    site = sites(PROXY)
    site.accounts.put(Account("operator", UserRole.OPERATOR, "", 0.0), "")
    one, two = b"X-Remote-User: operator\r\n", b"X-Remote-User: somebody\r\n"
    head = b"GET /operate HTTP/1.1\r\nHost: localhost\r\n"
    assert status(raw(site.server.port, head + one)) == 200
    for both in (one + two, two + one, one + one, one + b"x-remote-user: somebody\r\n"):
        assert status(raw(site.server.port, head + both)) == 400


def test_the_address_is_the_one_that_the_proxy_added(sites: Callable[..., Site]) -> None:
    site = sites(PROXY)
    site.accounts.put(Account("operator", UserRole.OPERATOR, "", 0.0), "")
    head = b"GET /operate HTTP/1.1\r\nHost: localhost\r\nX-Remote-User: operator\r\n"
    for header, expected in (
        (b"X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 10.0.0.7\r\n", "10.0.0.7"),
        (b"X-Forwarded-For: 6.6.6.6, 10.0.0.7\r\n", "10.0.0.7"),
        (b"X-Forwarded-For: 6.6.6.6, from 7.7.7.7\r\n", "127.0.0.1"),
        (b"X-Forwarded-For: 2001:db8::1\r\n", "2001:db8::1"),
    ):
        site.accounts.addresses.clear()
        assert status(raw(site.server.port, head + header)) == 200
        assert site.accounts.addresses == [expected]


def anything(rnd: random.Random) -> tuple[bytes, bytes]:
    """A request with some of the right words in wrong places."""

    def junk(most: int) -> bytes:
        return bytes(rnd.choice(b'abc=;,:/[]%"\\ \t\x80\xff\xc3\xbc0123.@?#&+\x7f') for _ in range(rnd.randrange(most)))

    def quoted(most: int) -> bytes:
        return b"".join(b"%%%02x" % rnd.randrange(256) for _ in range(rnd.randrange(most)))

    path = rnd.choice([b"/", b"/sign-in", b"/setup", b"/password", b"/n/5", b"/static/x", b"/nowhere"]) + quoted(5)
    path += rnd.choice([b"", b"?to=", b"?token="]) + quoted(6)
    names = [
        b"Origin",
        b"Cookie",
        b"X-Forwarded-For",
        b"X-Forwarded-Proto",
        b"X-Remote-User",
        b"HX-Request",
        b"Referer",
    ]
    head = b"%s %s HTTP/1.1\r\nHost: localhost\r\n" % (rnd.choice([b"GET", b"POST", b"HEAD"]), path)
    for name in rnd.sample(names, rnd.randrange(4)):
        head += name + b": " + junk(40).strip() + b"\r\n"
    if not head.startswith(b"POST"):
        return head, b""
    fields = [b"csrf", b"name", b"password", b"to", b"token", b"acknowledge", b"acknowledged"]
    body = b"&".join(rnd.choice(fields) + b"=" + quoted(9) for _ in range(1 + rnd.randrange(4)))
    return head + b"Content-Type: application/x-www-form-urlencoded\r\n", body


def test_whatever_a_stranger_sends_is_answered_and_not_logged(
    sites: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    site, rnd = sites(replace(PROXY, banner="A notice.")), random.Random(17)
    for _ in range(400):
        head, body = anything(rnd)
        assert status(raw(site.server.port, head, body)) < 500, head + body
    assert not caplog.records


@pytest.mark.parametrize("host", ["localhost/evil", "a@localhost", "localhost?x", "localhost#x", "localhost:x"])
def test_a_host_is_a_name_and_a_port_and_nothing_else(sites: Callable[..., Site], host: str) -> None:
    head = f"GET /sign-in HTTP/1.1\r\nHost: {host}\r\n".encode()
    assert status(raw(sites().server.port, head)) in (400, 421)


@pytest.mark.parametrize("path", ["/metrics", "/api/status"])
def test_what_machines_read_is_not_answered_by_a_name_that_is_not_ours(path: str) -> None:
    made = Console("127.0.0.1", 0, dict, str, lambda: (True, ""), names=frozenset({"edge.clinic.test"}))
    made.start()
    try:
        for host, expected in (
            ("evil.test", 421),
            ("127.0.0.1.evil.test:8042", 421),
            ("127.0.0.1", 200),
            ("edge.clinic.test:8042", 200),
        ):
            assert status(raw(made.port, f"GET {path} HTTP/1.1\r\nHost: {host}\r\n".encode())) == expected
        assert status(raw(made.port, b"GET /healthz HTTP/1.1\r\nHost: probe\r\n")) == 200
    finally:
        made.stop()


def test_a_broken_store_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    def broken() -> dict[str, object]:
        raise ValueError(SECRET)

    made = Console("127.0.0.1", 0, broken, str, lambda: (True, ""))
    made.start()
    try:
        for _ in range(50):
            assert status(raw(made.port, b"GET /api/status HTTP/1.1\r\nHost: localhost\r\n")) == 500
    finally:
        made.stop()
    assert 0 < len(caplog.records) <= 10
    assert "ValueError\n" in caplog.text  # by its place, in lines that begin with a space
    assert SECRET not in caplog.text


# -- guessing ----------------------------------------------------------------------------------------------------------


def throttled(throttle: Throttle, address: str, now: float) -> bool:
    return throttle.begin(address, now) > 0


def exhaust(throttle: Throttle, address: str, now: float) -> None:
    while not throttled(throttle, address, now):
        pass


def test_a_network_of_one_caller_is_one_caller() -> None:
    throttle = Throttle()
    for number in range(FREE_FAILURES):
        assert not throttled(throttle, f"2001:db8:0:7::{number:x}", 0.0)
    assert throttled(throttle, "2001:db8:0:7:ffff::1", 0.0)
    assert not throttled(throttle, "2001:db8:0:8::1", 0.0)
    exhaust(throttle, "10.0.0.1", 0.0)
    assert throttled(throttle, "::ffff:10.0.0.1", 0.0)  # the same caller, by the other family
    assert not throttled(throttle, "10.0.0.2", 0.0)


def test_a_crowd_frees_nobody_who_waits_and_the_table_is_bounded() -> None:
    throttle = Throttle()
    exhaust(throttle, "10.0.0.1", 0.0)
    for number in range(2 * MAX_REMEMBERED):
        throttle.begin(f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1", 0.0)
    assert throttled(throttle, "10.0.0.1", 0.0)
    assert len(throttle._few) + len(throttle._many) <= 2 * MAX_REMEMBERED


def test_a_right_password_takes_back_its_own_try_alone() -> None:
    throttle = Throttle()
    for _ in range(FREE_FAILURES - 1):
        assert not throttled(throttle, "10.0.0.1", 0.0)
    for _ in range(20):
        if throttled(throttle, "10.0.0.1", 0.0):
            break
        throttle.forget_latest("10.0.0.1")  # with an account of one's own between the guesses
        if throttled(throttle, "10.0.0.1", 0.0):
            break
    assert throttled(throttle, "10.0.0.1", 0.0)


def test_a_quarter_of_an_hour_without_a_failure_is_forgotten() -> None:
    throttle = Throttle()
    exhaust(throttle, "10.0.0.1", 0.0)
    assert not throttled(throttle, "10.0.0.1", 1000.0)
    assert len(throttle._few) + len(throttle._many) == 1
    exhaust(throttle, "10.0.0.1", 1e9)  # a clock that was ahead
    assert not throttled(throttle, "10.0.0.1", 1000.0)


def test_a_form_with_any_token_is_refused_not_broken(sites: Callable[..., Site]) -> None:
    client = sites().browser()
    csrf(client)
    for token in ("ü", "\x00", "\ud800".encode("utf-8", "surrogatepass").decode("latin-1"), "0" * 64):
        assert client.post("/sign-in", data={"csrf": token}).status_code == 403
