"""The lint of names and words (packaging/language) fails when it must, and the glossary (docs/glossary.md) is true."""

from __future__ import annotations

import ast
import re
import runpy
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from edge.cli import cli
from edge.config.sections import NAMED_SECTIONS, SINGLE_SECTIONS
from edge.config.tables import keys
from edge.store import database
from tests.support.peers import REPOSITORY

PROGRAM = REPOSITORY / "packaging" / "language"
LINT = runpy.run_path(str(PROGRAM))
GLOSSARY = (REPOSITORY / "docs" / "glossary.md").read_text("utf-8")


class Tree:
    """A repository of its own, with the real glossary's rules."""

    def __init__(self, root: Path, capture: pytest.CaptureFixture[str]) -> None:
        self.root, self.capture = root, capture
        self.write("docs/glossary.md", GLOSSARY)

    def write(self, path: str, text: str) -> None:
        (self.root / path).parent.mkdir(parents=True, exist_ok=True)
        (self.root / path).write_text(text, "utf-8")

    def check(self) -> tuple[int, list[str], str]:
        """Run the lint: its exit code, its findings, and what it prints as an error."""
        code = LINT["main"](["--root", str(self.root)])
        out, error = self.capture.readouterr()
        return code, out.splitlines(), error


@pytest.fixture
def tree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Tree:
    return Tree(tmp_path, capsys)


def test_it_is_a_program(tree: Tree) -> None:
    tree.write("edge/a.py", "told = 1\n")
    command = [sys.executable, str(PROGRAM), "--root", str(tree.root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stdout == "edge/a.py:1: told: name the value; reported, sent, notified\n"


def test_a_clean_tree_passes(tree: Tree) -> None:
    tree.write("edge/a.py", '"""Lease due deliveries."""\n\n\ndef expire_leases() -> None: ...\n')
    assert tree.check() == (0, [], "")


@pytest.mark.parametrize(
    ("path", "text", "finding"),
    [
        ("edge/a.py", "x = 1\ntold = 2\n", "2: told"),
        ("edge/a.py", "_told = 2\n", "1: told"),
        ("edge/a.py", "told_at = 2\n", "1: told"),
        ("edge/a.py", "class ToldRow: ...\n", "1: told"),
        ("edge/a.py", "class HeartBeat: ...\n", "1: beat"),
        ("edge/a.py", '"""Nobody is TOLD."""\n', "1: told"),
        ("edge/a.py", "# tried again for\n# ever\n", "1: for ever"),
        ("edge/a.py", "def build_verdict() -> None: ...\n", "1: def build_verdict"),
        ("edge/web/page.js", "const toldAt = 1;\n", "1: told"),
        ("edge/web/page.html", "<p>Edge looks at it</p>\n", "1: looks"),
        ("edge/store/words.py", "x = 1\n", "1: words.py"),
        ("docs/a.md", "Fine.\n\nIt waits for\never.\n", "3: for ever"),
        ("docs/glossary.md", GLOSSARY + "\nIt is told.\n", "told"),
        ("conf.d/10-a.toml", "a = 1  # whoever calls\n", "1: whoever"),
        ("packaging/tool", "# mended\n", "1: mended"),
        ("README.md", "made anew\n", "1: anew"),
    ],
)
def test_a_banned_word_fails_in_code_docs_and_paths(tree: Tree, path: str, text: str, finding: str) -> None:
    tree.write(path, text)
    code, found, error = tree.check()
    assert code == 1
    assert any(f"{line}:".startswith(f"{path}:") and f"{finding}: " in line for line in found), found
    assert "docs/glossary.md" in error


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("edge/a.py", "# It looks up the name, and looks\n# like a UID; the central office.\n"),
        ("edge/a.py", "# heartbeat, toldest, untold, Officer, officer, judgement, heartbeats\n"),
        ("edge/a.py", "told = 1  # language: a column of version 0.1.0\n"),
        ("edge/a.py", "def is_gone() -> bool: ...\n"),
        ("docs/a.md", "It was told. <!-- language: a quotation -->\n"),
        ("edge/page.html", "<p>told</p> {# language: a quotation #}\n"),
        ("edge/a.sql", "SELECT told -- language: a column of version 0.1.0\n"),
        ("edge/web/page.js", "told(); /* language: of a library */\n"),
        ("edge/migrations/0001_first.sql", "told\n"),
        ("edge/central/migrations/0001_first.sql", "told\n"),
        ("CHANGELOG.md", "told\n"),
        ("tests/a.py", "told = 1\n"),
    ],
)
def test_what_is_allowed_marked_or_exempt_passes(tree: Tree, path: str, text: str) -> None:
    tree.write(path, text)
    assert tree.check() == (0, [], "")


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("edge/a.py", "told = 1  # language:\n"),
        ("docs/a.md", "It was told. # language: a quotation\n"),
        ("edge/a.sql", "SELECT told # language: a column\n"),
        ("edge/a.py", "# language: a column of version 0.1.0\ntold = 1\n"),
    ],
)
def test_a_mark_needs_a_reason_its_own_line_and_the_comment_of_its_file(tree: Tree, path: str, text: str) -> None:
    tree.write(path, text)
    assert tree.check()[0] == 1


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ("def read_row() -> None: ...", "async def read_row() -> None: ...", "read_row"),
        ("class Row: ...", "Row = tuple[int, str]", "Row"),
        ("DAY = 86400", "DAY: int = 86400", "DAY"),
        ("NO, BAD = 1, 2", "if True:\n    BAD = 1\nelse:\n    GOOD = 1", "BAD"),
        ("LIMIT = 1", "try:\n    import x\nexcept ImportError:\n    LIMIT = 2", "LIMIT"),
    ],
)
def test_a_public_name_of_two_modules_fails(tree: Tree, one: str, other: str, name: str) -> None:
    tree.write("edge/a.py", one + "\n")
    tree.write("edge/b/c.py", other + "\n")
    code, found, _ = tree.check()
    assert code == 1
    assert len(found) == 2
    assert found[0].startswith("edge/a.py:1: ")
    assert all(f": {name}: a name of its own; " in line for line in found)


