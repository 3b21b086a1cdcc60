"""Changes of imports by a command, by its name (edge.daemon.changes): staging, and decisions about the patient."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from edge.daemon.request import Params, require_reason
from edge.errors import EdgeError
from edge.importer.whose import LocalIdentity, check_patient, complete_identity, identity_of_order, identity_of_patient
from edge.store import imports, orders
from edge.store.database import Transaction
from edge.text import fold_name


def _begin(conn: Transaction, request: Params, now: float) -> Params:
    batch = imports.begin_batch(conn, request["source"], request["door"], request["who"], now)
    members = imports.read_members(conn, batch)
    return {"batch": batch, "members": [[name, *seen] for name, seen in members.items()]}


def _add(conn: Transaction, request: Params, _now: float) -> Params:
    imports.add_objects(conn, request["batch"], request["objects"])
    return {}


def _skip(conn: Transaction, request: Params, _now: float) -> Params:
    imports.add_skipped(conn, request["batch"], request["skipped"])
    return {}


def _end(conn: Transaction, request: Params, now: float) -> Params:
    imports.end_batch(conn, request["batch"], now, request["foreign"], request["missing"], request["unlisted"])
    return {}


def _assign(conn: Transaction, request: Params, now: float) -> Params:
    """`order`: the number or accession number of an order; else `patient_id` with `issuer`: a patient known here."""
    study, reason = imports.require_staged(conn, request["study"]), str(request.get("reason", "")).strip()
    local = _order(conn, request) if request.get("order") else _patient(conn, request)
    differs_in = check_patient(study.patient, local, reason)
    identity = complete_identity(local, study.patient).as_texts()
    imports.assign_import(conn, study.id, identity, differs_in, now, request["who"], reason)
    return {"differs_in": differs_in}


def _order(conn: Transaction, request: Params) -> LocalIdentity:
    wanted = request["order"]
    if isinstance(wanted, int):
        found = orders.read_orders(conn, [wanted])
    else:
        found = orders.find_orders(conn, accession=wanted)
    if not found:
        raise EdgeError(f"there is no order {wanted}")
    if len(found) > 1:
        raise EdgeError(f"{len(found)} orders have the accession number {wanted}: choose one on the page of the import")
    return identity_of_order(found[0])


def _patient(conn: Transaction, request: Params) -> LocalIdentity:
    number, issuer = request.get("patient_id", ""), request.get("issuer")
    name, born = request.get("patient_name"), request.get("birth_date")
    found = [
        each
        for each in imports.find_patients(conn, number, 1000)
        if each.patient_id == number
        and issuer in (None, each.issuer)
        and (name is None or fold_name(name) == fold_name(each.patient_name))
        and born in (None, each.birth_date)
    ]
    if not found:
        raise EdgeError(f"no patient known here has the number {number}; an order or an image must have named it")
    if len(found) > 1:
        issuers = {each.issuer or "(none)" for each in found}
        if len(issuers) > 1:
            raise EdgeError(f"several patients have the number {number}; say which with --issuer: {', '.join(issuers)}")
        names = "; ".join(f"{each.patient_name} born {each.birth_date or '?'}" for each in found)
        raise EdgeError(
            f"images of several patients have the number {number}; say which with --name and --born: {names}"
        )
    return identity_of_patient(found[0])


def _discard(conn: Transaction, request: Params, now: float) -> Params:
    return {"paths": imports.discard_import(conn, request["study"], now, request["who"], require_reason(request))}


IMPORT_TRANSACTIONS: Mapping[str, Callable[[Transaction, Params, float], Params]] = {
    "import-begin": _begin,
    "import-add": _add,
    "import-skip": _skip,
    "import-end": _end,
    "import-assign": _assign,
    "import-discard": _discard,
}
