"""The equipment that calls: its identity, what it offers, and when it usually sends."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from edge.config.sections import LEARNED, Config
from edge.monitor.snapshot_model import ModalityStatus, Usual
from edge.monitor.usual_hours import GONE_DAYS, WEEKS, YEAR_DAYS, days_of, usual
from edge.store import peers
from edge.store.database import Transaction
from edge.store.samples import DAY
from edge.text import printable

#: More are not shown: a port scan must not fill each status.
MOST_PEERS, MOST_UNKNOWN = 1_000, 50
#: Columns of a peer that its status has as they are.
PEER_COLUMNS = ("ae_title", "address", "first_seen", "last_seen", "stored", "last_stored", "manufacturer", "model")


def modalities(conn: Transaction, config: Config, rhythms: Mapping[str, Usual]) -> Iterator[ModalityStatus]:
    """Admitted equipment, the last caller first, then unknown callers; archives that only report are left out."""
    reporting = config.destinations.keys() - config.modalities.keys()
    unknown = 0
    for row in peers.all_peers(conn, MOST_PEERS):
        unknown += not row["admitted"]
        if row["modality"] in reporting or unknown > MOST_UNKNOWN:
            continue
        known = rhythms.get(row["ae_title"], Usual())
        yield ModalityStatus(
            **{name: row[name] for name in PEER_COLUMNS},
            name=row["modality"],
            admitted=bool(row["admitted"]),
            contexts=tuple((abstract, tuple(syntaxes)) for abstract, syntaxes in json.loads(row["contexts"])),
            usual=known.text,
            missed_at=known.missed_at,
        )


#: What a peer is made of -> the keyword by which its objects say it.
_MAKE = {"manufacturer": "Manufacturer", "model": "ManufacturerModelName", "station": "StationName"}
LONGEST_NAME = 64


def describe(conn: Transaction, now: float) -> list[dict[str, str]]:
    """The make of each peer that has sent since it was last described, a day ago or more, by one of its objects."""
    found = []
    for ae_title, address in peers.to_describe(conn, now - DAY):
        if (facts := peers.last_facts(conn, ae_title, address)) is not None:
            made = {name: printable(facts.get(keyword, ""))[:LONGEST_NAME] for name, keyword in _MAKE.items()}
            found.append({"ae_title": ae_title, "address": address, **made})
    return found


def rhythms(conn: Transaction, config: Config, margin: float, now: float) -> dict[str, Usual]:
    """The usual hours of every admitted AE title that has stored something."""
    found = {}
    back = YEAR_DAYS if config.calendar.holidays else WEEKS * 7 + GONE_DAYS + 1
    for ae_title, modality, last in peers.admitted_senders(conn):
        given = config.modalities.get(modality)
        hours = peers.calling_hours(conn, ae_title, now - back * DAY)
        if hours:
            sends_by, days = given.sends_by if given else LEARNED, days_of(config.calendar, hours)
            found[ae_title] = usual(config.calendar, days, last, now, margin, sends_by)
    return found
