"""The central office's configuration: its documentation is a whole one, and each mistake is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from edge.central import config
from edge.central.config import SECTIONS
from edge.config.sections import keys
from edge.errors import ConfigError
from tests.central_office import some_sites, write_config
from tests.peers import REPOSITORY

DOCUMENTATION = (REPOSITORY / "docs" / "central.md").read_text("utf-8")


def written() -> str:
    found = re.search(r"```toml\n(.*?)```", DOCUMENTATION, re.DOTALL)
    assert found
    return found[1]


def test_the_documentation_is_a_whole_configuration(tmp_path: Path) -> None:
    (tmp_path / "central.toml").write_text(written())
    found = config.load(tmp_path)
    assert found.sites["0067"].equipment == ("CT1", "MR1")
    assert found.tls() == (tmp_path / "central.pem", tmp_path / "keys_central.key")


@pytest.mark.parametrize("cls", [SECTIONS["central"], config.Site])
def test_the_documentation_shows_every_key(cls: type) -> None:
    for key in keys(cls):
        assert re.search(rf"^(# )?{key} = ", written(), re.MULTILINE), key


@pytest.mark.parametrize(
    ("central", "told"),
    [
        ('database = "postgresql://edge:secret@db/edge"', "database_password names the file"),
        ('database = "mysql://db/edge"', "expected a URL such as"),
        ('digest = "25:00"', "expected a time of day"),
        ('certificate = "a.pem"', "certificate and key go together"),
        ("prot = 1", 'unknown key; did you mean "port"?'),
    ],
)
def test_each_mistake_is_named(tmp_path: Path, central: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        write_config(tmp_path, some_sites(1), central)
    assert told in str(caught.value)
    assert "central.toml:" in str(caught.value)
    assert "secret@" not in str(caught.value)


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    found = write_config(tmp_path, some_sites(2))
    for name in ("1.key", "2.key"):
        (tmp_path / name).chmod(0o644)
    with pytest.raises(ConfigError) as caught:
        found.read_keys()
    assert len(caught.value.problems) == 2
    assert "site.1.key" in caught.value.problems[0]


def test_the_database_gets_its_password(tmp_path: Path) -> None:
    url = 'database = "postgresql://edge@db.example.org/edge"\ndatabase_password = "password"'
    found = write_config(tmp_path, some_sites(1), url)
    secret = tmp_path / "password"
    secret.touch(mode=0o600)
    secret.write_text("p@ss/word")
    assert found.database_url() == "postgresql+psycopg://edge:p%40ss%2Fword@db.example.org/edge"
