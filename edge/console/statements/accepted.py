"""The presentation contexts that are accepted: asked of the code that negotiates (edge.scp.services.choose).

Every SOP class of PS3.6 is asked for, and each kind of caller that the configuration names: so a statement cannot
differ from what an association gets. A test compares them all the same, over the wire.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge.config.sections import Config, Modality
from edge.dicom.acse import Context
from edge.dicom.uids import TRANSFER_SYNTAXES
from edge.model.dictionary import STANDARD_UIDS
from edge.scp import services
from edge.scp.admission import Admission, admit
from edge.scp.services.service import Service

#: Stands for every SOP class and transfer syntax that the standard does not name.
PRIVATE = "1.2.826.0.1.3680043.10.1"
#: Transfer syntaxes that callers are expected to propose (PS3.6 annex A), and a private one.
PROPOSED_SYNTAXES = (*TRANSFER_SYNTAXES, PRIVATE)


@dataclass(frozen=True, slots=True)
class AcceptedSyntax:
    """One abstract syntax as an SCP, and the transfer syntaxes in which it is accepted; None: in any."""

    abstract_syntax: str
    service: str
    transfer_syntaxes: tuple[str, ...] | None


def abstract_syntaxes() -> list[str]:
    """Every SOP class of PS3.6, retired ones too, and one that is in no table."""
    known = [uid for uid, (_, kind, *_rest) in STANDARD_UIDS.items() if "SOP Class" in kind]
    return [*known, PRIVATE]


def list_accepted(admission: Admission, table: Iterable[Service] | None = None) -> list[AcceptedSyntax]:
    """What a caller is accepted for; `table`: the services, those of the gateway where it is omitted."""
    offered = tuple(services.SERVICES if table is None else table)
    found = []
    for uid in abstract_syntaxes():
        known = [each for each in offered if each.is_for(uid)]
        service = next((each for each in known if each.is_allowed(admission)), None)
        if service is None:
            continue
        accepted = tuple(syntax for syntax in PROPOSED_SYNTAXES if _is_accepted(admission, uid, syntax, offered))
        syntaxes = None if service.transfer_syntaxes is None else accepted
        found.append(AcceptedSyntax(uid, service.name, syntaxes))
    return found


def _is_accepted(admission: Admission, uid: str, syntax: str, offered: tuple[Service, ...]) -> bool:
    if offered == services.SERVICES:
        return services.choose(admission, Context(1, uid, (syntax,))).result == 0
    service = next(each for each in offered if each.is_for(uid) and each.is_allowed(admission))
    return service.transfer_syntaxes is None or syntax in service.transfer_syntaxes


def admission_of(config: Config, modality: Modality) -> Admission:
    """The admission of a modality that calls under its own title, from its own address and certificate."""
    title = modality.ae_title.translate(str.maketrans("*?[]!", "AAAAA"))
    address = modality.hosts[0].partition("/")[0] if modality.hosts else "127.0.0.1"
    found = admit(config, title, address)
    words = frozenset(modality.services)
    return found if found.modality else Admission(modality.name, services=words, way_back=modality.way_back)
