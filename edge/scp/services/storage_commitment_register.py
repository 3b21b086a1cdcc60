"""Used Transaction UIDs of modalities: in the catalog, and in records that are not applied yet."""

from __future__ import annotations

import threading
from collections import OrderedDict

from edge.store import commitment_requests
from edge.store.database import Store

#: Requests of one modality whose report may be owed, and instances that they may name together.
MOST_REQUESTS, MOST_NAMED = 2_000, 1_000_000
#: Requests that are remembered until they are in the catalog: far more than the journal applies late.
REMEMBERED = 1_000


class RequestRegister:
    """See the module's docstring. Thread-safe. Without a catalog it knows what it has noted itself.

    The daemon has one for all receiving processes. Two requests at once that share a Transaction UID may both be
    recorded, and both get their report: the second one names every instance as failed.
    """

    def __init__(self, db: Store | None = None) -> None:
        self._db, self._lock = db, threading.Lock()
        self._noted: OrderedDict[tuple[str, str, bytes], None] = OrderedDict()

    def find_digests(self, calling_ae: str, transaction_uid: str) -> set[bytes]:
        """What was asked under this Transaction UID. Raises Hindered."""
        with self._lock:
            found = {digest for ae, uid, digest in self._noted if (ae, uid) == (calling_ae, transaction_uid)}
        if self._db is not None:
            with self._db.reading() as conn:
                found |= commitment_requests.find_digests(conn, calling_ae, transaction_uid)
        return found

    def is_full(self, modality: str) -> bool:
        """Are as many reports owed to a modality as are kept? Raises Hindered."""
        if self._db is None:
            return False
        with self._db.reading() as conn:
            requests, instances = commitment_requests.count_open_requests(conn, modality)
        return requests >= MOST_REQUESTS or instances >= MOST_NAMED

    def note(self, calling_ae: str, transaction_uid: str, digest: bytes) -> None:
        """Note a request that is on record."""
        with self._lock:
            self._noted[calling_ae, transaction_uid, digest] = None
            if len(self._noted) > REMEMBERED:
                self._noted.popitem(last=False)
