"""The ledger copy of a lost gateway (its folder data_dir/journal), for a restore: who sent what, and when,
and which studies are under a legal hold. It is plain text; a site keeps a copy of it elsewhere (docs/guide/backup.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edge.errors import EdgeError
from edge.model import Origin
from edge.storage.rebuild.history import History
from edge.store import ledger
from edge.store.ledger_copy import Journal
from edge.store.legal_holds import LegalHold

_HOLDS = (ledger.LEGAL_HOLD, ledger.LEGAL_RELEASE)


@dataclass(frozen=True, slots=True)
class LostGateway:
    """SOP Instance UID -> where it came from; and the legal holds, ended ones too."""

    origins: dict[str, Origin] = field(default_factory=dict)
    holds: list[LegalHold] = field(default_factory=list)


def read_ledger_copy(folder: Path) -> LostGateway:
    """Read the copy; `folder`: the one with the `.jsonl` files. Raises EdgeError where there is none."""
    origins: dict[str, Origin] = {}
    history = History()
    for each in Journal.open_folder(folder).entries():
        if each.event == ledger.RECEIVED and each.file is not None:
            file = each.file
            origins[file.sop_instance_uid] = Origin(file.calling_ae, file.called_ae, file.address, file.received_at)
        elif each.event in _HOLDS:
            history.learn(each)
    if not origins:
        raise EdgeError(f"{folder} has no copy of a custody ledger: files such as 2026-11-28.jsonl")
    return LostGateway(origins, [hold for holds in history.legal.values() for hold in holds])
