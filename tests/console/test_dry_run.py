"""The configuration that a dry run tries: the running one, with what a text says otherwise."""

from __future__ import annotations

from pathlib import Path

from edge.config import load_config
from edge.console.dry_run import candidate_of
from tests.support.clinic import csrf
from tests.support.console_site import ConsoleSite

SITE = """
[site]
id = "1"
data_dir = "data"
[destination.archive]
ae_title = "VNA"
host = "vna.example.org"
port = 104
[destination.cloud]
kind = "dicomweb"
url = "https://vna.example.org/dicom-web"
[destination."teaching.1"]
ae_title = "TEACH"
host = "teach.example.org"
port = 104
deidentify = "basic"
project = "T17"
project_key = "t17.key"
[route.everything]
to = ["archive"]
"""


def test_a_destination_that_a_text_only_names_is_the_running_one(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SITE)
    config = load_config(tmp_path)
    found = candidate_of(config, '[route.all]\nto = ["cloud", "teaching.1"]\n')
    assert found.destinations == config.destinations
    assert [(each.name, each.to) for each in found.routes.values()] == [("all", ("cloud", "teaching.1"))]


def test_a_destination_of_the_text_is_as_the_text_says(tmp_path: Path) -> None:
    (tmp_path / "site.toml").write_text(SITE)
    config = load_config(tmp_path)
    text = '[destination.archive]\nae_title = "NEW"\nhost = "10.0.0.1"\nport = 11112\n[route.a]\nto = ["archive"]\n'
    found = candidate_of(config, text)
    assert found.destinations["archive"].ae_title == "NEW"
    assert found.destinations["cloud"] == config.destinations["cloud"]


def test_a_long_text_is_tried_to_its_end(tmp_path: Path) -> None:
    with ConsoleSite(tmp_path) as site:
        admin = site.person("admin")
        text = '[route.first]\nto = ["archive"]\n' + "# a comment\n" * 6000 + '[route.last]\nto = ["archive"]\n'
        answer = admin.post("/dry-run", data={"csrf": csrf(admin, "/dry-run"), "text": text})
        assert "[route.last]" in answer.text
