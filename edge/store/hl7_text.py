"""Words for what became of an HL7 message; the catalog has codes."""

from __future__ import annotations

from edge.store.hl7_messages import ListedMessage, MessageState

_PARKED = {
    "merge-cycle": "its merge would make a circle",
    "identifier-in-use": "its identifiers belong to different patients here",
    "account-moved": "it moves an account or visit, and orders or images of the patient are here",
    "behind-another": "it waits behind message {behind} of the same patient",
    "unexpected": "the gateway met a fault of its own",
}
_NOTES = {
    "hl7-control-id-reused": "its control ID was used for other bytes",
    "charset-wrong": "its character set is not known or does not fit: texts are in doubt",
    "charset-guessed": "its character set is guessed",
    "merged-id-used": "its number was merged into another: nothing changed",
    "merge-reversed": "it reverses an earlier merge",
    "accession-reused": "its accession number is another order's",
    "name-changed": "characters that a DICOM name cannot have were replaced",
}


def describe_outcome(message: ListedMessage) -> str:
    """Why a message is parked or refused; empty for others."""
    if message.state == MessageState.PARKED:
        return _PARKED.get(message.reason, message.reason).format(behind=message.behind_id)
    if message.state == MessageState.REFUSED:
        return f"answered {message.reason} for {message.field}"
    return ""


def describe_notes(notes: str) -> str:
    return "; ".join(_NOTES.get(note, note) for note in notes.split(",") if note)
