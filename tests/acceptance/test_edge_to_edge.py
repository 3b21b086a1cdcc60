"""A destination may be another Edge: an object goes on once, as urgent as it was, and never back where it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from edge.network.sites import MOST_HOPS, add_site, has_passed, read_passed
from tests.support.objects import ct_files, sop_instance_uid
from tests.support.peers import Edge, StoreScp, storescu, wait_until
from tests.support.web_door import WebEdge


def test_a_list_of_sites() -> None:
    passed = add_site(add_site("", "0067"), "Bad, Ort/1")
    assert passed == "0067,Bad%2C%20Ort%2F1"
    assert has_passed(passed, "0067")
    assert has_passed(passed, "Bad%2C%20Ort%2F1")
    assert not has_passed(passed, "006")
    assert not has_passed(passed, "")
    assert read_passed(passed) == passed
    assert read_passed("a b") == read_passed("a\n") == read_passed(",".join("x" * (MOST_HOPS + 1))) == ""
    long = passed
    for number in range(40):
        long = add_site(long, str(number))
    assert read_passed(long) == long


def dimse(name: str, peer: Edge) -> str:
    return f'[destination.{name}]\nae_title = "EDGE"\nhost = "127.0.0.1"\nport = {peer.port}\n'


def web(name: str, peer: WebEdge) -> str:
    return (
        f'[destination.{name}]\nkind = "dicomweb"\nurl = "{peer.web_url}"\n'
        f'token = "{peer.directory}/viewer-token"\nconfirm = "query"\n'
    )


def make_gateways(folder: Path, count: int) -> list[WebEdge]:
    """Of different sites; not configured for each other yet."""
    found = []
    for number in range(count):
        edge = WebEdge(folder / f"edge{number}")
        base = edge.config_dir / "00-base.toml"
        base.write_text(base.read_text().replace('id = "0067"', f'id = "site {number}"'))
        found.append(edge)
    return found


def configure(edge: WebEdge, config: str) -> None:
    file = edge.config_dir / "20-routes.toml"
    file.write_text(config + "[query]\n")


def count_here(edge: Edge) -> int:
    edge.settle()
    return len(list((edge.data_dir / "spool").rglob("*.dcm")))


WAITING = ("pending", "active", "deferred", "held")


def states(edge: Edge) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for name, each in edge.api_status()["destinations"].items():
        found[name] = {state: each[state] for state in WAITING if each.get(state)}
    return found


def test_gateways_that_send_to_each_other_in_a_ring_send_each_object_round_once(tmp_path: Path) -> None:
    """Each sends everything to the next one, in either way, and to an archive of its own."""
    gateways, kinds = make_gateways(tmp_path, 3), [dimse, web, dimse]
    archives = [StoreScp(tmp_path / f"archive{number}", f"ARCHIVE{number}") for number in range(3)]
    with ExitStack() as running:
        for number, edge in enumerate(gateways):
            archive = running.enter_context(archives[number])
            address = f'host = "127.0.0.1"\nport = {archive.port}'
            peers = f'[destination.archive]\nae_title = "{archive.ae_title}"\n{address}\n'
            peers += kinds[number]("next", gateways[(number + 1) % 3])
            configure(edge, f'{peers}[route.all]\nto = ["archive", "next"]\n')
        for edge in gateways:
            running.enter_context(edge)
        files = ct_files(tmp_path / "ct", 6, 4096)
        storescu(files[:3], gateways[0].port)
        storescu(files[3:], gateways[2].port)
        uids = set(map(sop_instance_uid, files))
        wait_until(lambda: all(each.uids() == uids for each in archives), 60, "all at each archive", interval=0.2)
        is_done = lambda: not any(any(states(each).values()) for each in gateways)  # noqa: E731
        wait_until(is_done, 60, "nothing is left", interval=0.3)
        assert [each.stores() for each in archives] == [6] * 3
        assert [count_here(each) for each in gateways] == [6] * 3
        assert _list_cancelled(gateways[2]) == ["it has passed site site 0 before"] * 3  # not by C-STORE
        assert _list_cancelled(gateways[1]) == ["it has passed site site 2 before"] * 3  # nor by STOW-RS


def _list_cancelled(edge: WebEdge) -> list[str]:
    """Why what was to go to the next one does not."""
    listed = edge.cli("queue", "list", "--state", "cancelled", "--destination", "next", "--json").stdout
    return [each["reason"] for each in json.loads(listed)]


def proved(name: str, peer: Edge, *, by: str) -> str:
    """A DIMSE destination that is asked for proof, and shows a title of its own."""
    return f'[destination.{name}]\nae_title = "EDGE"\nhost = "127.0.0.1"\nport = {peer.port}\nconfirm = "{by}"\n'


KINDS_OF_PROOF = [
    lambda peer: proved("far", peer, by="query"),
    lambda peer: proved("far", peer, by="commitment"),
    lambda peer: web("far", peer),
]


@pytest.mark.parametrize("kind", KINDS_OF_PROOF, ids=["C-FIND", "storage commitment", "QIDO-RS"])
def test_the_next_one_proves_what_it_has_through_an_outage_of_its_own(
    tmp_path: Path, kind: Callable[[WebEdge], str]
) -> None:
    """The far one is killed while it receives: what it proves afterwards is there, and each object once."""
    near, far = make_gateways(tmp_path, 2)
    configure(near, kind(far) + '[route.all]\nto = ["far"]\n')
    services = '["echo", "store", "commit", "query"]'
    back = f'host = "127.0.0.1"\nhosts = ["127.0.0.1"]\nport = {near.port}\nservices = {services}\n'
    nobody = '[destination.nobody]\nae_title = "NOBODY"\nhost = "127.0.0.1"\nport = 9\n[route.all]\nto = ["nobody"]\n'
    configure(far, f'[modality.near]\nae_title = "EDGE"\n{back}{nobody}')
    files = ct_files(tmp_path / "ct", 40, 20_000)
    with near:
        with far:
            storescu(files[:20], near.port)
            wait_until(lambda: count_here(far) > 0, 30, "some are there", interval=0.1)
            far.kill()
        storescu(files[20:], near.port)
        with far:
            confirmed = lambda: near.api_status()["destinations"]["far"]["confirmed"]  # noqa: E731
            wait_until(lambda: confirmed() == 40, 90, "all are proved", interval=0.5)
            assert count_here(far) == 40


@pytest.mark.parametrize("kind", [dimse, web])
def test_what_is_urgent_overtakes_at_each_hop(tmp_path: Path, kind: Callable[[str, Edge], str]) -> None:
    """What waited through an outage arrives with the urgent ones first, at the archive behind the second gateway."""
    near, far = make_gateways(tmp_path, 2)
    archive = StoreScp(tmp_path / "archive", "ARCHIVE")
    routes = '[route.stat]\nto = ["far"]\npriority = "stat"\nwhen = { Modality = "MR" }\n[route.all]\nto = ["far"]\n'
    configure(near, kind("far", far) + routes)
    one = "associations = 1\n"
    behind = f'[destination.archive]\nae_title = "ARCHIVE"\nhost = "127.0.0.1"\nport = {archive.port}\n{one}'
    configure(far, behind + '[route.all]\nto = ["archive"]\n')
    routine = ct_files(tmp_path / "routine", 30, 20_000)
    stat = ct_files(tmp_path / "stat", 3, 20_000, Modality="MR")
    with near:
        storescu([*routine, *stat], near.port)
        with far:
            wait_until(lambda: count_here(far) == 33, 60, "all at the second gateway", interval=0.2)
            listed = json.loads(far.cli("queue", "list", "--json", "--limit", "100").stdout)
            urgent = {each["sop_instance_uid"] for each in listed if each["priority"] == "stat"}
            assert urgent == set(map(sop_instance_uid, stat))
            with archive:
                wait_until(lambda: len(archive.uids()) == 33, 60, "all at the archive", interval=0.2)
                in_order = sorted(archive.files(), key=lambda path: path.stat().st_mtime_ns)
                assert set(map(sop_instance_uid, in_order[:3])) == urgent
