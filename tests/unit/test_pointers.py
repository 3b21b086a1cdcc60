"""What pages and docstrings name is there: files, modules, members of classes, commands, tests, targets of make."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest

from edge.cli import cli
from tests.support.peers import REPOSITORY

PAGES = [
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *(REPOSITORY / f"{n}.md" for n in ("README", "CONTRIBUTING", "SECURITY")),
]
SOURCES = sorted((REPOSITORY / "edge").rglob("*.py"))
TEXTS = {path.relative_to(REPOSITORY).as_posix(): path.read_text("utf-8") for path in (*PAGES, *SOURCES)}
TESTS = "".join(path.read_text("utf-8") for path in (REPOSITORY / "tests").rglob("*.py"))
TOPS = ("conf.d", "docs", "edge", "packaging", "systemd", "tests")
#: Files of the system or of a gateway that have the form of a module's name: `edge.toml`, `edge.socket`.
ENDINGS = {"conf", "deb", "env", "example", "key", "lock", "pem", "rpm", "schema", "service", "socket", "toml"}
TICKED = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
PLAIN_PATH = re.compile(rf"(?<![\w/.-])(?:{'|'.join(TOPS)})/[\w./-]*\w\b(?![.*]*\*)")
#: In a source also the names of neighbours, in the table of a package.
PLAIN_FILE = re.compile(PLAIN_PATH.pattern + r"|(?<![\w/.*-])[a-z_]\w*\.py\b")
MODULE = re.compile(r"(?<![\w/.-])edge(?:\.[a-z_]\w*)+(?![\w(]*:)")


@cache
def files() -> frozenset[str]:
    """List the files and directories of the repository, without what is made in it."""
    tops = [path for name in TOPS for path in (REPOSITORY / name).rglob("*") if "__pycache__" not in path.parts]
    return frozenset(
        path.relative_to(REPOSITORY).as_posix() for path in (*tops, *REPOSITORY.glob("*"), REPOSITORY / ".ci")
    )


@cache
def classes() -> dict[str, list[str]]:
    """Map the name of a class to the texts of the modules that define it."""
    found: dict[str, list[str]] = {}
    for path in SOURCES:
        text = path.read_text("utf-8")
        for name in re.findall(r"^class (\w+)", text, re.MULTILINE):
            found.setdefault(name, []).append(text)
    return found


def has_word(text: str, word: str) -> bool:
    return re.search(rf"\b{word}\b", text) is not None


@cache
def is_path(name: str) -> bool:
    """Is it a file or directory: from the root, or by the end of its path, as pages of one package write it?"""
    name = name.rstrip("/")
    return name in files() or any(each.endswith(f"/{name}") for each in files()) or any(REPOSITORY.glob(name))


def is_module(name: str) -> bool:
    """Is it a module or package of `edge`, or a name in one?"""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        base, rest = "/".join(parts[:length]), parts[length:]
        for file in (f"{base}.py", f"{base}/__init__.py"):
            if file in TEXTS:
                return not rest or has_word(TEXTS[file], rest[0])
        if base in files():
            return not rest
    return False


def is_member(owner: str, member: str) -> bool:
    """Has a class of that name this member, itself or by what it inherits?"""
    for text in classes().get(owner, []):
        head = re.search(rf"^class {owner}(?:\(([^)]*)\))?:", text, re.MULTILINE)
        bases = re.findall(r"\w+", (head[1] or "") if head else "")
        if has_word(text, member) or any(is_member(base, member) for base in bases if base in classes()):
            return True
    return False


def find_wrong_command(words: list[str]) -> str:
    """Name the first word that the command line does not have, or nothing."""
    command: click.Command | None = cli
    for word in words:
        word = word.rstrip(",;:.")
        if command is None:
            return word
        if word.startswith("--"):
            options = {"--help", "--config", "--version"}
            options.update(option for each in command.params for option in (*each.opts, *each.secondary_opts))
            if word.partition("=")[0] not in options:
                return word
        elif isinstance(command, click.Group):
            found = command.get_command(click.Context(command), word)
            if found is None:
                return word if re.fullmatch(r"[a-z][a-z0-9-]+", word) else ""
            command = found
    return ""


def list_marks() -> Iterator[tuple[str, str, re.Match[str]]]:
    """List what stands between backticks: the place, its line, and the match."""
    for file, text in TEXTS.items():
        for number, line in enumerate(text.split("\n"), 1):
            for found in TICKED.finditer(line):
                yield f"{file}:{number}: {found[1]}", line, found


def test_paths_exist() -> None:
    wrong = []
    for place, _, found in list_marks():
        name = found[1]
        starts = name.startswith(tuple(f"{top}/" for top in TOPS)) or name.endswith(".py")
        if starts and re.fullmatch(r"[\w./*-]+", name) and not is_path(name):
            wrong.append(place)
    for file, text in TEXTS.items():
        lines = enumerate(text.split("\n"), 1)
        named = PLAIN_PATH if file.endswith(".md") else PLAIN_FILE
        wrong += [f"{file}:{n}: {m[0]}" for n, line in lines for m in named.finditer(line) if not is_path(m[0])]
    assert wrong == []


def test_modules_exist() -> None:
    wrong = []
    for file, text in TEXTS.items():
        for number, line in enumerate(text.split("\n"), 1):
            names = [m[0] for m in MODULE.finditer(line) if m[0].split(".")[1] not in ENDINGS]
            wrong += [f"{file}:{number}: {name}" for name in names if not is_module(name)]
    assert wrong == []


def test_members_of_classes_exist() -> None:
    """`Class.member`, where the first is a class of ours or of nobody: DICOM's words have no dot."""
    wrong = []
    for place, _, found in list_marks():
        named = re.match(r"([A-Z]\w*[a-z]\w*)\.([a-z_]\w*)(?:\(.*\))?$", found[1])
        if named and not is_member(named[1], named[2]):
            wrong.append(place)
    assert wrong == []


