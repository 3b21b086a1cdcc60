"""A program changes the files of a configuration, and everything else in them stays as a person wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from edge.config.change import change_files
from edge.config.edit import (
    NotEditable,
    check_files,
    differences,
    list_blocks,
    name_from,
    put_tables,
    read_files,
    set_value,
)
from edge.config.first import FirstAnswers, FirstPeer, first_files
from edge.errors import EdgeError
from edge.monitor.config_warnings import warnings

FILES = {
    "10-site.toml": '[site]\nid = "1"\ndata_dir = "data"\n',
    "20-equipment.toml": (
        '# The scanners.\n[modality.ct1]  # the first\nae_title = "CT1"\nhosts = ["10.0.0.1"]      # its address\n\n'
        '# The archive.\n[destination.vna]\nae_title = "VNA"\nhost = "10.0.0.9"\nport = 104\n'
    ),
    "30-routes.toml": (
        '# Why there are routes.\n\n# Mammograms first.\n[route.mg]\nwhen = { Modality = "MG" }\nto = ["vna"]\n\n'
        "# All else.\n[route.rest]\nto = [\n  'vna',\n]\n"
    ),
}


def change(name: str, files: dict[str, str] = FILES, /, **fields: Any) -> dict[str, str]:
    config = check_files(files, Path("conf.d"))
    return change_files(files, config, name, {"reason": "ticket 7", **fields}, "anna", 0.0)


def test_a_scanner_is_added_beside_what_is_there() -> None:
    after = change(
        "modality-add", name="ct2", ae_title="CT2", hosts=["10.0.0.2"], services=["echo", "store", "commit"], port=104
    )
    assert {name: after[name] for name in FILES} == FILES
    added = check_files(after, Path("conf.d")).modalities["ct2"]
    assert (added.ae_title, added.hosts, added.port) == ("CT2", ("10.0.0.2",), 104)
    assert "anna: ticket 7" in after["25-added-equipment.toml"]


def test_a_second_scanner_goes_into_the_same_file_and_no_name_is_taken_twice() -> None:
    once = change("modality-add", name="ct2", ae_title="CT2", hosts=["10.0.0.2"])
    twice = change("modality-add", once, name="ct3", ae_title="CT3", hosts=["10.0.0.3"])
    assert [each.key[1] for each in list_blocks(twice["25-added-equipment.toml"])] == ["ct2", "ct3"]
    with pytest.raises(EdgeError, match="the name ct2 is taken"):
        change("modality-add", once, name="ct2", ae_title="CT9", hosts=["10.0.0.9"])


def test_an_address_is_not_added_where_any_is_let_in() -> None:
    """The list of one address would turn away all others."""
    equipment = FILES["20-equipment.toml"].replace('hosts = ["10.0.0.1"]      # its address\n', "")
    files = {**FILES, "20-equipment.toml": equipment}
    with pytest.raises(EdgeError, match=r"\[modality.ct1\] is admitted from any address"):
        change("modality-add-host", files, name="ct1", host="10.0.0.7")


def test_a_new_address_of_a_scanner_keeps_the_comment() -> None:
    after = change("modality-add-host", name="ct1", host="10.0.0.7")
    assert (
        differences(FILES, after)[3:]
        == [
            " # The scanners.",
            " [modality.ct1]  # the first",
            ' ae_title = "CT1"',
            '-hosts = ["10.0.0.1"]      # its address',
            '+hosts = ["10.0.0.1", "10.0.0.7"]    # its address',
            " ",
            " # The archive.",
        ][1:]
    )


def test_routes_of_a_text_replace_those_of_the_files_and_comments_stay() -> None:
    text = '[route.rest]\nto = ["vna"]\n\n[route.ct]\nwhen = { Modality = "CT" }\nto = ["vna"]\npriority = "urgent"\n'
    after = put_tables(FILES, text, "route", "30-routes.toml")
    config = check_files(after, Path("conf.d"))
    assert set(config.routes) == {"rest", "ct"}
    assert "# All else.\n[route.rest]\nto = [\n  'vna',\n]" in after["30-routes.toml"]  # unchanged, so not rewritten
    assert after["20-equipment.toml"] == FILES["20-equipment.toml"]


def test_a_destination_of_the_text_is_put_in_as_well() -> None:
    text = '[destination.new]\nae_title = "N"\nhost = "h"\nport = 104\n[route.rest]\nto = ["new"]\n'
    config = check_files(change("routes-set", text=text), Path("conf.d"))
    assert config.routes["rest"].to == ("new",)
    with pytest.raises(NotEditable, match="not \\[site\\]"):
        change("routes-set", text='[site]\nid = "2"\n')


@pytest.mark.parametrize("text", ['route.x = { to = ["vna"] }\n', '[route]\nx.to = ["vna"]\n'])
def test_a_key_is_set_of_what_is_written_in_another_form(text: str) -> None:
    after = set_value({**FILES, "40.toml": text}, ("route", "x", "priority"), "stat")
    assert check_files(after, Path("conf.d")).routes["x"].to == ("vna",)


def test_maintenance_is_planned_and_removed() -> None:
    after = change("maintenance-add", **{"from": "2026-12-05T22:00", "to": "2026-12-06 02:00"})
    (plan,) = check_files(after, Path("conf.d")).maintenances.values()
    assert (plan.name, plan.reason) == ("planned-20261205-2200", "ticket 7")
    assert change("maintenance-remove", after, name=plan.name) == FILES
    with pytest.raises(EdgeError, match="to: expected a time after from"):
        change("maintenance-add", **{"from": "2026-12-05 22:00", "to": "2026-12-05 21:00"})


def test_planned_work_with_an_offset_is_written_in_the_time_of_the_site() -> None:
    files = {**FILES, "15.toml": '[calendar]\ntime_zone = "America/Chicago"\n'}
    after = change("maintenance-add", files, **{"from": "2026-12-05T22:00+00:00", "to": "2026-12-05 23:00"})
    assert 'from = "2026-12-05 16:00"\nto = "2026-12-05 23:00"' in after["60-maintenance.toml"]


@pytest.mark.parametrize(
    ("title", "name"), [("CT 1", "ct-1"), ("MR_SÜD", "mr_s-d"), ("!!", "equipment"), ("CT1", "ct1-2")]
)
def test_a_name_is_made_of_the_ae_title(title: str, name: str) -> None:
    assert name_from(title, {"ct1": None}) == name


def test_the_first_configuration_is_good(tmp_path: Path) -> None:
    archive, scanner = FirstPeer("VNA", "10.1.1.1", 104), FirstPeer("CT1", "10.0.0.1", 104)
    answers = FirstAnswers(
        "0067", "Clinic", "data", "EDGE", 11112, archive, "query", (scanner,), "a@b.org", "mail.b.org"
    )
    config = check_files(first_files(answers), tmp_path)
    assert warnings(config) == []
    assert config.modalities["ct1"].services == ("echo", "store", "commit")
    for name, text in first_files(answers).items():
        (tmp_path / name).write_text(text)
    assert read_files(tmp_path) == first_files(answers)


INLINE = '[modality]\nct1 = { ae_title = "CT1", hosts = ["10.0.0.1"] }  # the first\nct2 = { ae_title = "CT2" }\n'
DOTTED = 'modality.ct1.ae_title = "CT1"\nmodality.ct1.hosts = [\n  "10.0.0.1",\n]\nmodality.ct2.ae_title = "CT2"\n'
LINES = '[modality.ct1]\nae_title = "CT1"\nhosts = [\n  "10.0.0.1",\n]\n[modality.ct2]\nae_title = "CT2"\n'


@pytest.mark.parametrize("text", [INLINE, DOTTED, LINES])
def test_a_table_in_another_form_is_edited_too(text: str) -> None:
    files = {**FILES, "20-equipment.toml": text + FILES["20-equipment.toml"].partition("\n\n")[2].partition("\n")[2]}
    modalities = check_files(change("modality-add-host", files, name="ct1", host="10.0.0.7"), Path("conf.d")).modalities
    assert modalities["ct1"].hosts == ("10.0.0.1", "10.0.0.7")
    assert modalities["ct2"].ae_title == "CT2"


def test_routes_in_another_form_are_replaced() -> None:
    files = {
        **FILES,
        "30-routes.toml": '[route]\nmg = { when = { Modality = "MG" }, to = ["vna"] }\nrest = { to = ["vna"] }\n',
    }
    after = put_tables(files, '[route.mg]\nwhen = { Modality = "CT" }\nto = ["vna"]\n', "route", "30-routes.toml")
    assert list(check_files(after, Path("conf.d")).routes) == ["mg"]


def test_a_table_among_others_on_one_line_is_refused_with_its_place() -> None:
    text = 'modality = { ct1 = { ae_title = "CT1", hosts = ["10.0.0.1"] }, ct2 = { ae_title = "CT2" } }\n'
    with pytest.raises(NotEditable, match=r"20-equipment\.toml:1: modality\.ct1 is not written as"):
        set_value({"20-equipment.toml": text}, ("modality", "ct1", "hosts"), [])
