"""The central office's configuration: its documentation is a whole one, and each mistake is named."""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import CliRunner

from edge.central import config
from edge.central.config import SECTIONS
from edge.cli import cli
from edge.config.tables import keys
from edge.errors import ConfigError
from tests.support.central_office import some_sites, write_config, write_secret
from tests.support.certificates import Authority, Pair
from tests.support.peers import REPOSITORY

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
    assert found.database_url() == "postgresql://edge:p%40ss%2Fword@db.example.org/edge"


# -- keys and certificates ---------------------------------------------------------------------------------------------


def check(directory: Path) -> tuple[int, str]:
    """What `edge central check` says."""
    done = CliRunner().invoke(cli, ["central", "--config", str(directory), "check"])
    return done.exit_code, done.output


GOOD = b"a key that is long enough"


WEAK = [b"x", b"thirteen-byte", b"\0" * 32, b"ab" * 32, b"k" + b"\0" * 15, b"7" * 60, b"7" * 100]
ALIKE = [(GOOD, GOOD), (GOOD, GOOD + b"\0\0"), (GOOD * 9, sha256(GOOD * 9).digest())]


@pytest.mark.parametrize("key", WEAK)
def test_a_key_that_anybody_could_guess_is_refused(tmp_path: Path, key: bytes) -> None:
    write_config(tmp_path, some_sites(2))
    write_secret(tmp_path / "1.key", key)
    code, told = check(tmp_path)
    assert (code, "site.1.key" in told, "is no key" in told) == (2, True, True)


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_two_sites_never_share_a_key(tmp_path: Path, one: bytes, other: bytes) -> None:
    """HMAC fills short keys up with zeros and takes long ones by their digest (RFC 2104): these sign alike."""
    write_config(tmp_path, some_sites(2))
    write_secret(tmp_path / "1.key", one)
    write_secret(tmp_path / "2.key", other)
    code, told = check(tmp_path)
    assert (code, "site.2.key" in told, "is the key of site 1 as well" in told) == (2, True, True)


def test_a_next_key_is_nobody_elses_either(tmp_path: Path) -> None:
    sites = some_sites(2).replace('key = "2.key"', 'key = "2.key"\nnext_key = "1.key"')
    write_config(tmp_path, sites)
    code, told = check(tmp_path)
    assert (code, "site.2.next_key" in told) == (2, True)


def with_certificate(directory: Path, mode: int = 0o600) -> Pair:
    authority = Authority(directory / "authority")
    pair = authority.issue("central.test", "localhost")
    write_config(directory, some_sites(1), f'certificate = "{pair.certificate}"\nkey = "{pair.key}"\n')
    pair.key.chmod(mode)
    return pair


def test_the_certificates_key_is_for_its_owner_alone(tmp_path: Path) -> None:
    with_certificate(tmp_path)
    assert check(tmp_path)[0] == 0
    pair = with_certificate(tmp_path, 0o644)
    code, told = check(tmp_path)
    assert (code, "central.key" in told, f"chmod 600 {pair.key}" in told) == (2, True, True)


def test_a_certificate_and_a_key_that_do_not_fit_are_named(tmp_path: Path) -> None:
    pair = with_certificate(tmp_path)
    other = Authority(tmp_path / "other").issue("central.test")
    pair.key.write_bytes(other.key.read_bytes())
    code, told = check(tmp_path)
    assert (code, "central.certificate" in told) == (2, True)


def test_other_secrets_are_for_their_owner_alone(tmp_path: Path) -> None:
    mail = '[email.x]\nhost = "m"\nsender = "a@b.c"\nto = ["a@b.c"]\nuser = "u"\npassword = "mail.key"\n'
    write_config(tmp_path, some_sites(1) + mail)
    write_secret(tmp_path / "mail.key", b"secret")
    (tmp_path / "mail.key").chmod(0o644)
    code, told = check(tmp_path)
    assert (code, "email.x.password" in told) == (2, True)


# -- a new site --------------------------------------------------------------------------------------------------------


def add_site(directory: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(cli, ["central", "--config", str(directory), "site", "add", *words])
    return done.exit_code, done.output


def test_a_site_that_the_configuration_would_refuse_is_not_written(tmp_path: Path) -> None:
    conf = tmp_path / "conf.d"
    write_config(conf, some_sites(1)).central.data_dir.mkdir()
    for words in (("0068", "--link", "edge.example.org"), ("two words",)):
        code, told = add_site(conf, *words)
        assert (code, "50-sites.toml:1" in told or "50-sites.toml:3" in told) == (2, True), told
    assert not (conf / "50-sites.toml").exists()
    assert list((conf / "data").iterdir()) == []


def test_a_site_that_was_removed_is_added_again_with_another_key(tmp_path: Path) -> None:
    """The file is for the service, whose user is dynamic: others may read it."""
    conf = tmp_path / "conf.d"
    write_config(conf, some_sites(1)).central.data_dir.mkdir()
    keys = []
    for _ in range(2):
        code, told = add_site(conf, "0068", "--name", "New Clinic")
        assert code == 0, told
        keys.append(config.load(conf).read_keys()["0068"])
        assert (conf / "50-sites.toml").stat().st_mode & 0o777 == 0o644
        (conf / "50-sites.toml").unlink()
    assert keys[0] != keys[1]


def test_a_command_finds_the_credentials_that_the_unit_hands_in(tmp_path: Path) -> None:
    """As docs/central.md lays them out: keys/1.key is the credential keys_1.key."""
    conf, held = tmp_path / "conf.d", tmp_path / "keys"
    write_config(conf, some_sites(2).replace('"1.key"', '"keys_1.key"'), 'database_password = "keys_database"')
    held.mkdir()
    (conf / "keys_1.key").rename(held / "1.key")
    write_secret(held / "database", b"secret")
    assert check(conf)[0] == 0
    (held / "1.key").unlink()
    code, told = check(conf)
    assert (code, f"{conf / 'keys_1.key'} cannot be read" in told) == (2, True)
