"""The RPM package: built of the same files as the Debian one, and its contents, scripts and requirements checked.

NOT TESTED HERE: its installation, for which there is no image of such a system on this machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.peers import REPOSITORY, requires, run

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A package of a small root in the form of the real one: the libraries are those of the Debian package."""
    requires("rpmbuild")
    root = tmp_path_factory.mktemp("rpm") / "root"
    for name in ("usr/bin/edge", "usr/lib/edge-gateway/edge/__init__.py", "usr/lib/systemd/system/edge.service"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x\n")
    (root / "usr/lib/systemd/system/edge.socket").write_text("x\n")
    (root / "usr/share/doc/edge-gateway").mkdir(parents=True)
    (root / "usr/share/doc/edge-gateway/README.md").write_text("x\n")
    (root / "etc/edge/conf.d").mkdir(parents=True)
    run([str(REPOSITORY / ".venv/bin/python"), str(REPOSITORY / "packaging/man"), str(root)])
    (REPOSITORY / "dist").mkdir(exist_ok=True)
    built = run([str(REPOSITORY / "packaging/build-rpm"), str(root), "9.9.9", "3.11", "3.12"]).stdout.strip()
    path = REPOSITORY / built
    yield path
    path.unlink()


def test_it_holds_what_the_other_one_holds(package: Path) -> None:
    names = set(run(["rpm", "-qlp", str(package)]).stdout.split())
    assert {"/usr/bin/edge", "/usr/lib/systemd/system/edge.service", "/etc/edge/conf.d"} <= names
    assert "/usr/share/selinux/packages/edge/edge.pp" in names
    assert {"/usr/share/man/man1/edge.1.gz", "/usr/share/zsh/site-functions/_edge"} <= names
    assert not [name for name in names if name.endswith((".toml", ".pyc")) or "vendor-completions" in name]
    rights = {line.split()[-1]: line.split()[0:3] for line in run(["rpm", "-qplv", str(package)]).stdout.splitlines()}
    assert rights["/etc/edge/conf.d"][0] == "drwxrws---"


def test_it_needs_the_python_that_it_was_built_for_and_removes_no_image(package: Path) -> None:
    assert "python(abi) = 3.11" in run(["rpm", "-qp", "--requires", str(package)]).stdout
    scripts = run(["rpm", "-qp", "--scripts", str(package)]).stdout
    assert "edge init" in scripts
    assert "rm -rf /var" not in scripts
