"""What is read again with the configuration makes another station: masks and keys, not another destination's table."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.config import load_config
from edge.daemon.outbound import _made_of, _read_projects

TEXT = """
[site]
id = "0067"
name = "Test Clinic"
data_dir = "../data"
[destination.archive]
ae_title = "ARCHIVE"
host = "127.0.0.1"
port = 104
[destination.teaching]
ae_title = "TEACH"
host = "127.0.0.1"
port = 105
deidentify = "basic"
project = "T17"
project_key = "../t17.key"
[mask.echo]
when = { Modality = "US" }
areas = [[0, 0, 100, 10]]
[route.all]
to = ["archive", "teaching"]
"""
ANOTHER = '\n[destination.other]\nae_title = "OTHER"\nhost = "127.0.0.1"\nport = 106\n'


def made_of(
    directory: Path, text: str, mode: int = 0o600, key: str = "q8Z2mVw0sX7tB4nL1cR9yK3hJ6gF5dA0"
) -> list[object]:
    """What the stations of both destinations are made of."""
    (directory / "conf.d").mkdir(exist_ok=True)
    (directory / "conf.d" / "site.toml").write_text(text)
    (directory / "t17.key").write_text(key)
    (directory / "t17.key").chmod(mode)
    config = load_config(directory / "conf.d")
    projects = _read_projects(config)
    return [_made_of(config, config.destinations[name], projects) for name in ("archive", "teaching")]


@pytest.mark.parametrize(
    ("text", "mode", "key", "changes"),
    [
        (TEXT, 0o600, "", [False, False]),
        (TEXT + ANOTHER, 0o600, "", [False, False]),
        (TEXT.replace("100, 10]", "100, 20]"), 0o600, "", [False, True]),
        (
            TEXT,
            0o644,
            "",
            [True, True],
        ),  # others may read the key: nothing goes to teaching, nothing comes back from it
        (TEXT, 0o600, "another key, of 32 characters....", [True, True]),
    ],
    ids=["nothing", "another destination", "a mask", "who may read the key", "the key"],
)
def test_what_changes_makes_another_station(
    tmp_path: Path, text: str, mode: int, key: str, changes: list[bool]
) -> None:
    before = made_of(tmp_path, TEXT)
    after = made_of(tmp_path, text, mode, *filter(None, [key]))
    assert [one != other for one, other in zip(before, after, strict=True)] == changes
