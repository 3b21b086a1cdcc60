"""What we install: pinned by hash, and looked up among known vulnerabilities (packaging/audit)."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from typing import Any

import pytest

from tests.support.peers import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

AUDIT = runpy.run_path(str(REPOSITORY / "packaging" / "audit"))

GOOD = {"name": "good", "version": "1.0", "vulns": []}
BAD = {"name": "bad", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
HOPELESS = {"name": "bad", "version": "2.0", "vulns": [{"id": "CVE-2", "fix_versions": []}]}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("answer", "exit_code", "words"),
    [
        ([GOOD], 0, ""),
        ([GOOD, BAD], 1, "VULNERABLE: bad 2.0: CVE-1, fixed in 2.1"),
        ([HOPELESS], 1, "VULNERABLE: bad 2.0: CVE-2, fixed in no version yet"),
        ([GOOD, UNKNOWN], 0, "NOT AUDITED: 1 packages"),
        ([UNKNOWN, BAD], 1, "VULNERABLE: bad 2.0"),
        (None, 0, "NOT AUDITED: the database cannot be reached: no route to host"),
    ],
)
def test_a_known_vulnerability_fails_and_silence_is_loud(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: list[dict[str, Any]] | None,
    exit_code: int,
    words: str,
) -> None:
    class Done:
        stdout = "" if answer is None else json.dumps({"dependencies": answer, "fixes": []})
        stderr = "Traceback\nno route to host"

    monkeypatch.setattr("subprocess.run", lambda *_, **__: Done)
    assert AUDIT["main"]() == exit_code
    said = capsys.readouterr().err
    assert words in said
    assert bool(said) == bool(words)


@pytest.mark.parametrize(
    ("name", "least"), [("requirements.lock", 20), ("requirements-central.lock", 2), ("requirements-dev.lock", 20)]
)
def test_everything_is_pinned_by_hash(name: str, least: int) -> None:
    text = (REPOSITORY / name).read_text()
    pins = re.findall(r"^([a-z0-9][\w.\[\]-]*)==[^\\\n]*\\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    lines = [line for line in text.splitlines() if line and line[0] not in " #"]
    assert len(pins) == len(lines) > least


def pinned(name: str) -> set[str]:
    """What a lock file pins: names with their versions."""
    return set(re.findall(r"^([\w.-]+==[\w.]+)", (REPOSITORY / name).read_text(), re.MULTILINE))


def test_what_is_tested_is_what_is_packaged() -> None:
    shipped = pinned("requirements.lock") | pinned("requirements-central.lock")
    assert shipped <= pinned("requirements-dev.lock")
    assert {each.split("==")[0] for each in pinned("requirements-central.lock")} >= {
        "sqlalchemy",
        "aiosqlite",
        "greenlet",
    }
    assert not [each for each in pinned("requirements.lock") if each.startswith("sqlalchemy")]


def test_the_gateway_needs_few_libraries() -> None:
    """At most 20 direct dependencies, and none of the central office's."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    names = [re.split(r"[<>=;\[ ]", each)[0] for each in project["dependencies"]]
    assert len(names) <= 20
    assert "sqlalchemy" not in names


def test_without_its_library_the_central_office_says_what_to_install() -> None:
    script = "import sys; sys.modules['sqlalchemy'] = None; from edge.cli import main; main()"
    for arguments, code in ((["--help"], 0), (["central", "sites", "--json"], 2), (["central", "--help"], 2)):
        command = [sys.executable, "-c", script, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert ("Install the package edge-central" in done.stderr) == (code == 2)
