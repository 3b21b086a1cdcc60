"""Storage commitment requests of modalities (PS3.4 annex J): requests, what they name, and their reports.

A request is `waiting` until it is known of each instance whether it is in custody, `decided` while the report is owed,
and `reported` once the modality has acknowledged it. Functions of a connection, as those of edge.store.deliveries.
What we ask of archives is in edge.store.commitments.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.journal.kinds.commitment_request import CommitmentRequest
from edge.model import DeliveryState, InstanceState
from edge.store import ledger
from edge.store.database import Transaction
from edge.store.deliveries import record_by_study
from edge.store.listing import Listing, ListSql

if TYPE_CHECKING:
    from edge.dicom.commitment_data import AskedCommitment

#: After a try that failed, a modality that calls is tried again, but not sooner than this.
SOONEST_SECONDS = 5.0
#: Requests that are examined in one go.
MOST_DUE = 500


# -- what is asked ----------------------------------------------------------------------------------------------------


def enter_request(conn: Transaction, record: str, request: CommitmentRequest, asked: AskedCommitment) -> None:
    """Enter a request. The same again is one request: once reported, its report is owed again. `record`: its name."""
    origin, uid = request.origin, asked.transaction_uid
    key = (origin.calling_ae, uid, asked.digest)
    known = conn.execute(
        "SELECT id, record FROM commitment_request WHERE calling_ae = ? AND transaction_uid = ? AND digest = ?", key
    ).fetchone()
    if known is not None:
        if known["record"] != record:  # else a replay
            conn.execute(
                "UPDATE commitment_request SET state = CASE state WHEN 'reported' THEN 'decided' ELSE state END,"
                " not_before = ?, tries = 0 WHERE id = ?",
                (origin.received_at, known["id"]),
            )
        return
    (number,) = conn.execute(
        "INSERT INTO commitment_request (calling_ae, transaction_uid, digest, called_ae, address, modality, is_tls,"
        " record, instances, requested_at, not_before) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            *key,
            origin.called_ae,
            origin.address,
            request.modality,
            int(request.is_tls),
            record,
            len(asked.classes),
            origin.received_at,
            origin.received_at,
        ),
    ).fetchone()
    conn.executemany(
        "INSERT INTO commitment_reference (request_id, sop_instance_uid, sop_class_uid, is_ambiguous)"
        " VALUES (?, ?, ?, ?)",
        [(number, uid, classes[0], int(len(classes) > 1)) for uid, classes in asked.classes.items()],
    )
    payload = {"transaction_uid": uid, "count": len(asked.classes), "address": origin.address}
    ledger.append(conn, origin.received_at, ledger.COMMITMENT_ASKED, origin.calling_ae, [], payload=payload)


def find_digests(conn: Transaction, calling_ae: str, transaction_uid: str) -> set[bytes]:
    """What a caller has asked under this Transaction UID, as far as it is kept."""
    rows = conn.execute(
        "SELECT digest FROM commitment_request WHERE calling_ae = ? AND transaction_uid = ?",
        (calling_ae, transaction_uid),
    )
    return {row[0] for row in rows}


def count_open_requests(conn: Transaction, modality: str) -> tuple[int, int]:
    """How many requests of a modality are not reported, and how many instances they name."""
    row = conn.execute(
        "SELECT count(*), coalesce(sum(instances), 0) FROM commitment_request"
        " WHERE state <> 'reported' AND modality = ?",
        (modality,),
    ).fetchone()
    return int(row[0]), int(row[1])


# -- what is owed -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request whose report is owed, or will be."""

    id: int
    transaction_uid: str
    calling_ae: str
    called_ae: str
    modality: str
    is_tls: bool  # this and the last two: as SQL has them, 0 or 1
    requested_at: float
    tries: int
    is_again: bool  # it was reported before, and asked again
    is_duplicate: bool  # its Transaction UID was in use for other instances


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version of a named instance. `deliveries`: destination -> state, where it goes as itself."""

    instance_id: int
    state: InstanceState
    sop_class_uid: str
    study_id: int | None
    deliveries: Mapping[str, DeliveryState]


@dataclass(frozen=True, slots=True)
class NamedInstance:
    """An instance that a request names, and its versions here in the order of arrival."""

    sop_instance_uid: str
    sop_class_uid: str
    is_ambiguous: bool
    failure: int | None  # as it was reported; None: not yet
    versions: tuple[StoredVersion, ...]


def list_due_requests(conn: Transaction, now: float) -> list[OpenRequest]:
    """List requests that are to be examined now: it is time, or their modality has called since the last try."""
    rows = conn.execute(
        "SELECT id, transaction_uid, calling_ae, called_ae, modality, is_tls, requested_at, tries,"
        " reported_at IS NOT NULL,"
        " EXISTS (SELECT 1 FROM commitment_request AS first WHERE first.calling_ae = r.calling_ae"
        "  AND first.transaction_uid = r.transaction_uid AND first.id < r.id)"
        " FROM commitment_request AS r WHERE state <> 'reported' AND (not_before <= :now OR tried_at <= :soonest"
        "  AND EXISTS (SELECT 1 FROM peer WHERE peer.modality = r.modality AND peer.last_seen > r.tried_at))"
        " ORDER BY not_before LIMIT :most",
        {"now": now, "soonest": now - SOONEST_SECONDS, "most": MOST_DUE},
    )
    return [OpenRequest(*row) for row in rows]


def find_last_stored(conn: Transaction, modality: str) -> float:
    """When a modality has stored something last; 0 where it never has."""
    row = conn.execute("SELECT max(last_stored) FROM peer WHERE modality = ?", (modality,)).fetchone()
    return float(row[0] or 0.0)


_NAMED = "FROM commitment_reference AS f JOIN instance AS i ON i.sop_instance_uid = f.sop_instance_uid"
#: What was released from quarantine is another instance since.
_VERSIONS = f"""
SELECT i.sop_instance_uid, i.id, i.state, k.sop_class_uid, i.study_id {_NAMED} JOIN kind AS k ON k.id = i.kind_id
WHERE f.request_id = ? AND i.released_as IS NULL ORDER BY i.received_at, i.id
"""


def read_named_instances(
    conn: Transaction, request: int, without_identity: Collection[str] = ()
) -> list[NamedInstance]:
    """What a request names, and what is known of it.

    `without_identity`: destinations of de-identified copies. Such a copy, sent or not, is no proof of the instance.
    """
    deliveries: dict[int, dict[str, DeliveryState]] = defaultdict(dict)
    rows = conn.execute(
        f"SELECT d.instance_id, d.destination, d.state {_NAMED} JOIN delivery AS d ON d.instance_id = i.id"
        " WHERE f.request_id = ? AND NOT EXISTS"
        " (SELECT 1 FROM sent_copy AS c WHERE c.delivery_id = d.id AND c.sop_instance_uid <> '')",
        (request,),
    )
    for instance, destination, state in rows:
        if destination not in without_identity:
            deliveries[instance][destination] = DeliveryState(state)
    versions: dict[str, list[StoredVersion]] = defaultdict(list)
    for uid, instance, state, sop_class, study in conn.execute(_VERSIONS, (request,)):
        versions[uid].append(StoredVersion(instance, InstanceState(state), sop_class, study, deliveries[instance]))
    rows = conn.execute(
        "SELECT sop_instance_uid, sop_class_uid, is_ambiguous, failure FROM commitment_reference WHERE request_id = ?",
        (request,),
    )
    return [
        NamedInstance(uid, sop_class, bool(is_ambiguous), failure, tuple(versions.get(uid, ())))
        for uid, sop_class, is_ambiguous, failure in rows
    ]


def postpone_request(conn: Transaction, request: int, not_before: float) -> None:
    """Examine a request again at `not_before` (UTC seconds): not all is known of its instances yet."""
    conn.execute("UPDATE commitment_request SET state = 'waiting', not_before = ? WHERE id = ?", (not_before, request))


def note_failed_tries(conn: Transaction, failed: Iterable[tuple[int, float]], error: str, now: float) -> None:
    """The report did not reach the modality. `failed`: request, and when it is tried again."""
    conn.executemany(
        "UPDATE commitment_request SET state = 'decided', not_before = ?, tries = tries + 1, tried_at = ?,"
        " last_error = ? WHERE id = ?",
        [(not_before, now, error, request) for request, not_before in failed],
    )


@dataclass(frozen=True, slots=True)
class ReportedInstance:
    """What the modality has acknowledged of one instance. `failure` 0: committed. Without an instance: none is here."""

    sop_instance_uid: str
    failure: int
    instance_id: int | None = None
    study_id: int | None = None


def note_reported(
    conn: Transaction, request: OpenRequest, reported: Sequence[ReportedInstance], policy: str, now: float
) -> None:
    """Record that the modality has acknowledged a report. `policy`: what it was promised on, `[modality] commit`."""
    failed = [each for each in reported if each.failure]
    conn.execute(
        "UPDATE commitment_request SET state = 'reported', reported_at = coalesce(reported_at, ?), failed = ?,"
        " tries = 0, tried_at = NULL, last_error = '' WHERE id = ?",
        (now, len(failed), request.id),
    )
    conn.executemany(
        "UPDATE commitment_reference SET failure = ? WHERE request_id = ? AND sop_instance_uid = ?",
        [(each.failure, request.id, each.sop_instance_uid) for each in reported],
    )
    if request.is_again:
        return
    committed = [(each.study_id, each.instance_id) for each in reported if not each.failure and each.instance_id]
    payload: ledger.Payload = {"transaction_uid": request.transaction_uid, "policy": policy}
    record_by_study(conn, now, ledger.COMMITTED, request.calling_ae, committed, "", payload)
    studies: dict[int | None, list[ReportedInstance]] = defaultdict(list)
    for each in failed:
        studies[each.study_id].append(each)
    for study, members in studies.items():
        reasons = sorted({each.failure for each in members})
        payload = {"transaction_uid": request.transaction_uid, "failures": reasons, "count": len(members)}
        known = [each.instance_id for each in members if each.instance_id is not None]
        ledger.append(conn, now, ledger.NOT_COMMITTED, request.calling_ae, known, study_id=study, payload=payload)


def forget_reported_requests(conn: Transaction, reported_before: float, limit: int = 20) -> int:
    """Let go of requests that were reported long ago; the ledger keeps what was committed. Returns how many."""
    old = conn.execute(
        "SELECT id FROM commitment_request WHERE state = 'reported' AND reported_at < ? ORDER BY reported_at LIMIT ?",
        (reported_before, limit),
    ).fetchall()
    conn.executemany("DELETE FROM commitment_reference WHERE request_id = ?", old)
    conn.executemany("DELETE FROM commitment_request WHERE id = ?", old)
    return len(old)


# -- for people -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ListedRequest:
    """A request as people read it."""

    transaction_uid: str
    modality: str
    calling_ae: str
    state: str  # waiting | decided | reported
    instances: int
    failed: int | None  # None: not reported yet
    requested_at: float
    reported_at: float | None
    tries: int
    next_try_at: float | None
    last_error: str


_LIST = ListSql(
    "transaction_uid, modality, calling_ae, state, instances, failed, requested_at, reported_at, tries,"
    " CASE state WHEN 'decided' THEN not_before END AS next_try_at, last_error",
    "FROM commitment_request AS r",
    "state = 'reported', requested_at DESC, id DESC",
    {
        "equipment": ("modality",),
        "state": ("state",),
        "images": ("instances",),
        "failed": ("failed",),
        "asked": ("requested_at",),
        "reported": ("reported_at",),
    },
)
REQUEST_COLUMNS = _LIST.orders.keys()


def list_requests(conn: Transaction, *, only_open: bool = False, state: str = "") -> Listing[ListedRequest]:
    """List requests, those first whose report is owed, then the newest."""
    conditions = {"state <> 'reported'": only_open, "state = :state": state}
    return Listing(conn, _LIST, lambda row: ListedRequest(*row), conditions, {"state": state})


def list_requests_of_study(conn: Transaction, study_id: int) -> list[ListedRequest]:
    """List the requests that name an instance of a study, the oldest first."""
    rows = conn.execute(
        f"SELECT {_LIST.columns} {_LIST.source} WHERE id IN"
        " (SELECT f.request_id FROM instance AS i JOIN commitment_reference AS f"
        " ON f.sop_instance_uid = i.sop_instance_uid WHERE i.study_id = ?) ORDER BY requested_at",
        (study_id,),
    )
    return [ListedRequest(*row) for row in rows]


@dataclass(frozen=True, slots=True)
class OwedReports:
    """What is owed to one modality."""

    modality: str
    count: int
    oldest_at: float  # when the oldest was asked
    last_error: str  # of a report that did not reach it


def summarize_owed_reports(conn: Transaction) -> list[OwedReports]:
    """Summarize open requests by modality."""
    rows = conn.execute(
        "SELECT modality, count(*), min(requested_at), max(last_error) FROM commitment_request"
        " WHERE state <> 'reported' GROUP BY modality ORDER BY modality"
    )
    return [OwedReports(*row) for row in rows]
