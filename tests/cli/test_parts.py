"""The parts of a long list, by `--limit` and `--skip`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.cli import cli
from edge.cli.parts import ListedPart, cut_part, describe_part, rows_for
from edge.store.listing import ListPart
from tests.support.filled import Filled


@pytest.mark.parametrize(
    ("skip", "shown", "total", "said"),
    [
        (0, 7, 7, ""),
        (0, 0, 0, ""),
        (0, 50, 1234, "1 to 50 of 1,234 are listed; --skip 50 lists the next ones."),
        (0, 50, None, "1 to 50 are listed; --skip 50 lists the next ones."),
        (50, 9, 59, "51 to 59 of 59 are listed."),
        (99, 0, None, "--skip 99 leaves out all of them."),
        (99, 0, 59, "There are 59; --skip 99 leaves out all of them."),
    ],
)
def test_what_is_said_of_a_part(skip: int, shown: int, total: int | None, said: str) -> None:
    assert describe_part(ListPart(50, skip), shown, total) == said


@pytest.mark.parametrize(
    ("skip", "there", "rows", "total"),
    [(0, 2, [0, 1], 2), (0, 3, [0, 1], None), (1, 3, [1, 2], 3), (1, 4, [1, 2], None), (5, 3, [], 3)],
)
def test_a_part_is_cut_out_of_what_was_read(skip: int, there: int, rows: list[int], total: int | None) -> None:
    part = ListPart(2, skip)
    assert cut_part(list(range(there))[: rows_for(part)], part) == ListedPart(part, rows, total)


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    with Filled(tmp_path_factory.mktemp("empty")) as made:
        yield made


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("queue list", "No delivery waits."),
        ("queue list --state held", "No such delivery."),
        ("studies list", "Nothing has been received yet."),
        ("studies list --search SMITH", "No such study."),
        ("studies holds", "No study is under a legal hold."),
        ("import list", "Nothing has been imported yet."),
        ("maintenance list", "No work is planned."),
        ("config history", "No state is kept yet."),
        ("console accounts list", "There is no account; see `edge console setup`."),
        ("orders missing", "There is none."),
        ("hl7 list", "No HL7 message has come."),
        ("hl7 list --relay", "Nothing waits for a relay."),
        ("commitments list", "No modality waits for a report on storage commitment."),
    ],
)
def test_a_list_without_rows_says_so(empty: Filled, command: str, said: str) -> None:
    args = ["--config", str(empty.directory), *command.split()]
    lines = CliRunner().invoke(cli, args).stdout.splitlines()
    assert lines == [said]
    assert json.loads(CliRunner().invoke(cli, [*args, "--json"]).stdout) == []


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("queue list", "2 to 2 of 2 are listed."),  # by study
        ("queue list --patient PID", "2 to 2 are listed; --skip 2 lists the next ones."),
        ("instances list --state unroutable", "2 to 2 are listed; --skip 2 lists the next ones."),
    ],
)
def test_a_command_says_that_there_are_more(tmp_path: Path, command: str, said: str) -> None:
    with Filled(tmp_path) as filled:
        filled.receive(3, Modality="CT", PatientID="PID")
        filled.receive(3, Modality="OT", PatientID="PID")
        args = ["--config", str(filled.directory), *command.split(), "--limit=1", "--skip=1"]
        done = CliRunner().invoke(cli, args)
        assert said in done.stdout
        told = CliRunner().invoke(cli, [*args, "--json"])
        assert "are listed" not in told.stdout  # JSON stays JSON
        assert "2 to 2 are listed" in told.stderr
