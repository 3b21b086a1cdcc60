"""The documents for those who must answer for it: links, commands and tests in them exist."""

from __future__ import annotations

import csv
import io
import json
import re
import runpy
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from edge.central.config import Central
from edge.cli import cli
from edge.config.sections import ConsoleSection, Listen, Tls
from edge.model import Disk
from edge.monitor import health
from edge.monitor.live import Live
from edge.store import drills
from tests.support.filled import Filled
from tests.support.peers import REPOSITORY, requires

DOCS = REPOSITORY / "docs"
SOURCES = "".join(path.read_text("utf-8") for path in (REPOSITORY / "tests").rglob("test_*.py"))
DOCUMENTS = ("directive.md", "standards.md", "intended-use.md", "ports.md", "clinical-areas.md")
YEAR = 365 * 86400.0


def rows(name: str) -> list[list[str]]:
    """The rows of a document's tables, without their headings."""
    lines = (DOCS / name).read_text("utf-8").splitlines()
    tables = [line for line in lines if line.startswith("| ")]
    headings = {lines[n - 1] for n, line in enumerate(lines) if line.startswith("|---")}
    return [line.strip("| ").split(" | ") for line in tables if line not in headings]


def anchors(path: Path) -> set[str]:
    """The anchors of a Markdown document, as GitHub makes them."""
    found = re.findall(r"^#+ (.+)$", path.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^a-z0-9 -]", "", each.lower()).replace(" ", "-") for each in found}


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_link_leads_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", (DOCS / name).read_text("utf-8")):
        file, _, anchor = target.partition("#")
        path = (DOCS / file).resolve() if file else DOCS / name
        assert path.exists(), target
        assert not anchor or anchor in anchors(path), target


ALL = sorted([*REPOSITORY.glob("*.md"), *DOCS.rglob("*.md")])


