"""Every button of an alert, pressed: what waits goes on, the alert ends where the gateway alone can end it, and who
pressed it is in the ledger. The alerts are staged on a real catalog, as test_advice stages them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.config.alarms import ALERT_KINDS
from edge.console.access import Access
from edge.console.alert_acting import act_on_alert, offered_to
from edge.console.alert_actions import _ACTIONS, _SUBJECTS, actions_of
from edge.daemon.changes import CHANGES, RELEASER_DECISIONS
from edge.errors import EdgeError
from edge.model import Outcome
from edge.monitor.status_document import status_json
from edge.storage.release import Releaser
from edge.storage.repair import Repairer
from edge.web.accounts import UserRole
from tests.monitor import test_advice as staging
from tests.monitor.test_advice import Site

ANNA: Any = SimpleNamespace(name="anna", may=lambda role: role <= UserRole.ADMIN)


class Pressed:
    """A site, and a person before its alerts."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.access = Access(site.db, site.spool, lambda: site.config, site.directory, self.status, self.ask)

    def status(self) -> Any:
        return status_json(self.site.seen())

    def ask(self, name: str, request: dict[str, Any]) -> Any:
        site = self.site
        if name == "repair":
            repairer = Repairer(site.db, site.spool, lambda: site.config)
            return {"mended": [asdict(repairer.repair(each)) for each in request["ids"]]}
        if name in RELEASER_DECISIONS:
            return RELEASER_DECISIONS[name](Releaser(site.db, site.spool, site.intake), request)
        return CHANGES[name](site.db, request)

    def alert(self, kind: str) -> dict[str, Any]:
        self.site.look()
        return next(each for each in self.status()["alerts"] if each["kind"] == kind)

    def press(self, kind: str, name: str, reason: str = "as advised") -> str:
        return act_on_alert(self.access, ANNA, self.alert(kind)["id"], name, reason)


@pytest.fixture
def pressed(tmp_path: Path) -> Iterator[Pressed]:
    with Site(tmp_path) as site:
        yield Pressed(site)


def late(site: Site) -> None:
    site.receive(2)
    site.settle("archive", 2, Outcome.DEFER, "no answer")
    site.execute("UPDATE delivery SET queued_at = queued_at - ?", staging.DAY)


def without_contradiction(site: Site) -> None:
    """What the parked merge contradicts is no longer known: it can be applied, and releases what waits behind it."""
    site.execute("UPDATE known_patient SET survivor_id = NULL")


def refused_steps(site: Site) -> None:
    """A target has refused what a scanner reports of an examination."""
    who = "'CT1', 'EDGE', '10.10.4.21', 'ct1', 'CT1', 'CT', 'PPS1', '', ''"
    site.execute(f"INSERT INTO performed_step VALUES (1, '1.2.3', 'COMPLETED', x'00', {who}, 0, 1, 1, 0, 0, 1)")
    message = "1, 1, 'create', 1, 'record', '1.2.3', '1.2.840.10008.1.2.1', x'00', 1, 1"
    site.execute(f"INSERT INTO step_message VALUES ({message})")
    site.execute("INSERT INTO step_delivery (message_id, step_id, destination, state, not_before, ended_at)"
                 " VALUES (1, 1, 'archive', 'held', 0, 5)")  # fmt: skip


@dataclass(frozen=True)
class Button:
    kind: str
    name: str
    stage: Callable[[Site], Any]
    says: str
    before: Callable[[Site], Any] = staging.nothing  # what a person does first: the cause
    count: str = ""  # a statement that counts what goes on now, and
    goes: int = 0  # its result
    ends: bool = True  # the alert is over at once


