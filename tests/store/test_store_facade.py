"""Nothing but edge.store holds SQL or knows SQLite."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import edge

ROOT = Path(edge.__file__).parent
STATEMENT = re.compile(
    r"\s*(SELECT|INSERT INTO|INSERT OR|UPDATE \w+ SET|DELETE FROM|WITH (RECURSIVE )?\w+ (AS )?\(|PRAGMA"
    r"|REPLACE INTO|CREATE TABLE|ALTER TABLE|DROP TABLE|VACUUM|BEGIN( IMMEDIATE)?$|COMMIT$|ROLLBACK$)"
)
ENGINES = {"sqlite3", "aiosqlite", "sqlalchemy"}


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        if not name.startswith("store/"):
            yield name, ast.parse(path.read_text("utf-8"))


def statements(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Constants that begin as a statement of SQL does; a comment or a docstring in words does not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.match(node.value):
            yield node.lineno, node.value.strip()[:60]


def imports(tree: ast.AST) -> set[str]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found


def test_no_statement_of_sql_outside_the_store() -> None:
    assert [f"{name}:{line}: {sql}" for name, tree in sources() for line, sql in statements(tree)] == []


def test_no_engine_outside_the_store() -> None:
    assert [name for name, tree in sources() if imports(tree) & ENGINES] == []


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1",
        "\n  INSERT INTO t VALUES (1)",
        "UPDATE t SET a = 1",
        "DELETE FROM t",
        "WITH RECURSIVE a (b) AS (",
        "BEGIN",
    ],
)
def test_the_scan_finds_a_statement(sql: str) -> None:
    assert list(statements(ast.parse(f"conn.execute({sql!r})")))


@pytest.mark.parametrize("text", ["select a row", "UPDATE", "DELETE a file", "BEGIN here", "WITH WORDS"])
def test_the_scan_leaves_words_alone(text: str) -> None:
    assert not list(statements(ast.parse(repr(text))))
