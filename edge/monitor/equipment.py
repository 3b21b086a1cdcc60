"""The equipment that calls: its identity, what it offers, and when it usually sends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import astuple
from fnmatch import fnmatchcase

from edge.config.sections import LEARNED, Config
from edge.model import UNNAMED_CALLER
from edge.monitor.live import Usual
from edge.monitor.snapshot_model import ModalityStatus
from edge.monitor.usual_hours import GONE_DAYS, WEEKS, YEAR_DAYS, days_of, usual
from edge.store import equipment, peers
from edge.store.database import Transaction
from edge.store.equipment import Make
from edge.store.samples import DAY
from edge.store.web_clients import CLIENT_PREFIX
from edge.text import printable

#: More are not shown: a port scan must not fill each status.
MOST_PEERS, MOST_UNKNOWN = 1_000, 50
#: Columns of a peer that its status has as they are.
PEER_COLUMNS = (
    *("ae_title", "address", "first_seen", "last_seen", "stored", "last_stored"),
    *("manufacturer", "model", "serial", "software", "changed_at"),
)


def modalities(conn: Transaction, config: Config, rhythms: Mapping[str, Usual]) -> Iterator[ModalityStatus]:
    """Admitted equipment, the last caller first, then unknown callers; archives that only report are left out."""
    reporting = config.destinations.keys() - config.modalities.keys()
    unknown, makes = 0, equipment.count_makes(conn)
    for row in peers.all_peers(conn, MOST_PEERS):
        unknown += not row["admitted"]
        if row["modality"] in reporting or unknown > MOST_UNKNOWN:
            continue
        known = rhythms.get(row["ae_title"], Usual())
        yield ModalityStatus(
            **{name: row[name] for name in PEER_COLUMNS},
            name=row["modality"],
            admitted=bool(row["admitted"]),
            lacks=row["refused"],
            contexts=tuple((abstract, tuple(syntaxes)) for abstract, syntaxes in json.loads(row["contexts"])),
            usual=known.text,
            missed_at=known.missed_at,
            change=tuple(json.loads(row["change"])),
            makes=makes.get((row["ae_title"], row["address"]), 1),
        )


#: What a make is made of -> the keyword by which objects say it (PS3.3 C.7.5.1).
_MAKE = {
    "manufacturer": "Manufacturer",
    "model": "ManufacturerModelName",
    "serial": "DeviceSerialNumber",
    "software": "SoftwareVersions",
}
LONGEST_NAME = 64
#: Series that are read in one transaction.
SERIES_BATCH = 500


def make_of(facts: Mapping[str, object], known: Make | None) -> Make:
    """The make that an object states; what it does not say is as it is known."""
    said = {name: printable(str(facts.get(keyword, "")))[:LONGEST_NAME].strip() for name, keyword in _MAKE.items()}
    if not any(said.values()):
        return known or Make()
    before = known or Make()
    if any(said[name] and said[name] != getattr(before, name) for name in ("manufacturer", "model", "serial")):
        return Make(**said)  # another device: what it does not say is not what the one before said
    return Make(**{name: said[name] or getattr(before, name) for name in said})


def identify(conn: Transaction) -> bool:
    """Learn the makes of the senders of the next new series; False when there are none left.

    A make that was never seen under a known AE title and address is a change at the time when it came, up to MOST_MAKES
    of them. A series is of one piece of equipment (PS3.3 section A.1.2.5): its first object represents it.
    """
    found = equipment.list_new_series(conn, SERIES_BATCH)
    for each in found:
        known = equipment.current_make(conn, each.ae_title, each.address)
        made = make_of(each.facts, known)
        if known is None or made == known:
            continue
        makes = equipment.makes_of(conn, each.ae_title, each.address)
        if made in makes:
            equipment.keep_current(conn, each.ae_title, each.address, made)
        elif len(makes) < equipment.MOST_MAKES:
            before = None if known == Make() or _completes(known, made) else known
            equipment.enter_make(conn, each.ae_title, each.address, made, each.received_at, before)
    if found:
        equipment.keep_equipment_place(conn, found[-1].base_id)
    return len(found) == SERIES_BATCH


def _completes(before: Make, now: Make) -> bool:
    """Is a make the same as before, with what was not said then?"""
    pairs = zip(astuple(before), astuple(now), strict=True)
    return all(old in ("", new) for old, new in pairs)


def rhythms(conn: Transaction, config: Config, margin: float, now: float) -> dict[str, Usual]:
    """The usual hours of every AE title that is admitted today and has stored something."""
    found = {}
    back = YEAR_DAYS if config.calendar.holidays else WEEKS * 7 + GONE_DAYS + 1
    for ae_title, modality, last in peers.admitted_senders(conn):
        if not _may_send(config, ae_title, modality):
            continue  # it was removed, and cannot be late any more
        given = config.modalities.get(modality)
        hours = peers.calling_hours(conn, ae_title, now - back * DAY)
        if hours:
            sends_by, days = given.sends_by if given else LEARNED, days_of(config.calendar, hours)
            found[ae_title] = usual(config.calendar, days, last, now, margin, sends_by)
    return found


def _may_send(config: Config, ae_title: str, name: str) -> bool:
    """Does the configuration of today still have equipment that was admitted under a name of it when it called last?"""
    if name.startswith(CLIENT_PREFIX):
        return name.removeprefix(CLIENT_PREFIX) in config.clients
    if name == UNNAMED_CALLER and config.listen.unknown == "accept":
        return True
    return any(fnmatchcase(ae_title, each.ae_title) for each in config.modalities.values())
