"""Copies for one answer: the next ones are made while one is sent, and none outlives the answer."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from edge.scp.dicomweb.converted import ConvertedCopies
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.gateway_link import MadeCopy


class Link:
    """The daemon, which makes every copy at once but one of "bad"."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.dropped: list[int] = []

    def start_copy(self, path: str, syntax: str, destination: str = "") -> int:
        self.started.append(path)
        return len(self.started) - 1

    def find_copy(self, token: int) -> MadeCopy:
        path = self.started[token]
        return MadeCopy() if path == "bad" else MadeCopy(f"/copies/{path}", 10, 30)

    def drop_copy(self, token: int) -> None:
        self.dropped.append(token)


def test_the_next_copies_are_made_while_one_is_sent() -> None:
    link, names = Link(), list("abcdef")
    copies = ConvertedCopies(link).open_in_order([(SimpleNamespace(path=each), "1.2") for each in names])  # type: ignore[arg-type]
    for number, name in enumerate(names):
        part = next(copies)
        assert (part.path.name, part.offset, part.count) == (name, 10, 20)
        assert link.started == names[: number + 3]
        assert link.dropped == [*range(number)]
    assert next(copies, None) is None
    assert link.dropped == [*range(6)]


def test_of_an_answer_that_ends_early_no_copy_is_left() -> None:
    for names, error in (("abcdef", None), (["a", "bad", "c", "d"], HttpError)):
        link = Link()
        copies = ConvertedCopies(link).open_in_order([(SimpleNamespace(path=each), "1.2") for each in names])  # type: ignore[arg-type]
        next(copies)
        if error is not None:
            with pytest.raises(error):
                next(copies)
        copies.close()
        assert sorted(link.dropped) == [*range(len(link.started))]
