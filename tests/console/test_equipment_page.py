"""What the page of the equipment offers for a caller that was refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.config import load_config
from edge.console.equipment import list_caller

SITE = '[site]\nid = "1"\ndata_dir = "data"\n[modality.ct1]\nae_title = "CT1"\n'


@pytest.mark.parametrize(
    ("title", "hosts", "why", "offer"),
    [
        ("NEW", "", "", "add"),
        ("CT1", 'hosts = ["10.0.0.1"]', "", "host"),
        ("CT1", 'hosts = ["10.0.0.1"]', "it must call over TLS", ""),
        ("CT1", "", "it must call over TLS", ""),
        ("", "", "its certificate has expired", ""),
    ],
)
def test_nothing_is_added_for_one_that_lacks_a_certificate(
    tmp_path: Path, title: str, hosts: str, why: str, offer: str
) -> None:
    (tmp_path / "site.toml").write_text(SITE + hosts)
    config = load_config(tmp_path)
    seen = {"ae_title": title, "address": "10.0.0.9", "admitted": False, "name": "", "lacks": why}
    found = list_caller(seen, config)
    assert (found["why"], found["offer"]) == (why, offer)
