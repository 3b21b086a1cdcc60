"""README and manual are run: their commands, their configuration; every command has help and is in docs/commands.md."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from edge.cli import cli
from edge.config import load_config
from edge.config.alarms import ALERT_KINDS
from edge.text import span
from tests.support.peers import ENVIRONMENT, REPOSITORY, free_port

README = (REPOSITORY / "README.md").read_text("utf-8")
COMMANDS = (REPOSITORY / "docs" / "commands.md").read_text("utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def _with_ports(text: str, ports: dict[str, str]) -> str:
    return re.sub("|".join(ports), lambda found: ports[found[0]], text)


@pytest.mark.parametrize("block", blocks("toml"))
def test_every_toml_block_is_a_whole_configuration(tmp_path: Path, block: str) -> None:
    (tmp_path / "site.toml").write_text(block)
    assert load_config(tmp_path).routes


def test_the_commands_do_what_they_say(tmp_path: Path) -> None:
    """On free ports: those of the README may be taken here."""
    ports = {written: str(free_port()) for written in ("11112", "11113")}
    (tmp_path / "first").mkdir()
    doors = f"\n[listen]\nport = {ports['11112']}\n[console]\nport = {free_port()}\n"
    (tmp_path / "first" / "site.toml").write_text(_with_ports(blocks("toml")[0], ports) + doors)
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, words in {"edge": f"{sys.executable} -m edge", "python": sys.executable}.items():
        (programs / name).write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        (programs / name).chmod(0o755)
    lines = [line[2:] for block in blocks("console") for line in block.splitlines() if line.startswith("$ ")]
    script = [
        "set -e",
        f"door=/dev/tcp/127.0.0.1/{ports['11112']}",
        "wait_ready() { for i in $(seq 600); do (: > $door) && return; sleep 0.1; done; }",
    ]
    for line in lines:
        script.append(_with_ports(line, ports))
        if line.endswith("&"):
            script += ["daemon=$!", 'trap "kill $daemon; wait $daemon" EXIT', "wait_ready >/dev/null 2>&1"]
    done = subprocess.run(
        ["bash", "-c", "\n".join(script)],
        cwd=tmp_path,
        env={**ENVIRONMENT, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGTERM), done.stdout + done.stderr
    assert f"nothing listens on {ports['11113']} yet" in done.stdout
    assert re.search(r'site\.toml:\d+: modality\.ct1\.ae_titel: unknown key; did you mean "ae_title"\?', done.stderr)


def commands(group: click.Command, path: str = "edge") -> list[tuple[str, click.Command]]:
    if not isinstance(group, click.Group):
        return [(path, group)]
    context = click.Context(group)
    named = [(name, group.get_command(context, name)) for name in group.list_commands(context)]
    return [found for name, each in named if each is not None for found in commands(each, f"{path} {name}")]


def test_every_command_stands_in_the_list() -> None:
    assert [path for path, _ in commands(cli) if path not in COMMANDS and path != "edge version"] == []


def test_security_names_tests_that_exist_for_every_threat_but_theft() -> None:
    text = (REPOSITORY / "SECURITY.md").read_text("utf-8")
    sources = "".join(path.read_text("utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py"))
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) > 40
    assert [name for name in named if f"def {name}(" not in sources] == []
    threats = text.partition("## Threats and answers")[2].partition("\n## ")[0].splitlines()
    rows = [line for line in threats if line.startswith("| ") and not line.startswith("| who")]
    assert len(rows) > 15
    assert [line for line in rows if "`test_" not in line and "carried away" not in line] == []


def test_security_says_of_each_control_how_far_it_is_met_and_by_which_test() -> None:
    text = (REPOSITORY / "SECURITY.md").read_text("utf-8")
    table = text.partition("## Controls, one by one")[2].partition("\n## ")[0].splitlines()
    rows = [
        line.strip("| ").split(" | ") for line in table if line.startswith("| ") and not line.startswith("| control")
    ]
    assert len(rows) > 40
    for row in rows:
        assert len(row) == 4, row
        assert row[2] in ("met", "partly", "not"), row
        assert ("`test_" in row[3]) == (row[2] != "not"), row
    controls = ", ".join(row[0] for row in rows)
    for asked in ("APSC-DV-000010", "000070", "000530", "000550", "000580", "001680", "001860", "B.12", "164.312(b)"):
        assert asked in controls


def alert_table() -> list[str]:
    """The manual's table of alerts, as edge.config.alarms has them."""
    rows = [
        "| alert | severity | what | notify after | clears after | threshold | directive |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, alarm in ALERT_KINDS.items():
        after, clear = (span(seconds) if seconds else "at once" for seconds in (alarm.after, alarm.clear))
        if alarm.event:
            clear = "one-time notice"
        limit = f"{alarm.limit} {span(alarm.threshold)}" if alarm.limit else ""
        cells = (f"`{kind}`", alarm.severity, alarm.meaning, after, clear, limit, alarm.directive)
        rows.append(f"| {' | '.join(cells)} |".replace("|  |", "| |").replace("|  |", "| |"))
    return rows


def test_the_manual_has_every_alert_as_it_is() -> None:
    manual = (REPOSITORY / "docs" / "manual.md").read_text("utf-8").splitlines()
    missing = [row for row in alert_table() if row not in manual]
    assert not missing, "\n".join(missing)


def every_help(group: click.Command, path: str = "edge") -> list[tuple[str, str]]:
    """The help of a command and of all below it, as a terminal of 80 columns shows it."""
    context = click.Context(group, info_name=path, terminal_width=80, max_content_width=80)
    found = [(path, group.get_help(context))]
    if isinstance(group, click.Group):
        for name in group.list_commands(context):
            if (command := group.get_command(context, name)) is not None:
                found += every_help(command, f"{path} {name}")
    return found


def test_help_fits_80_columns_and_no_summary_is_cut_off() -> None:
    helps = every_help(cli)
    assert len(helps) > 100
    assert [f"{path}: {line}" for path, text in helps for line in text.splitlines() if len(line) > 80] == []
    cut = [
        f"{path}: {line}" for path, text in helps for line in text.splitlines() if re.match(r"  \S+  .*\.\.\.$", line)
    ]
    assert cut == []


def test_several_examples_are_called_so() -> None:
    shown = [(path, text.partition("  Example:")[2].partition("\n\n")[0]) for path, text in every_help(cli)]
    assert [path for path, examples in shown if re.search(r"\n {12,}edge ", examples)] == []