def test_names_in_docstrings_exist() -> None:
    """A name of several words, or in camel case, occurs in the code: a rename leaves no pointer behind."""
    code = "".join(TICKED.sub("", text) for file, text in TEXTS.items() if file.endswith(".py"))
    words = set(re.findall(r"\w+", code))
    wrong = []
    for place, _, found in list_marks():
        name = found[1].removesuffix("()")
        is_name = re.fullmatch(r"_?[a-z]+(_\w+)+|[A-Z][a-z]+([A-Z]\w*)+", name)
        if place.startswith("edge/") and is_name and name not in words:
            wrong.append(place)
    assert wrong == []


def list_commands(path: Path) -> Iterator[str]:
    """List the commands of a page: between backticks, and the lines of its blocks."""
    text = path.read_text("utf-8")
    yield from (found[1] for found in TICKED.finditer(text))
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    for line in "\n".join(blocks).splitlines() + re.findall(r"^    (.*)$", text, re.MULTILINE):
        yield line.removeprefix("$ ").removeprefix("sudo ").removeprefix("-u edge ")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_commands_have_these_words_and_options(path: Path) -> None:
    named = [line for line in list_commands(path) if line.startswith("edge ")]
    assert [line for line in named if find_wrong_command(shlex.split(line, comments=True)[1:])] == []


def test_docstrings_name_commands_that_exist() -> None:
    named = [(place, found[1]) for place, _, found in list_marks() if found[1].startswith("edge ")]
    assert len(named) > 100
    wrong = [place for place, name in named if find_wrong_command(name.replace("...", "").split()[1:])]
    assert wrong == []


def test_tests_and_targets_exist() -> None:
    targets = re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE)
    wrong = []
    for place, _, found in list_marks():
        if re.fullmatch(r"test_\w+", found[1]) and f"def {found[1]}(" not in TESTS:
            wrong.append(place)
        if (make := re.match(r"make ([a-z]+)", found[1])) and make[1] not in targets:
            wrong.append(place)
    assert wrong == []


def list_anchors(text: str) -> set[str]:
    """List the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_links_between_pages_lead_somewhere() -> None:
    wrong = []
    for path in PAGES:
        for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text("utf-8")):
            name, _, anchor = target.partition("#")
            if "://" in target:
                continue
            file = (path.parent / name).resolve() if name else path
            if not file.exists() or (anchor and anchor not in list_anchors(file.read_text("utf-8"))):
                wrong.append(f"{path.name}: {target}")
    assert wrong == []
