"""No module branches on a sentence: words for people are made where they are shown, and nothing reads them again."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.peers import REPOSITORY

#: Names of words for people, as variables, attributes, keys and columns.
PROSE = frozenset({"detail", "reason", "words", "why", "text", "note", "fault", "means", "last_error", "how", "error"})
#: Of these, what is a name of prose only as an attribute or key: as a variable it is any text that a function takes.
GENERAL = frozenset({"text", "how", "error"})
METHODS = frozenset(
    {"startswith", "endswith", "partition", "rpartition", "split", "rsplit", "splitlines", "find", "index", "count",
     "removeprefix", "removesuffix"}
)  # fmt: skip
MATCHERS = frozenset({"match", "fullmatch", "search", "findall", "finditer", "split"})
#: (file, expression) -> why it reads no prose.
ALLOWED: dict[tuple[str, str], str] = dict.fromkeys(
    (
        ("network/tls.py", "error.reason == 'KEY_VALUES_MISMATCH'"),
        ("network/tls.py", "error.reason in ('EE_KEY_TOO_SMALL', 'CA_MD_TOO_WEAK', 'CA_KEY_TOO_SMALL')"),
        ("network/tls.py", "'UNEXPECTED_EOF' in reason"),
    ),
    "ssl.SSLError.reason is OpenSSL's code of a fault (ERR_reason_error_string), not its text",
)
#: Reads texts of rows that 0.1.0 wrote, and nothing else does.
DECODERS = frozenset({"store/ledger_0_1_0.py"})


def _name(node: ast.expr) -> str:
    """The name under which prose would go: a variable, attribute, key or column; else empty."""
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Name) and node.id not in GENERAL:
        return node.id
    if isinstance(node, ast.Subscript):
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            return node.slice.value
        return _name(node.value)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "str":
        (given,) = node.args
        return "error" if isinstance(given, ast.Name) and given.id in ("error", "exc") else _name(given)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        if node.func.attr in ("lower", "upper", "strip", "casefold"):
            return _name(node.func.value)
        if node.func.attr == "get" and node.args and isinstance(node.args[0], ast.Constant):
            return str(node.args[0].value)
    return ""


def _is_prose(node: ast.expr) -> bool:
    return _name(node) in PROSE


def _is_text(node: ast.expr) -> bool:
    """A literal that has something to match."""
    return (isinstance(node, ast.Constant) and isinstance(node.value, str) and bool(node.value)) or isinstance(
        node, ast.JoinedStr
    )


def _readings(tree: ast.AST) -> Iterator[ast.expr]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            function, target = node.func.attr, node.func.value
            if (function in METHODS and _is_prose(target)) or (function in MATCHERS and any(map(_is_prose, node.args))):
                yield node
        elif isinstance(node, ast.Compare):
            sides = [node.left, *node.comparators]
            for (left, right), operator in zip(pairwise(sides), node.ops, strict=True):
                if isinstance(operator, ast.Eq | ast.NotEq):
                    if (_is_prose(left) and _is_comparable(right)) or (_is_prose(right) and _is_comparable(left)):
                        yield node
                elif isinstance(operator, ast.In | ast.NotIn) and (
                    (_is_prose(right) and _is_text(left)) or (_is_prose(left) and _is_collection_of_text(right))
                ):
                    yield node


def _is_comparable(node: ast.expr) -> bool:
    """What prose would be compared with: a literal, a constant's name."""
    return _is_text(node) or (isinstance(node, ast.Name | ast.Attribute) and _name(node).isupper())


def _is_collection_of_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Tuple | ast.List | ast.Set) and all(map(_is_comparable, node.elts))


_MATCHED_COLUMN = re.compile(r"\b(?:detail|reason|last_error|note) (?:like|glob|=|<>) '[^']")


def _in_sql(tree: ast.AST) -> Iterator[ast.expr]:
    """Statements that match a column of prose."""
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
        if is_text and _MATCHED_COLUMN.search(" ".join(node.value.lower().split())):
            yield node


def found_in(source: str) -> list[str]:
    tree = ast.parse(source)
    return [ast.unparse(node) for node in (*_readings(tree), *_in_sql(tree))]


def test_no_module_reads_words_for_people() -> None:
    edge = REPOSITORY / "edge"
    found = {
        (str(path.relative_to(edge)), expression)
        for path in sorted(edge.rglob("*.py"))
        if str(path.relative_to(edge)) not in DECODERS
        for expression in found_in(path.read_text("utf-8"))
    }
    assert sorted(found - ALLOWED.keys()) == []
    assert sorted(ALLOWED.keys() - found) == [], "an exception that nothing needs any more"


@pytest.mark.parametrize(
    "source",
    [
        'group.first.detail.startswith("sign-in")',
        'reason.partition(": \\"")[0]',
        "group.first.detail == BY_QUERY",
        're.split("[ :]", entry.detail)[2]',
        '_, found, digest = detail.partition("sha256 ")',
        '"from " in row["reason"]',
        'error.reason in ("timed out", "refused")',
        "conn.execute(\"SELECT 1 FROM delivery WHERE reason LIKE 'the spooled file%'\")",
        "_ARRIVAL.fullmatch(entry.detail)",
    ],
)
def test_what_once_read_words_is_found(source: str) -> None:
    assert found_in(source)


def test_only_rows_of_0_1_0_are_decoded() -> None:
    """One module calls the decoder, and only for a row that has no payload."""
    edge: Path = REPOSITORY / "edge"
    users = [path.name for path in edge.rglob("*.py") if "ledger_0_1_0" in path.read_text("utf-8")]
    assert sorted(users) == ["ledger_text.py"]
