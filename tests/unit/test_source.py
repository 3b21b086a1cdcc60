"""What the source as a whole promises: each module is read once, and every scan looks at it.

No module branches on a sentence: words for people are made where they are shown, and nothing reads them again. Nothing
but edge.store holds SQL or knows SQLite. Whatever makes threads or processes is an owner in edge/daemon/threads.py.
"""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from edge.daemon.threads import ANSWERING_THREADS, OTHER_THREADS, PROCESSES, RECEIVER_THREADS, STEP_THREADS
from tests.support.peers import REPOSITORY

EDGE = REPOSITORY / "edge"
Nodes = Iterable[ast.AST]

#: Names of words for people, as variables, attributes, keys and columns.
PROSE = frozenset(
    {
        "detail",
        "reason",
        "public_reason",
        "words",
        "why",
        "text",
        "note",
        "fault",
        "means",
        "last_error",
        "how",
        "error",
    }
)
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
        ("network/tls.py", "'UNEXPECTED_EOF' in str(error.reason)"),
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


def readings(nodes: Nodes) -> Iterator[ast.expr]:
    for node in nodes:
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


#: Matches a column of prose.
MATCHING = re.compile(r"\b(detail|reason|last_error|note)\s+(like|glob|=|<>)\s+'[^']", re.IGNORECASE)


def matchings(nodes: Nodes) -> Iterator[ast.expr]:
    """Statements of SQL that match a column of prose."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and MATCHING.search(node.value):
            yield node


def prose(nodes: Nodes) -> Iterator[str]:
    for node in (*readings(nodes), *matchings(nodes)):
        yield ast.unparse(node)


STATEMENT = re.compile(
    r"\s*(SELECT|INSERT INTO|INSERT OR|UPDATE \w+ SET|DELETE FROM|WITH (RECURSIVE )?\w+ (AS )?\(|PRAGMA"
    r"|REPLACE INTO|CREATE TABLE|ALTER TABLE|DROP TABLE|VACUUM|BEGIN( IMMEDIATE)?$|COMMIT$|ROLLBACK$)"
)
ENGINES = {"sqlite3", "aiosqlite", "sqlalchemy"}


def statements(nodes: Nodes) -> Iterator[str]:
    """Constants that begin as a statement of SQL does; a comment or a docstring in words does not."""
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and STATEMENT.match(node.value):
            yield f"{node.lineno}: {node.value.strip()[:60]}"


def engines(nodes: Nodes) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from {alias.name.split(".")[0] for alias in node.names} & ENGINES
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield from {node.module.split(".")[0]} & ENGINES


#: Makers of threads and processes, as they are called in the code.
MAKERS = {"Thread", "Timer", "ThreadPoolExecutor", "Popen", "run_sync"}


def makers(nodes: Nodes) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name | ast.Attribute):
            called = node.func.id if isinstance(node.func, ast.Name) else node.func.attr
            if called in MAKERS or ast.unparse(node.func) == "subprocess.run":
                yield called


SCANS: tuple[Callable[[Nodes], Iterator[str]], ...] = (prose, statements, engines, makers)
Found = dict[Any, dict[str, list[str]]]


@pytest.fixture(scope="module")
def found() -> Found:
    """Scan -> module, as a path below edge/ -> what it finds there."""
    kept: Found = defaultdict(dict)
    for path in sorted(EDGE.rglob("*.py")):
        nodes = list(ast.walk(ast.parse(path.read_text("utf-8"))))
        for scan in SCANS:
            if seen := list(scan(nodes)):
                kept[scan][path.relative_to(EDGE).as_posix()] = seen
    return kept


def scanned(scan: Callable[[Nodes], Iterator[str]], source: str) -> list[str]:
    return list(scan(list(ast.walk(ast.parse(source)))))


def test_no_module_reads_words_for_people(found: Found) -> None:
    seen = {(name, each) for name, all_ in found[prose].items() if name not in DECODERS for each in all_}
    assert sorted(seen - ALLOWED.keys()) == []
    assert sorted(ALLOWED.keys() - seen) == [], "an exception that nothing needs any more"


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
    assert scanned(prose, source)


def test_only_rows_of_0_1_0_are_decoded() -> None:
    """One module calls the decoder, and only for a row that has no payload."""
    users = [path.name for path in EDGE.rglob("*.py") if "ledger_0_1_0" in path.read_text("utf-8")]
    assert sorted(users) == ["ledger_text.py"]


def test_no_statement_of_sql_outside_the_store(found: Found) -> None:
    assert {name: each for name, each in found[statements].items() if not name.startswith("store/")} == {}


def test_no_engine_outside_the_store(found: Found) -> None:
    assert [name for name in found[engines] if not name.startswith("store/")] == []
    assert found[engines], "the scan finds those of the store"


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
    assert scanned(statements, f"conn.execute({sql!r})")


@pytest.mark.parametrize("text", ["select a row", "UPDATE", "DELETE a file", "BEGIN here", "WITH WORDS"])
def test_the_scan_leaves_words_alone(text: str) -> None:
    assert not scanned(statements, repr(text))


def test_every_module_that_makes_threads_or_processes_is_an_owner(found: Found) -> None:
    owners = {spec.owner for spec in (*STEP_THREADS, *OTHER_THREADS, *RECEIVER_THREADS, *ANSWERING_THREADS, *PROCESSES)}
    modules = {
        "edge." + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        for name in found[makers]
        if not name.startswith(("central", "cli", "store/engine"))  # other processes
    }
    #: The class of all workers; the timer of a start; the pool of the console's thread, and who uses that of its pages.
    assert modules - owners == {
        "edge.worker",
        "edge.store.wal",
        "edge.console.server",
        "edge.console.upload",
        "edge.web.endpoints",
        "edge.web.ocsp",
        "edge.web.pages",
    }
