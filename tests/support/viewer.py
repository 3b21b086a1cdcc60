"""A viewer that finds and gets studies, and the configuration of a gateway that asks archives as well."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge.dicom import items
from edge.dicom.acse import Context, Role
from edge.dicom.command import CommandField, Element
from edge.dicom.dialogue import PENDING, Deadline, DimseMessage
from edge.dicom.scu import Association
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_FIND, STUDY_ROOT_GET, VERIFICATION
from tests.support.committing import CT_CLASS

THROUGH = """
[query]
through = [{names}]
complete_as = "EDGEALL"
[modality.any]
ae_title = "*"
services = ["echo", "store", "query", "retrieve"]
associations = 500
"""
ARCHIVE = '[destination.{name}]\nae_title = "{title}"\nhost = "127.0.0.1"\nport = {port}\n'
#: Called by this title, no answer that lacks an archive's is a success.
COMPLETE = "EDGEALL"
LEVEL, STUDY_UID, SERIES_UID, SOP_UID, PATIENT_ID = 0x00080052, 0x0020000D, 0x0020000E, 0x00080018, 0x00100020
FIND, GET, CT, ECHO = 1, 3, 5, 7  # contexts


@dataclass
class Got:
    """What a viewer got: the final status, and each object's data set."""

    status: int = -1
    objects: dict[str, bytes] = field(default_factory=dict)
    failed: int = 0
    answers: list[items.Attributes] = field(default_factory=list)


def associate(port: int, called: str = "EDGE") -> Association:
    classes = {FIND: STUDY_ROOT_FIND, GET: STUDY_ROOT_GET, CT: CT_CLASS, ECHO: VERIFICATION}
    contexts = [Context(number, uid, (EXPLICIT_VR_LITTLE_ENDIAN,)) for number, uid in classes.items()]
    return Association.open("127.0.0.1", port, "VIEWER", called, contexts, roles={CT_CLASS: Role(scu=False, scp=True)})


def ask(association: Association, context: int, keys: dict[int, str]) -> Got:
    """One C-FIND or C-GET. Raises PeerError."""
    got = Got()

    def take(message: DimseMessage) -> None:
        data = association.read(message, most=1 << 24)
        got.objects[message.command.text(Element.AFFECTED_SOP_INSTANCE_UID)] = data
        association.respond(message, 0)

    field_of, uid = {FIND: (CommandField.C_FIND_RQ, STUDY_ROOT_FIND), GET: (CommandField.C_GET_RQ, STUDY_ROOT_GET)}[
        context
    ]
    request: dict[int, int | str] = {
        Element.COMMAND_FIELD: field_of,
        Element.AFFECTED_SOP_CLASS_UID: uid,
        Element.PRIORITY: 0,
    }
    data = items.encode_items(items.item(keys), EXPLICIT_VR_LITTLE_ENDIAN)
    for answer in association.request(context, request, data, deadline=Deadline(300, 120), serve=take):
        body, got.status = association.read(answer), answer.status
        failed = answer.command.get(Element.FAILED)
        got.failed = failed if isinstance(failed, int) else got.failed
        if context == FIND and body and answer.status in PENDING:
            got.answers.append(items.decode_items(body, EXPLICIT_VR_LITTLE_ENDIAN))
    return got


def call(port: int, context: int, keys: dict[int, str], called: str = "EDGE") -> Got:
    """On an association of its own."""
    association = associate(port, called)
    try:
        got = ask(association, context, keys)
    except BaseException:
        association.abort()
        raise
    association.release()
    return got


def study_keys(uid: str) -> dict[int, str]:
    return {LEVEL: "STUDY", STUDY_UID: uid}
