"""Multipart bodies in pieces: wherever they are divided, the parts are the same (RFC 2046 section 5.1)."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from edge.network.multipart import (
    MAX_PART_HEADER_BYTES,
    MAX_PART_HEADERS,
    MAX_PREAMBLE,
    BadMultipart,
    PartReader,
    is_boundary,
)


@dataclass
class Parts:
    """What came of a body."""

    found: list[tuple[dict[str, str], bytes, bool]] = field(default_factory=list)  # headers, content, whole

    def begin(self, headers: dict[str, str]) -> None:
        self.found.append((headers, b"", False))

    def write(self, data: memoryview) -> None:
        headers, before, _ = self.found[-1]
        self.found[-1] = headers, before + bytes(data), False

    def end(self) -> None:
        headers, content, _ = self.found[-1]
        self.found[-1] = headers, content, True


def read(body: bytes, step: int = 1 << 20) -> tuple[list[tuple[dict[str, str], bytes, bool]], bool]:
    parts = Parts()
    reader = PartReader("b", parts)
    for at in range(0, len(body), step):
        reader.feed(body[at : at + step])
    return parts.found, reader.is_whole


BODY = (
    b"a preamble\r\n--bx\r\n\r\n"  # another boundary, of which ours is the beginning
    b"--b \t\r\nA: 1\r\nb:2 \r\n\r\none\r\n--b\r\n\r\n\r\n--bb\r\n-\r\n--\r\n--b-\r\n--b x\r\n\r\n--b\r\n"
    b"\r\nlast\r--b\r\n--b--\r\n--b\r\n\r\nepilogue\r\n--b--"
)
PARTS = [
    ({"a": "1", "b": "2"}, b"one", True),
    ({}, b"\r\n--bb\r\n-\r\n--\r\n--b-\r\n--b x\r\n", True),
    ({}, b"last\r--b", True),
]


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 11, 1000])
def test_parts_are_the_same_however_the_body_is_divided(step: int) -> None:
    assert read(BODY, step) == (PARTS, True)


def test_of_a_body_that_is_cut_no_part_is_whole_that_had_not_ended() -> None:
    for end in range(BODY.index(b"--b--") + 4):
        found, is_whole = read(BODY[:end])
        assert not is_whole
        whole = [each for each in found if each[2]]
        assert whole == PARTS[: len(whole)]


def test_a_part_that_is_longer_than_the_buffer() -> None:
    content = bytes(range(256)) * 4096 + b"\r\n--"
    assert read(b"--b\r\n\r\n" + content + b"\r\n--b--", 100_000) == ([({}, content, True)], True)


@pytest.mark.parametrize(
    "body",
    [
        b"x" * (MAX_PREAMBLE + 100),
        b"--b\r\n" + b"a: b\r\n" * (MAX_PART_HEADERS + 1) + b"\r\n",
        b"--b\r\na: " + b"x" * (MAX_PART_HEADER_BYTES + 1),
        b"--b\r\na: " + b"x" * (MAX_PART_HEADER_BYTES + 1) + b"\r\n\r\n",
        b"--b\r\nno header\r\n\r\n",
        b"--b\r\na: b\r\n folded\r\n\r\n",
        b"--b\r\n: b\r\n\r\n",
        b"--b" + b" " * 10_000,
    ],
)
def test_what_is_no_multipart_body(body: bytes) -> None:
    for step in (1000, 1 << 20):
        with pytest.raises(BadMultipart):
            read(body, step)


@pytest.mark.parametrize(
    ("text", "is_one"), [("b", True), ("a b", True), ("a ", False), ("", False), ("a" * 71, False)]
)
def test_a_boundary(text: str, is_one: bool) -> None:
    assert is_boundary(text) is is_one
