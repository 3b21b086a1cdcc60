"""What we install: pinned by hash, and looked up among known vulnerabilities (packaging/audit)."""

from __future__ import annotations

import json
import re
import runpy
from typing import Any

import pytest

from tests.peers import REPOSITORY

AUDIT = runpy.run_path(str(REPOSITORY / "packaging" / "audit"))

GOOD = {"name": "good", "version": "1.0", "vulns": []}
BAD = {"name": "bad", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
HOPELESS = {"name": "bad", "version": "2.0", "vulns": [{"id": "CVE-2", "fix_versions": []}]}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found on PyPI"}


@pytest.mark.parametrize(
    ("answer", "exit_code", "words"),
    [
        ([GOOD], 0, ""),
        ([GOOD, BAD], 1, "VULNERABLE: bad 2.0: CVE-1, mended in 2.1"),
        ([HOPELESS], 1, "VULNERABLE: bad 2.0: CVE-2, mended in no version yet"),
        ([GOOD, UNKNOWN], 0, "NOT AUDITED: 1 packages"),
        ([UNKNOWN, BAD], 1, "VULNERABLE: bad 2.0"),
        (None, 0, "NOT AUDITED: the database cannot be asked: no route to host"),
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


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_everything_is_pinned_by_hash(name: str) -> None:
    text = (REPOSITORY / name).read_text()
    pins = re.findall(r"^([a-z0-9][\w.\[\]-]*)==[^\\\n]*\\\n    --hash=sha256:[0-9a-f]{64}", text, re.MULTILINE)
    lines = [line for line in text.splitlines() if line and line[0] not in " #"]
    assert len(pins) == len(lines) > 20
