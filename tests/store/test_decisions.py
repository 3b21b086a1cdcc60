"""A person's decisions about the queue, and the console's first sentence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.console.headline import summarize_status
from edge.model import Priority
from edge.monitor.alerts import Observed, alerts
from edge.monitor.live import Live
from edge.monitor.snapshot_model import DestinationStatus as Destination
from edge.monitor.snapshot_model import Held, Instances, Queue
from edge.monitor.snapshot_model import Storage as Room
from edge.store import leases, ledger, operator_actions
from edge.text import iso
from tests.support.gateway import CONFIG, Receiving
from tests.support.objects import ct_files
from tests.support.peers import storescu

NOW = 1_800_000_000.0
OTHER = """
[destination.other]
ae_title = "OTHER"
host = "127.0.0.1"
port = 105
[route.everything-else]
to = ["other"]
when = { StationName = "BOTH" }
"""


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Receiving]:
    with Receiving(tmp_path, CONFIG + OTHER) as made:
        storescu(ct_files(tmp_path / "one", 1, 2048), made.port)
        made.settle()  # the numbers are in the order of application
        storescu(ct_files(tmp_path / "both", 1, 2048, StationName="BOTH"), made.port)
        made.settle()
        yield made


def rows(gateway: Receiving) -> list[tuple[Any, ...]]:
    return gateway.rows("SELECT instance_id, destination, state, priority FROM delivery ORDER BY instance_id, id")


def tally(gateway: Receiving) -> list[tuple[Any, ...]]:
    return gateway.rows("SELECT destination, sum(n) FROM tally GROUP BY destination HAVING sum(n) ORDER BY 1")


def test_a_priority_is_changed_once_and_recorded(gateway: Receiving) -> None:
    def change(conn: Any) -> int:
        return operator_actions.set_priority(conn, [1, 2, 99], Priority.STAT, NOW, "anna", "the ward waits")

    assert gateway.db.write(change) == 2
    assert gateway.db.write(change) == 0
    assert [row[3] for row in rows(gateway)].count(0) == 2
    told = gateway.rows("SELECT who, words(event, detail, payload) FROM ledger WHERE event = 'overridden'")
    assert told == [("anna", "priority stat: the ward waits")] * 2
    with gateway.db.reading() as conn:
        assert ledger.check(conn) is None


def test_what_goes_elsewhere_goes_there_instead_and_never_twice(gateway: Receiving) -> None:
    assert tally(gateway) == [("archive", 2), ("other", 1)]
    assert gateway.db.write(lambda conn: operator_actions.hold(conn, [1], NOW, "anna", "why")) == 1
    moved = gateway.db.write(
        lambda conn: operator_actions.reassign(conn, [1, 2, 3], "other", NOW, "anna", "it is away")
    )
    assert moved == 2  # the second instance has a delivery to the other one already: it is only cancelled here
    assert rows(gateway)[0] == (1, "other", "pending", 2)
    assert [row[2] for row in rows(gateway) if row[1] == "archive"] == ["cancelled"]
    assert tally(gateway) == [("archive", 1), ("other", 2)]
    [told] = gateway.rows(
        "SELECT who, destination, words(event, detail, payload) FROM ledger WHERE event = 'overridden'"
    )
    assert told == ("anna", "other", "instead of archive: it is away")


def test_what_is_under_way_or_done_stays(gateway: Receiving) -> None:
    gateway.db.write(lambda conn: leases.lease(conn, "archive", "node", NOW, 10, 10**9))
    assert gateway.db.write(lambda conn: operator_actions.reassign(conn, [1, 2], "other", NOW, "anna", "")) == 0
    assert (
        gateway.db.write(lambda conn: operator_actions.set_priority(conn, [1, 2], Priority.STAT, NOW, "anna", "")) == 0
    )


# -- the first sentence ------------------------------------------------------------------------------------------------


def status(**changes: Any) -> dict[str, Any]:
    """What the status says, with the alerts that the rules make of it."""
    there = changes.pop("destination", Destination("archive"))
    room, held = changes.pop("room", Room(0.3, 10**9)), changes.pop("held", ())
    live = Live(changes.get("state", "running"), unhealthy=changes.pop("unhealthy", ""))
    seen = Observed(NOW, "EDGE", "Edge", "1", live, NOW, Instances(), Queue(), [there], room, held=held)
    told = [
        {"kind": a.kind, "subject": a.subject, "severity": a.severity, "since": iso(a.since), "what": a.what,
         "means": a.means, "do": a.do} for a in alerts(seen)
    ]  # fmt: skip
    waiting = {"pending": there.pending, "deferred": there.deferred, "state": there.state, "refuses": there.refuses}
    return {
        "state": "running",
        "since": iso(NOW),
        "instances": {"received": 5},
        "queue": {"pending": there.pending, "active": 0, "deferred": there.deferred, "held": 0, "bytes": 5_000},
        "destinations": {"archive": waiting},
        "alerts": told,
        **changes,
    }


@pytest.mark.parametrize(
    ("seen", "level", "headline", "detail"),
    [
        (status(), "good", "All is well.", "Everything received has been sent."),
        (status(instances={"received": 0}), "good", "All is well.", "no image has been received yet"),
        (status(destination=Destination("archive", pending=3)), "good", "All is well.", "3 images (5 KB) are being"),
        (status(state="starting"), "idle", "The gateway is starting.", "safe on disk"),
        (
            status(destination=Destination("archive", state="down", pending=1, since=NOW - 60)),
            "bad", "Archive does not answer.", "1 image for it waits safely on this disk and is sent",
        ),
        (
            status(destination=Destination("archive", state="down", refuses=True, pending=2)),
            "bad", "Archive answers, but refuses images.", "are sent automatically when it takes them.",
        ),
        (status(destination=Destination("archive", state="down")), "bad", "Archive does not answer.", "No image waits"),
        (status(room=Room(0.97, 10**9), state="refusing"), "bad", "Scanners are refused: the disk is full.", "safe"),
        (status(unhealthy="EIO"), "bad", "Scanners are refused: the storage has failed.", "kept"),
        (status(held=(Held("archive", 2, NOW, "A900"),)), "warn", "Images for archive wait for a person's", "disk"),
        (
            status(held=(Held("", 2, NOW, ""),), destination=Destination("archive", state="down")),
            "bad", "Archive does not answer.", " 1 more alert below.",
        ),
    ],
)  # fmt: skip
def test_the_headline_of_a_status(seen: dict[str, Any], level: str, headline: str, detail: str) -> None:
    found = summarize_status(seen)
    assert found.level == level
    assert found.text.startswith(headline)
    assert detail in found.detail
    assert (found.since is None) == (level == "good")
