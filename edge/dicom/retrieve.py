"""C-GET of one instance (PS3.4 section C.4.3): a destination gives back what it was sent, on our own association.

`get` hands the data set's bytes to a sink as they come. PeerError when the peer or the network fails, ServiceRefused
when the peer does not offer the service or does not have the instance; every wait and length is bounded.
"""

from __future__ import annotations

from edge.config.sections import Destination
from edge.dicom.acse import Context, Role
from edge.dicom.command import SUCCESS, CommandField, Element
from edge.dicom.commitment import STEP_SECONDS, find_identifier
from edge.dicom.dialogue import Deadline, DimseMessage
from edge.dicom.failures import ServiceRefused
from edge.dicom.pdu import Sink
from edge.dicom.scu import Association, Secure, associate
from edge.dicom.uids import EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN, STUDY_ROOT_GET
from edge.errors import ProtocolError
from edge.model import ContextKey

GET, STORE = 1, 3  # presentation contexts
#: Seconds for the whole of one C-GET.
GET_SECONDS = 300.0


def get(
    destination: Destination,
    calling_ae: str,
    kind: ContextKey,
    study_uid: str,
    series_uid: str,
    uid: str,
    sink: Sink,
    secure: Secure | None = None,
) -> None:
    """Have the destination send one instance, in the transfer syntax of `kind`; its data set's bytes go to `sink`.

    Returns when the whole data set has been handed over. What the sink raises ends the association.
    """
    contexts = [
        Context(GET, STUDY_ROOT_GET, (EXPLICIT_VR_LITTLE_ENDIAN, IMPLICIT_VR_LITTLE_ENDIAN)),
        Context(STORE, kind.sop_class_uid, (kind.transfer_syntax_uid,)),
    ]
    roles = {kind.sop_class_uid: Role(scu=False, scp=True)}
    services = {GET: "C-GET", STORE: "to give back objects of this kind"}
    with associate(
        destination, calling_ae, contexts, services, roles=roles, seconds=STEP_SECONDS, secure=secure
    ) as association:
        identifier = find_identifier(study_uid, series_uid, [uid], association.accepted[GET])
        _get(association, identifier, uid, sink)


def _get(association: Association, identifier: bytes, uid: str, sink: Sink) -> None:
    """One C-GET: the C-STOREs that come on the same association, until its final response."""
    deadline, received = Deadline(GET_SECONDS, STEP_SECONDS), list[str]()

    def take(views: list[memoryview]) -> None:
        deadline.left()
        sink(views)

    def store(message: DimseMessage) -> None:
        if message.field != CommandField.C_STORE_RQ or not message.command.has_data_set:
            raise ProtocolError(f"a message {message.field:04X} came where an object or the end of the C-GET was due")
        if message.command.text(Element.AFFECTED_SOP_INSTANCE_UID) != uid or received or message.context != STORE:
            raise ProtocolError("an object came that was not asked for")
        received.append(uid)
        association.read_into(message, take)
        association.respond(message, SUCCESS)

    request: dict[int, int | str] = {
        Element.AFFECTED_SOP_CLASS_UID: STUDY_ROOT_GET,
        Element.COMMAND_FIELD: CommandField.C_GET_RQ,
        Element.PRIORITY: 0,  # medium
    }
    status = SUCCESS
    for answer in association.request(GET, request, identifier, deadline=deadline, serve=store):
        association.skip(answer)  # the Failed SOP Instance UID List
        status = answer.status
    if status != SUCCESS:
        raise ServiceRefused(f"C-GET ended with status {status:04X}")
    if not received:
        raise ServiceRefused("C-GET gave no object where one was asked for: the destination does not have it")
