"""Secrets: where they lie, who may read the file, and that no error quotes one."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.config import secret
from edge.config.secret import SecretError

WORDS = "Sesam-open-up"


def written(path: Path, text: str = WORDS, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.fixture
def credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of systemd.exec(5), LoadCredential=: systemd makes its files 0440 and keeps others out of it."""
    folder = tmp_path / "credentials"
    folder.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    return folder


def test_a_name_is_looked_for_among_the_credentials_first(tmp_path: Path, credentials: Path) -> None:
    beside = written(tmp_path / "conf.d" / "key", "another")
    assert secret.path_of("key", beside.parent) == beside
    held = written(credentials / "key", mode=0o440)
    assert secret.path_of("key", beside.parent) == held
    assert secret.read_secret(held) == WORDS.encode()


@pytest.mark.parametrize("name", ["./key", "sub/key", "../conf.d/key"])
def test_a_path_is_never_a_credential(tmp_path: Path, credentials: Path, name: str) -> None:
    written(credentials / "key", mode=0o440)
    assert secret.path_of(name, tmp_path / "conf.d") == tmp_path / "conf.d" / name


def test_an_absolute_path_is_itself(tmp_path: Path, credentials: Path) -> None:
    assert secret.path_of(str(tmp_path / "key"), tmp_path / "conf.d") == tmp_path / "key"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_a_file_of_its_owner_alone_is_read(tmp_path: Path, mode: int) -> None:
    assert secret.read_secret(written(tmp_path / "key", mode=mode)) == WORDS.encode()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o644, 0o666])
def test_a_file_that_others_may_open_is_refused_with_the_remedy(tmp_path: Path, mode: int) -> None:
    path = written(tmp_path / "key", mode=mode)
    with pytest.raises(SecretError) as refusal:
        secret.read_secret(path)
    assert f"chmod 600 {path}" in str(refusal.value)
    assert WORDS not in str(refusal.value)


def test_a_credential_is_trusted_in_its_own_directory_alone(tmp_path: Path, credentials: Path) -> None:
    for path in (tmp_path / "key", credentials / "sub" / "key"):
        with pytest.raises(SecretError, match="chmod 600"):
            secret.read_secret(written(path, mode=0o440))


@pytest.mark.parametrize(
    ("text", "why"), [("", "is empty"), (" \n\n", "is empty"), (WORDS * 10_000, "longer than 65536 bytes")]
)
def test_what_can_be_no_secret_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(SecretError, match=why) as refusal:
        secret.read_secret(written(tmp_path / "key", text))
    assert WORDS not in str(refusal.value)


def test_one_that_is_not_there_or_is_a_directory_is_named(tmp_path: Path) -> None:
    for path, why in ((tmp_path / "nothing", "No such file"), (tmp_path, "Is a directory")):
        with pytest.raises(SecretError, match=f"{path}.*{why}"):
            secret.read_secret(path)


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_the_line_end_of_an_editor_is_no_part_of_it(tmp_path: Path, end: str) -> None:
    assert secret.read_secret(written(tmp_path / "key", f" {WORDS} {end}")) == f" {WORDS} ".encode()
