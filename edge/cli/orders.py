"""`edge orders`: imaging orders as HL7 has brought them. The output has patient data."""

from __future__ import annotations

from typing import Any

import click

from edge.cli.parts import part_options, say_part
from edge.cli.session import CommandSession, json_option
from edge.cli.studies import local_time
from edge.cli.tables import Cell, print_json, print_table, say
from edge.identity.checks import CheckResult
from edge.identity.order import Order
from edge.store.identity_checks import ListedCheck, list_checks
from edge.store.listing import ListPart
from edge.store.orders import list_orders as find_orders
from edge.store.patients import words_for
from edge.text import scheduled_text


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
        listing = find_orders(conn, text=search, only_open=only_open)
        found, total = listing.read(part), listing.count()
    if as_json:
        print_json([order_json(each) for each in found])
    elif found:
        columns = ["accession", "status", "patient ID", "name", "procedure", "scheduled", "modality", "priority"]
        print_table(columns, map(_order_row, found))
    elif not total:
        say("No such order." if search or only_open else "No feed has brought an order.", "green")
    say_part(part, len(found), total, as_json=as_json)


@orders.command("missing")
@part_options()
@json_option
@click.pass_obj
def list_missing(session: CommandSession, part: ListPart, as_json: bool) -> None:
    """List studies for which no order is known, the latest first.

    \b
    Example:  edge orders missing
    """
    _list_checks(session, CheckResult.NO_ORDER, part, as_json)


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
    _list_checks(session, CheckResult.DIFFERS, part, as_json)


def _list_checks(session: CommandSession, result: CheckResult, part: ListPart, as_json: bool) -> None:
    with session.catalog() as conn:
        listing = list_checks(conn, result=result.value, only_open=True)
        found, total = listing.read(part), listing.count()
    if as_json:
        print_json(found)
    elif found:
        others = ["order's ID", "order's name", "differs in"] if result is CheckResult.DIFFERS else []
        columns = ["received", "accession", "patient ID", "name", *others, "images", "study UID"]
        print_table(columns, [_check_row(each, with_order=bool(others)) for each in found])
    elif not total:
        say("There is none.", "green")
    say_part(part, len(found), total, as_json=as_json)


def _check_row(each: ListedCheck, *, with_order: bool) -> list[Cell]:
    differs = words_for(each.differs_in) if each.differs_in else ""
    order = [each.order_patient_id, each.order_patient_name, differs] if with_order else []
    received = local_time(each.first_at)
    return [received, each.accession, each.patient_id, each.patient_name, *order, each.images, each.study_uid]


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


def _order_row(each: Order) -> list[Cell]:
    name = f"{each.patient.name} (in doubt)" if each.patient.is_in_doubt else each.patient.name
    return [
        each.accession,
        each.status.label,
        each.patient.patient_id,
        name,
        each.procedure_text or each.procedure_code,
        scheduled_text(each.scheduled_at),
        each.modality,
        each.priority.name.lower(),
    ]