@pytest.mark.parametrize("path", ALL, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_what_a_document_names_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    assert [each for each in re.findall(r"`(test_\w+)`", text) if f"def {each}(" not in SOURCES] == []
    files = re.findall(r"`((?:edge|tests|packaging|docs|systemd)/[\w./-]+)`", text)
    assert [each for each in files if not (REPOSITORY / each).exists()] == []
    modules = [each.split(".") for each in re.findall(r"`(edge(?:\.[a-z]\w*)+)`", text) if each != "edge.socket"]
    assert [each for each in modules if not any(_is_module(each[:n]) for n in (len(each), len(each) - 1))] == []


def _is_module(parts: Sequence[str]) -> bool:
    path = REPOSITORY.joinpath(*parts)
    return len(parts) > 1 and (path.is_dir() or path.with_suffix(".py").exists())


def test_every_command_of_the_directive_exists_and_each_sentence_has_its_test() -> None:
    found = rows("directive.md")
    assert len(found) >= 15
    for _sentence, where, command, test in found:
        assert "](" in where
        assert test.startswith("`test_")
        group: click.Command | None = cli
        words = command.strip("`").split()
        assert words[0] == "edge"
        for word in words[1:]:
            if isinstance(group, click.Group):
                group = group.get_command(click.Context(group), word)
            elif word.startswith("--"):
                assert group is not None
                assert any(word in option.opts for option in group.params), command
            assert group is not None, command


def test_standards_name_tests_that_exist() -> None:
    found = rows("standards.md")
    assert {row[1] for row in found} <= {"used", "carried", "not ours", "see the changelog"}
    assert all(len(row) == 3 and row[2] for row in found)
    assert all(
        "`test_" in row[2]
        for row in found
        if row[1] == "used" and "as transactions" not in row[2] and "every moment" not in row[2]
    )


def test_each_hazard_has_a_control_and_a_test() -> None:
    found = rows("intended-use.md")
    assert len(found) >= 10
    assert all(len(row) == 4 and row[2] and "`test_" in row[3] for row in found)


def test_the_ports_table_is_that_of_the_manual() -> None:
    ports = {row[3].strip("`"): row[1] for row in rows("ports.md")} | {
        row[4].strip("`"): row[1] for row in rows("ports.md")
    }
    defaults = {
        "listen.port": Listen().port,
        "tls.port": Tls().port,
        "console.port": ConsoleSection().port,
        "central.port": Central().port,
    }
    assert {key: ports[key] for key in defaults} == {key: f"{port}/tcp" for key, port in defaults.items()}
    assert (ports["hl7.port"], ports["dicomweb.port"]) == ("2575/tcp", "8043/tcp")


def test_the_controls_as_csv_are_those_of_the_document() -> None:
    script = runpy.run_path(str(REPOSITORY / "packaging" / "controls"))
    text = (DOCS / "controls.csv").read_text("utf-8")
    assert text == script["text"](), "type packaging/controls"
    found = list(csv.DictReader(io.StringIO(text)))
    assert {row["source"] for row in found} >= {"NIST SP 800-53", "ASD STIG"}
    for row in found:
        assert row["tests"] or row["state"] == "not", row
        assert all(f"def {test}(" in SOURCES for test in row["tests"].split())


def test_the_selinux_module_compiles(tmp_path: Path) -> None:
    requires("checkmodule")
    requires("semodule_package")
    folder = REPOSITORY / "packaging" / "selinux"
    subprocess.run(["sh", str(folder / "build"), str(tmp_path)], check=True, capture_output=True)
    assert (tmp_path / "edge.pp").stat().st_size > 1000
    named = set(re.findall(r"object_r:(edge_\w+):", (folder / "edge.fc").read_text("utf-8")))
    assert all(f"type {each};" in (folder / "edge.te").read_text("utf-8") for each in named)


def test_the_bill_of_materials_names_the_libraries_inside_wheels(tmp_path: Path) -> None:
    wheel = tmp_path / "codec.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        made.writestr("codec.libs/libopenjp2-0a1b2c3d.so.2.5.0", b"\x7fELF one")
        made.writestr("codec/_codec.cpython-311-x86_64-linux-gnu.so", b"\x7fELF two")
        made.writestr("_openjpeg.cpython-311-x86_64-linux-gnu.so", b"\x7fELF 2.5.3 ")
        made.writestr("codec-1.0.dist-info/METADATA", "Name: codec\nVersion: 1.0\n")
        listed = "".join(f"{each},,\n" for each in made.namelist())
        made.writestr("codec-1.0.dist-info/RECORD", listed)
    folder = tmp_path / "lib"
    with zipfile.ZipFile(wheel) as found:
        found.extractall(folder)
    bill = {"bomFormat": "CycloneDX", "components": [{"name": "codec", "version": "1.0"}]}
    command = [sys.executable, str(REPOSITORY / "packaging" / "sbom-libraries"), str(folder)]
    done = subprocess.run(command, input=json.dumps(bill), capture_output=True, text=True, check=True)
    (wheel_part,) = json.loads(done.stdout)["components"]
    inside = {each["name"]: each.get("version") for each in wheel_part["components"]}
    assert inside == {"libopenjp2": "2.5.0", "OpenJPEG": "2.5.3"}
    assert all(len(each["hashes"][0]["content"]) == 64 for each in wheel_part["components"])


def test_a_restore_drill_is_asked_for_once_a_year(tmp_path: Path) -> None:
    with Filled(tmp_path) as site:
        now = time.time()

        def asked(at: float) -> bool:
            with site.db.reading() as conn:
                seen = health.snapshot(conn, site.config, Disk(10**9, 5 * 10**8), Live("running"), at)
            return any(each.kind == "restore-untried" for each in seen.alerts)

        assert not asked(now + 2 * YEAR)  # nothing has come yet
        site.receive(1)
        assert not asked(now + YEAR - 3600)
        assert asked(now + YEAR + 3600)
        site.db.write(lambda conn: drills.note_drill(conn, now + YEAR, "anna", "12 images in 3 s"))
        assert not asked(now + 2 * YEAR - 3600)
        assert asked(now + 2 * YEAR + 3600)