@pytest.mark.parametrize(
    "text",
    [
        "import logging\nlog = logging.getLogger(__name__)\n",
        "from typing import TypeVar\nT = TypeVar('T')\n",
        "_LIMIT = 1\n\n\ndef _read() -> None: ...\n",
        "import click\n\n\n@click.command()\ndef check() -> None: ...\n",
        "from x import cli\n\n\n@cli.group('check')\ndef check() -> None: ...\n",
        "class A{n}:\n    limit = 1\n\n    def read_row(self) -> None: ...\n",
        "from x import Row\n",
    ],
)
def test_names_that_are_private_imported_or_excepted_may_recur(tree: Tree, text: str) -> None:
    tree.write("edge/a.py", text.replace("{n}", "1"))
    tree.write("edge/cli/b.py", text.replace("{n}", "2"))
    assert tree.check() == (0, [], "")


def test_migrations_may_share_their_entry_points(tree: Tree) -> None:
    for number in (1, 2):
        tree.write(f"edge/central/migrations/v{number}.py", "def upgrade() -> None: ...\n")
    assert tree.check() == (0, [], "")


@pytest.mark.parametrize("name", ["confirmed", "_held", "of", "_where", "late", "sent", "within"])
def test_a_participle_or_preposition_alone_names_no_function(tree: Tree, name: str) -> None:
    tree.write("edge/a.py", f"class A:\n    def {name}(self) -> None: ...\n")
    code, found, _ = tree.check()
    assert (code, len(found)) == (1, 1)
    assert found[0].startswith(f"edge/a.py:2: def {name}: ")


@pytest.mark.parametrize(
    "name", ["feed", "need", "read", "is_held", "mark_sent", "close_unused", "__init__", "wait_until"]
)
def test_verbs_and_predicates_name_functions(tree: Tree, name: str) -> None:
    tree.write("edge/a.py", f"def {name}() -> None: ...\n")
    assert tree.check() == (0, [], "")


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("docs/glossary.md", "# Glossary\n", "one ```toml block is expected, 0 found"),
        ("docs/glossary.md", "```toml\npaths = [\n```\n", "TOMLDecodeError"),
        ("docs/glossary.md", "```toml\npaths = []\n```\n", "KeyError"),
        ("edge/a.py", "def\n", "SyntaxError"),
    ],
)
def test_what_cannot_be_read_fails(tree: Tree, path: str, text: str, message: str) -> None:
    tree.write(path, text)
    code, _, error = tree.check()
    assert code == 1
    assert message in error


