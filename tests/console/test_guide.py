"""The guide: a page for each alert, every link leads somewhere, every command and key in it exists."""

from __future__ import annotations

import re
from typing import Any

import click
from click.testing import CliRunner

from edge.cli import cli
from edge.config.alarms import ALERT_KINDS
from edge.console.application import NAVIGATION
from edge.web.guide import page_names, read_page, render_page
from tests.support.peers import REPOSITORY

DOCS = REPOSITORY / "docs"
PAGES = sorted([*(DOCS / "guide").glob("*.md"), *(DOCS / "alerts").glob("*.md")])
#: The ten tasks that can be done by who has read only the guide.
TASKS = (
    "install-and-first-image",
    "add-a-refused-scanner",
    "find-a-stuck-study",
    "decide-a-conflict",
    "refuse-an-unroutable-object",
    "import-a-disc",
    "replace-the-archive",
    "planned-maintenance",
    "restore-to-a-new-machine",
    "see-the-month",
)
#: *Group, Page* is a place of the console's navigation; a question in italics is a person's.
PLACE = re.compile(r"(?<!\*)\*([A-Z][^*\n?]*)\*(?!\*)")
PLACES = {f"{group.label}, {entry.label}" for group in NAVIGATION for entry in group.entries} | {"Help"}


def test_every_alert_has_its_page() -> None:
    assert set(ALERT_KINDS) <= set(page_names("alerts"))
    for kind in ALERT_KINDS:
        text = read_page("alerts", kind) or ""
        assert "**Images.**" in text, kind
        assert "**What to do**" in text, kind


def test_every_task_is_a_page_of_the_index() -> None:
    index = read_page("guide", "README") or ""
    for name in page_names("guide"):
        assert f"({name}.md)" in index, name
    for name in TASKS:
        assert f"]({name}.png)" in (read_page("guide", name) or ""), name


def test_every_link_leads_to_a_file() -> None:
    links = [page.parent / link for page in PAGES for link in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8"))]
    assert [path for path in links if not path.exists()] == []


def test_every_place_is_one_of_the_navigation() -> None:
    for page in (*PAGES, DOCS / "console.md"):
        assert set(PLACE.findall(page.read_text("utf-8"))) <= PLACES, page


def test_every_page_is_once_in_the_navigation() -> None:
    paths = [entry.path for group in NAVIGATION for entry in group.entries]
    assert len(paths) == len(set(paths))


def test_links_are_those_of_the_console() -> None:
    text = "[a](backup.md) [b](../alerts/lost.md#x) [c](../manual.md#tls) ![d](p.png) <script>x</script>"
    html, links = render_page("guide", text), ["/help/guide/backup", "/help/alerts/lost", "/help", "/help/guide/p.png"]
    assert re.findall(r'(?:href|src)="([^"]+)"', html) == links
    assert "<script>" not in html
    for section, name in (("guide", "../../etc/passwd"), ("etc", "x"), ("guide", "none")):
        assert read_page(section, name) is None


def commands(text: str) -> list[list[str]]:
    """The words of each `edge ...` in code."""
    code = [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^ {4,}(.+)$", text, re.MULTILINE)]
    parts = [part for each in code for part in re.split(r"&&|\|", each)]
    found = [re.sub(r"^(sudo (-u edge )?)?", "", part.strip()) for part in parts]
    return [each.split() for each in found if each.startswith("edge ")]


def test_every_command_exists() -> None:
    for words in [words for page in PAGES for words in commands(page.read_text("utf-8"))]:
        group: Any = cli
        path: list[str] = []
        for word in words[1:]:
            if not isinstance(group, click.Group) or not re.fullmatch(r"[a-z0-9-]+", word):
                break
            path.append(word)
            found = group.get_command(click.Context(group), word)
            assert found is not None, " ".join(words)
            group = found
        options = {name for each in group.params for name in each.opts}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in options | {"--help"}, " ".join(words)


def test_the_command_explains_an_alert() -> None:
    done = CliRunner().invoke(cli, ["alerts", "explain", "destination-down"])
    assert done.exit_code == 0
    assert "They wait safely on the disk" in done.output
    wrong = CliRunner().invoke(cli, ["alerts", "explain", "destination-dwon"])
    assert "destination-down" in wrong.output
