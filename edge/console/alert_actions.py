"""The actions that a page offers for each alert: the page of its subject, and what a person can do about it. Pure.

An action is a command of the gateway with a reason. The advice of mails and of `edge alerts` names commands of the
shell for the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from edge.monitor.alerts.services import STEPS_SUBJECT
from edge.web.accounts import UserRole


@dataclass(frozen=True, slots=True)
class AlertAction:
    """One button of an alert."""

    name: str  # in the form
    label: str
    effect: str  # what it does, for a person who is about to do it
    role: UserRole = UserRole.OPERATOR


@dataclass(frozen=True, slots=True)
class AlertSubject:
    """The page on which the subject of an alert is."""

    path: str
    label: str


TRY_NOW = AlertAction("try", "Try it now", "The gateway tests at once whether it answers, and then sends.")
RETRY = AlertAction("retry", "Send again now", "Deferred and refused images are sent again at once.")
RETRY_HELD = AlertAction("retry-held", "Try the refused ones again", "Images that it refused are sent again at once.")
ROUTE = AlertAction("route", "Apply the routes again", "Images that a route matches now are sent by it.")
REPAIR = AlertAction("repair", "Fetch them again", "Each file is fetched from a destination that has it, if one has.")
RESEND = AlertAction("resend", "Send its messages again", "Messages that were refused are sent again, in their order.")
REPLAY = AlertAction("replay", "Apply them again", "Messages that agree with what is known by now are applied.")
REREAD = AlertAction("reread", "Read them again", "Their texts are read in the character set that the feed has now.")
RELAY_AGAIN = AlertAction("relay-again", "Send them again", "Messages that it refused are sent again, in their order.")
RELAY_NOW = AlertAction("relay-now", "Try it now", "The gateway connects at once, and sends what waits in order.")
STEPS_AGAIN = AlertAction("steps-again", "Send them again", "Messages that it refused or lacks are sent again at once.")
ASK_NOW = AlertAction("ask-now", "Ask it now", "The source of the worklist is asked at once.")
RETIRE = AlertAction(
    "retire", "Retire the destination", "Nothing more is sent to it: its deliveries are cancelled.", UserRole.ADMIN
)

_QUEUE = ("/queue?destination={}", "Its queue")
#: kind -> (page of the subject, label of the link); {}: the subject.
_SUBJECTS: Mapping[str, tuple[str, str]] = {
    **dict.fromkeys(("destination-down", "destination-removed", "backlog-old", "unconfirmed"), _QUEUE),
    "work-held": ("/queue?state=held&destination={}", "What is held"),
    "lost": ("/exceptions?kind=lost", "The files"),
    "conflict": ("/exceptions?kind=conflict", "The conflicts"),
    "quarantine": ("/exceptions?kind=quarantined", "The objects"),
    "quarantine-full": ("/exceptions?kind=quarantined", "The objects"),
    "patient-mismatch": ("/exceptions?kind=mismatch", "The images"),
    "unroutable": ("/exceptions?kind=unroutable", "The images"),
    "configuration-rejected": ("/configuration", "The configuration"),
    "commitment-unreported": ("/commitments", "The requests"),
    **dict.fromkeys(("modality-silent", "unknown-equipment", "new-modality"), ("/equipment", "The equipment")),
    **dict.fromkeys(
        ("storage-filling", "storage-refusing", "storage-unhealthy", "disk-failing"), ("/#disk", "The disk")
    ),
    "certificate-expiring": ("/configuration", "The configuration"),
    "channel-stuck": ("/configuration", "The configuration"),
    **dict.fromkeys(("clock-skew", "clock-was-wrong", "unscheduled-downtime"), ("/#foot", "The gateway")),
    "ledger-broken": ("/studies", "The studies"),
    **dict.fromkeys(("hl7-parked", "feed-silent", "relay-held", "relay-stuck", "charset-wrong"), ("/hl7", "HL7")),
    **dict.fromkeys(("merged-id-used", "merge-reversed", "hl7-control-id-reused"), ("/hl7", "HL7")),
    **dict.fromkeys(("order-missing", "accession-reused"), ("/orders", "The orders")),
    "import-waiting": ("/import", "The imports"),
    "images-missing": ("/steps", "The performed step"),
    **dict.fromkeys(("worklist-stale", "prior-mismatch"), ("/worklist", "The worklist")),
    "equipment-changed": ("/equipment", "The equipment"),
    **dict.fromkeys(("lossy-received", "dose-report-missing"), ("/figures", "The figures")),
    "restore-untried": ("/help/guide/restore-to-a-new-machine", "How to try it"),
}
_ACTIONS: Mapping[str, tuple[AlertAction, ...]] = {
    "destination-down": (TRY_NOW,),
    "destination-removed": (RETIRE,),
    "backlog-old": (RETRY,),
    "work-held": (RETRY_HELD,),
    "unroutable": (ROUTE,),
    "lost": (REPAIR,),
    "channel-stuck": (RESEND,),
    "hl7-parked": (REPLAY,),
    "charset-wrong": (REREAD,),
    "relay-held": (RELAY_AGAIN,),
    "relay-stuck": (RELAY_NOW,),
    "worklist-stale": (ASK_NOW,),
}


def subject_of(alert: Mapping[str, Any]) -> AlertSubject:
    """Return the page on which the subject of an alert is; of an unknown kind the queue."""
    if is_about_steps(alert):
        return AlertSubject("/steps", "The performed steps")
    path, label = _SUBJECTS.get(alert["kind"], ("/queue", "The queue"))
    return AlertSubject(path.format(quote(str(alert["subject"]), safe="")), label)


def actions_of(alert: Mapping[str, Any]) -> tuple[AlertAction, ...]:
    """Return what a person can do about an alert, besides acknowledging it."""
    if is_about_steps(alert):
        return (STEPS_AGAIN,)
    return _ACTIONS.get(alert["kind"], ())


def is_about_steps(alert: Mapping[str, Any]) -> bool:
    """Whether an alert about a destination is about messages of performed steps, and not about images."""
    return str(alert["subject"]).startswith(STEPS_SUBJECT)
