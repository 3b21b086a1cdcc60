"""A file that is not TOML: the usual mistakes are named with their line and their remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.config import load_config
from edge.errors import ConfigError

SITE = '[site]\nid = "0067"\ndata_dir = "data"\n'

MISTAKES = [
    ("ae_title = CT1", 5, 'text needs quotes; write ae_title = "CT1"'),
    ('ae_title = "CT1', 5, "the text in quotes does not end on this line; close it with a quote"),
    ("ae_title = \u201cCT1\u201d", 5, "\u201c is not a quote of TOML"),
    ('ae_title: "CT1"', 5, '":" is not the sign between key and value; write ae_title = "CT1"'),
    ("ae_title", 5, '"ae_title" has no value; write ae_title = ...,'),
    ('ae_title "CT1"', 5, 'there is no "=" between key and value; write ae_title = "CT1"'),
    ("ae_title =", 5, '"ae_title" has no value behind "="'),
    ('ae_title = "CT1";', 5, 'a line does not end with ";"; write ae_title = "CT1"'),
    ("port = 0104", 5, "a number does not begin with 0; write port = 104"),
    ("port = 30d", 5, 'text needs quotes; write port = "30d"'),
    ("plain = yes", 5, "yes is not a value of TOML; write plain = true"),
    ("plain = True", 5, "True is not a value of TOML; write plain = true"),
    ('services = ["echo" "store"]', 5, "the values of a list are separated by commas"),
    ('services = ["echo", store]', 5, 'text needs quotes, in a list as well; write "store"'),
    ('certificate = "C:\\certs\\edge.pem"', 5, "a backslash has a meaning of its own between double quotes; write 'C:"),
    ("[modality.ct2", 5, 'the name of a table ends with "]"; write [modality.ct2]'),
    ("[modality.ct 2]", 5, "the name of a table has no spaces; write [modality.ct-2]"),
    ('hosts = [\n"10.1.1.1",\n"10.1.1.2"', 5, "the list or table that begins here has no end"),
    ("hosts = 10.10.4.21", 5, 'text needs quotes; write hosts = "10.10.4.21"'),
]


@pytest.mark.parametrize(("written", "line", "expected"), MISTAKES, ids=[each[0][:24] for each in MISTAKES])
def test_a_mistake_is_named_with_its_remedy(tmp_path: Path, written: str, line: int, expected: str) -> None:
    (tmp_path / "site.toml").write_text(f"{SITE}[modality.ct1]\n{written}\n")
    with pytest.raises(ConfigError) as found:
        load_config(tmp_path)
    (problem,) = [each for each in found.value.problems if "not TOML" in each]
    assert problem.startswith(f"site.toml:{line}: not TOML: {expected}"), problem