# The glossary: its block, and each place that it names.


def test_the_block_of_the_glossary_parses() -> None:
    rules = LINT["read_block"](REPOSITORY)
    assert {"paths", "exempt", "banned", "homonyms", "functions"} == set(rules)
    for rule in rules["banned"]:
        assert rule["use"], rule
        assert ("words" in rule) != ("regex" in rule), rule
        re.compile(rule.get("regex", ""))
        assert [word for word in rule.get("words", ()) if word != word.lower()] == []
    words = [word for rule in rules["banned"] for word in rule.get("words", ())]
    assert len(words) == len(set(words)) > 40


def rows() -> list[list[str]]:
    table = GLOSSARY.partition("## Terms")[2].partition("\n## ")[0].splitlines()
    return [re.split(r"\s*\|\s*", line.strip("| ")) for line in table if line.startswith("| ")][1:]


def test_each_term_has_one_meaning_and_a_place() -> None:
    assert len(rows()) > 30
    assert [row for row in rows() if len(row) != 3 or not all(row)] == []
    terms = [row[0] for row in rows()]
    assert len(terms) == len(set(terms))


@pytest.fixture(scope="module")
def catalog() -> sqlite3.Connection:
    conn = sqlite3.connect(":memory:")
    for migration in sorted(Path(database.__file__).with_name("migrations").glob("*.sql")):
        conn.executescript(migration.read_text("utf-8"))
    return conn


def is_command(words: list[str]) -> bool:
    """Is it a command, or a command with one of its choices?"""
    command: click.Command | None = cli
    for word in words:
        if isinstance(command, click.Group):
            command = command.get_command(click.Context(command), word)
        elif command is not None:
            choices = [p.type.choices for p in command.params if isinstance(p.type, click.Choice)]
            return word == words[-1] and any(word in each for each in choices)
    return command is not None


def is_section(name: str, key: str) -> bool:
    section, _, named = name.partition(".")
    cls: Any = (
        NAMED_SECTIONS[section][0] if named == "NAME" and section in NAMED_SECTIONS else SINGLE_SECTIONS.get(name)
    )
    return cls is not None and (not key or key in keys(cls))


def is_column(conn: sqlite3.Connection, table: str, column: str, value: str) -> bool:
    names = [row[1] for row in conn.execute(f"PRAGMA table_info({table})")]
    sql = conn.execute("SELECT sql FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    return column in names and (not value or f"'{value}'" in sql[0])


def is_defined(name: str) -> bool:
    texts = (file.read_text("utf-8") for file in (REPOSITORY / "edge").rglob("*.py"))
    defined = (node for text in texts if f" {name}" in text for node in ast.parse(text).body)
    return any(isinstance(node, LINT["NAMING"]) and node.name == name for node in defined)


def exists(conn: sqlite3.Connection, place: str) -> bool:
    """Does the tree have what a cell of the glossary names between backticks?"""
    if found := re.fullmatch(r"\[([\w.]+)\](?: (\w+))?", place):
        return is_section(found[1], found[2] or "")
    if found := re.fullmatch(r"(\w+)\.(\w+)(?: = (\w+))?", place):
        return is_column(conn, found[1], found[2], found[3] or "")
    if place.startswith("edge "):
        return is_command(place.split()[1:])
    if "/" in place:
        return (REPOSITORY / place).is_dir() if place.endswith("/") else (REPOSITORY / place).is_file()
    return is_defined(place)


@pytest.mark.parametrize("place", sorted({place for row in rows() for place in re.findall(r"`([^`]+)`", row[2])}))
def test_every_place_that_the_glossary_names_exists(catalog: sqlite3.Connection, place: str) -> None:
    assert exists(catalog, place)


@pytest.mark.parametrize(
    "place",
    [
        "[order.NAME]",
        "[destination.NAME] proof",
        "delivery.reason_kode",
        "delivery.state = flying",
        "edge queue sing",
        "edge nothing",
        "edge/no_such.py",
        "edge/none/",
        "NoSuchClass",
    ],
)
def test_a_place_that_does_not_exist_is_found(catalog: sqlite3.Connection, place: str) -> None:
    assert not exists(catalog, place)