PENDING = "SELECT count(*) FROM delivery WHERE state = 'pending' AND destination = 'archive'"
ROUTED = "SELECT count(*) FROM delivery WHERE state = 'pending'"
RELAYED = "SELECT count(*) FROM hl7_relay WHERE state = 'waiting' AND not_before = 0"
BUTTONS = [
    Button("destination-down", "try", staging.live(destinations={"archive": staging.Link("down")}),
           "archive is tried at once", ends=False),
    Button("destination-removed", "retire", staging.removed, "2 deliveries for gone cancelled"),
    Button("backlog-old", "retry", late, "2 images for archive queued to be sent", count=PENDING, goes=2, ends=False),
    Button("work-held", "retry-held", staging.refused, "2 images for archive queued", count=PENDING, goes=2),
    Button("unroutable", "route", staging.unrouted, "2 images of 3 sent by the routes",
           lambda site: (staging.add_route(site), site.reload()), ROUTED, 2),
    Button("lost", "repair", lambda site: staging.damaged(site, sent=False), "0 files of 1 whole again", ends=False),
    Button("channel-stuck", "resend", staging.parked, "queued to be sent",
           count="SELECT count(*) FROM message WHERE parked_at IS NULL", goes=1, ends=False),
    Button("hl7-parked", "replay", staging.circle, "2 messages applied", without_contradiction,
           "SELECT count(*) FROM hl7_message WHERE state = 'applied'", 4),
    Button("charset-wrong", "reread", staging.doubtful, "1 message read again",
           lambda site: (staging.with_charset(site), site.reload()),
           "SELECT count(*) FROM known_patient WHERE name = 'MÜLLER^RENÉ'", 1, ends=False),
    Button("relay-held", "relay-again", staging.relayed("held"), "1 message for vna queued to be sent",
           count="SELECT count(*) FROM hl7_relay WHERE state = 'waiting'", goes=1),
    Button("relay-stuck", "relay-now", staging.relayed("waiting"), "1 message for vna due at once", ends=False),
    Button("work-held", "steps-again", refused_steps, "1 message for archive queued to be sent",
           count="SELECT count(*) FROM step_delivery WHERE state = 'pending'", goes=1),
    Button("worklist-stale", "ask-now", staging.ris_is_away, "archive is asked at once", ends=False),
]  # fmt: skip


@pytest.mark.parametrize("button", BUTTONS, ids=lambda each: f"{each.kind}-{each.name}")
def test_a_button_does_what_it_says(pressed: Pressed, button: Button) -> None:
    site = pressed.site
    button.stage(site)
    number = pressed.alert(button.kind)["id"]
    button.before(site)
    assert button.says in act_on_alert(pressed.access, ANNA, number, button.name, "as advised")
    if button.count:
        assert site.one(button.count) == button.goes
    by_anna = "SELECT count(*) FROM ledger WHERE who = 'anna' AND payload LIKE '%as advised%'"
    if button.kind not in ("channel-stuck", "lost"):  # which change nothing that a person could decide about
        assert site.one(by_anna) > 0
    site.look()
    still = [each for each in pressed.status()["alerts"] if each["kind"] == button.kind]
    assert bool(still) != button.ends


def test_every_alert_has_the_page_of_its_subject() -> None:
    assert set(ALERT_KINDS) <= set(_SUBJECTS)


def test_every_button_is_pressed() -> None:
    steps = {"steps-again"}
    assert {each.name for each in BUTTONS} == steps | {one.name for found in _ACTIONS.values() for one in found}


def test_a_button_needs_its_role_and_an_open_alert(pressed: Pressed) -> None:
    staging.removed(pressed.site)
    alert = pressed.alert("destination-removed")
    operator: Any = SimpleNamespace(name="otto", may=lambda role: role <= UserRole.OPERATOR)
    assert offered_to(operator, alert) == ()
    assert [each.name for each in offered_to(ANNA, alert)] == [each.name for each in actions_of(alert)]
    for visitor, number, name, reason, says in (
        (operator, alert["id"], "retire", "x", "requires the role admin"),
        (ANNA, alert["id"], "repair", "x", "Choose an action"),
        (ANNA, 999, "retire", "x", "This alert is over"),
    ):
        with pytest.raises(EdgeError, match=says):
            act_on_alert(pressed.access, visitor, number, name, reason)
