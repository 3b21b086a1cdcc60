"""Alerts about what equipment and RIS exchange: performed steps, and the images that belong to them."""

from __future__ import annotations

from collections.abc import Iterator

from edge.monitor.alerts.observed import Observed, alert
from edge.monitor.snapshot_model import Action, Alert
from edge.text import amount, printable, span

LIST_STEPS = Action("{} lists them", ("edge", "mpps", "list", "--open"))
SAFE = "the images are not concerned; the RIS shows these examinations as not performed until then"


#: Begins the subject of alerts about messages to a target, which is also a destination of images.
STEPS_SUBJECT = "performed steps for "


def _subject_of(destination: str) -> str:
    return f"{STEPS_SUBJECT}{destination}"


def steps_held(seen: Observed) -> Iterator[Alert]:
    """Steps that a target has refused permanently."""
    for each in seen.owed_steps:
        if each.held:
            why = f" ({printable(each.last_error)})" if each.last_error else ""
            show = Action("{} shows what was refused", ("edge", "mpps", "show", "ID"))
            retry = Action("once the cause is removed, {} tries again", ("edge", "mpps", "retry", "ID"))
            what = f"{amount(each.held, 'performed step')} refused by {each.destination}{why}"
            since = each.held_since or each.oldest_at
            yield alert(_subject_of(each.destination), since, what, SAFE, LIST_STEPS, show, retry)


def steps_late(seen: Observed) -> Iterator[Alert]:
    """Steps that do not get through to a target."""
    limit = seen.threshold("backlog-old")
    for each in seen.owed_steps:
        waiting = seen.at - each.oldest_at
        if each.open and waiting > limit:
            why = f" ({printable(each.last_error)})" if each.last_error else ""
            what = f"Messages of performed steps for {each.destination} wait for {span(waiting)}{why}"
            probe = Action("{} says whether it answers", ("edge", "echo", each.destination))
            yield alert(_subject_of(each.destination), each.oldest_at + limit, what, SAFE, LIST_STEPS, probe)


def images_missing(seen: Observed) -> Iterator[Alert]:
    """Images that a modality has announced and not sent. It names the number of the study, and no patient."""
    for each in seen.missing_images:
        subject = f"study {each.study_id}" if each.study_id is not None else f"performed step {each.step_id}"
        number = str(each.step_id)
        yield alert(
            subject,
            each.ended_at,
            f"{each.missing:,} of {amount(each.named, 'image')} that {printable(each.calling_ae)} announced for"
            f" {subject} have not come",
            "they are still on the equipment, if they were taken",
            Action("have them sent again there"),
            Action("{} says which step it was", ("edge", "mpps", "show", number)),
        )


def priors_foreign(seen: Observed) -> Iterator[Alert]:
    """Earlier studies that an archive keeps under the number of a patient with an appointment, and that are another's.

    They were not fetched. It names no patient.
    """
    for each in seen.foreign_priors:
        yield alert(
            f"earlier studies at {each.source}",
            each.noted_at,
            f"{amount(each.count, 'earlier study')} at {each.source} {'has' if each.count == 1 else 'have'} the patient"
            " number of an appointment, and another patient's name and birth date",
            "it is not fetched, and is not shown as the patient's",
            Action("compare the patient of the appointment with the archive's, and correct the one that is wrong"),
            Action("{} lists them", ("edge", "prefetch", "list")),
        )


def import_waiting(seen: Observed) -> Iterator[Alert]:
    """Staged studies that nobody has decided about. No patient is named."""
    waiting, limit = seen.imports, seen.threshold("import-waiting")
    if waiting.count and waiting.since is not None and seen.at - waiting.since > limit:
        yield alert(
            "imports",
            waiting.since + limit,
            f"{amount(waiting.count, 'imported study')} {'waits' if waiting.count == 1 else 'wait'} until a person says"
            " whose it is",
            "nothing of it is sent; what was read is kept here",
            Action("{} names the imports", ("edge", "import", "list")),
            Action("`edge import assign` says whose a study is"),
            Action("or {} decides that it is not imported", ("edge", "import", "discard", "ID", "--reason", "...")),
        )


#: A refresh that fails once may be the network; from the second one on it is an alert.
STALE_FAILURES = 2


def worklist_stale(seen: Observed) -> Iterator[Alert]:
    """A list that could not be refreshed twice in a row."""
    for each in seen.worklist.sources:
        if each.failures < STALE_FAILURES or each.failed_at is None:
            continue
        why = f" ({printable(each.last_error)})" if each.last_error else ""
        age = "there has been none yet" if each.as_of is None else f"the last one is {span(seen.at - each.as_of)} old"
        what = f"The worklist{f' of {each.view}' if each.view else ''} cannot be refreshed{why}; {age}"
        means = "images are not concerned; modalities are served the last list until it is older than worklist.keep"
        probe = Action("{} says whether its source answers", ("edge", "echo", seen.worklist.source))
        again = Action("once it does, {} asks it at once", ("edge", "worklist", "refresh", "--reason", "..."))
        yield alert(each.view or "worklist", each.failed_at, what, means, probe, again)
