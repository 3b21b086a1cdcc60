"""`edge orders`: imaging orders as HL7 has brought them. The output has patient data."""

from __future__ import annotations

from typing import Any

import click

from edge.cli.parts import part_options, print_part, read_part
from edge.cli.session import CommandSession, json_option
from edge.cli.tables import Columns, local_time
from edge.identity.checks import CheckResult
from edge.identity.order import Order
from edge.store.identity_checks import ListedCheck, list_checks
from edge.store.listing import ListPart
from edge.store.orders import list_orders as find_orders
from edge.store.patients import words_for
from edge.text import scheduled_text

_COLUMNS: Columns[Order] = {
    "accession": lambda each: each.accession,
    "status": lambda each: each.status.label,
    "patient ID": lambda each: each.patient.patient_id,
    "name": lambda each: f"{each.patient.name}{' (in doubt)' if each.patient.is_in_doubt else ''}",
    "procedure": lambda each: each.procedure_text or each.procedure_code,
    "scheduled": lambda each: scheduled_text(each.scheduled_at),
    "modality": lambda each: each.modality,
    "priority": lambda each: each.priority.name.lower(),
}
_DIFFERING: Columns[ListedCheck] = {
    "received": lambda each: local_time(each.first_at),
    "accession": lambda each: each.accession,
    "patient ID": lambda each: each.patient_id,
    "name": lambda each: each.patient_name,
    "order's ID": lambda each: each.order_patient_id,
    "order's name": lambda each: each.order_patient_name,
    "differs in": lambda each: words_for(each.differs_in),
    "images": lambda each: each.images,
    "study UID": lambda each: each.study_uid,
}
_MISSING = {name: _DIFFERING[name] for name in ("received", "accession", "patient ID", "name", "images", "study UID")}


@click.group(short_help="List imaging orders.")
def orders() -> None:
    """List imaging orders that came over HL7 ([feed.*]), and studies that do not fit them."""


@orders.command("list")
@click.option("--search", default="", metavar="TEXT", help="An accession number, Patient ID, Study UID or name.")
@click.option("--open", "only_open", is_flag=True, help="Only those that are open or in progress.")
@part_options()
@json_option
@click.pass_obj
def list_orders(session: CommandSession, search: str, only_open: bool, part: ListPart, as_json: bool) -> None:
    """List orders, the last changed first, with the patient of today.

    \b
    Example:  edge orders list --search A1001
    """
    with session.catalog() as conn:
        found = read_part(find_orders(conn, text=search, only_open=only_open), part)
    none = "No such order." if search or only_open else "No feed has brought an order."
    print_part(found, _COLUMNS, none, as_json=as_json, json_of=order_json)


@orders.command("missing")
@part_options()
@json_option
@click.pass_obj
def list_missing(session: CommandSession, part: ListPart, as_json: bool) -> None:
    """List studies for which no order is known, the latest first.

    \b
    Example:  edge orders missing
    """
    _list_checks(session, CheckResult.NO_ORDER, _MISSING, part, as_json)


@orders.command("differing", short_help="List studies whose patient differs from their order's.")
@part_options()
@json_option
@click.pass_obj
def list_differing(session: CommandSession, part: ListPart, as_json: bool) -> None:
    """List studies whose patient differs from their order's: both patients, and in what they differ.

    `edge studies assign` decides about held ones.

    \b
    Example:  edge orders differing
    """
    _list_checks(session, CheckResult.DIFFERS, _DIFFERING, part, as_json)


def _list_checks(
    session: CommandSession, result: CheckResult, columns: Columns[ListedCheck], part: ListPart, as_json: bool
) -> None:
    with session.catalog() as conn:
        found = read_part(list_checks(conn, result=result.value, only_open=True), part)
    print_part(found, columns, "There is none.", as_json=as_json)


def order_json(each: Order) -> dict[str, Any]:
    """An order for programs. The keys are stable."""
    patient = each.patient
    return {
        "accession": each.accession,
        "patient_id": patient.patient_id,
        "issuer": patient.issuer,
        "patient_name": patient.name,
        "birth_date": patient.birth_date,
        "sex": patient.sex,
        "status": each.status.value,
        "priority": each.priority.name.lower(),
        "study_uid": each.study_uid,
        "procedure_id": each.procedure_id,
        "procedure_code": each.procedure_code,
        "procedure_text": each.procedure_text,
        "step_id": each.step_id,
        "station_ae": each.station_ae,
        "modality": each.modality,
        "scheduled": each.scheduled_at,
        "placer_number": each.placer_number,
        "filler_number": each.filler_number,
        "changed_at": each.changed_at,
    }
