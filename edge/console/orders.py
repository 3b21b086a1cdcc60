"""Orders, and studies that do not fit them; a person decides whose held images are."""

from __future__ import annotations

from dataclasses import replace

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.console.access import MASK, ConsolePage, read_required_reason
from edge.console.study_identity import mask_check
from edge.errors import EdgeError
from edge.identity.checks import CheckResult
from edge.identity.order import Order, OrderStatus
from edge.store.assignments import STUDY_DECISIONS
from edge.store.identity_checks import CHECK_COLUMNS, list_checks
from edge.store.orders import ORDER_COLUMNS, list_orders
from edge.store.patients import words_for
from edge.store.studies import numbers_of
from edge.text import amount, mask_uids
from edge.web.guard import visitor_of
from edge.web.listing import read_list_page, read_view

#: The lists of studies that do not fit the orders, and rows of a page of them.
_CHECKS, _CHECKS_SHOWN = {"differing": CheckResult.DIFFERS, "missing": CheckResult.NO_ORDER}, 20


class OrdersPage(ConsolePage):
    def index(self, request: Request, fault: str = "", code: int = 200) -> Response:
        """GET /orders. Who may not see patient data sees neither names nor numbers."""
        visitor = visitor_of(request)
        view = read_view(request, "/orders", ORDER_COLUMNS, ("status",))
        views = {name: read_view(request, "/orders", CHECK_COLUMNS, name=name) for name in _CHECKS}
        with self._access.db.reading() as conn:
            found = read_list_page(list_orders(conn, status=view.choice("status")), view)
            checks = {
                name: read_list_page(list_checks(conn, result=result.value, only_open=True), views[name], _CHECKS_SHOWN)
                for name, result in _CHECKS.items()
            }
            uids = [each.study_uid for page in checks.values() for each in page.rows]
            study_ids = numbers_of(conn, [*uids, *(each.study_uid for each in found.rows)])
        if visitor.sees_patients:
            self._access.views.record(visitor, "the list of orders", studies=sorted(set(study_ids.values())))
            self._access.views.record_page(visitor, "orders page")  # most orders have no study yet
        else:
            found, checks = found.map(_mask_order), {name: page.map(mask_check) for name, page in checks.items()}
        return self._pages.render(
            request,
            "orders.html",
            code=code,
            fault=fault,
            view=view,
            page=found,
            statuses=[(each.value, each.label.capitalize()) for each in OrderStatus],
            views=views,
            **checks,
            study_ids=study_ids,
            words_for=words_for,
            figures=self._access.status()["identity"],
        )

    def decide(self, request: Request) -> Response:
        """POST /orders/decide: it is this patient, send as it is, or do not send."""
        visitor = visitor_of(request)
        decision = visitor.field("decision")
        try:
            if decision not in STUDY_DECISIONS:
                raise EdgeError("Choose what to do with the images.")
            reason = read_required_reason(visitor)
            fields = {"study_uid": visitor.field("study"), "decision": decision, "patient": visitor.field("patient")}
            fields |= {"authority": visitor.field("authority"), "who": visitor.name, "reason": reason}
            answer = self._access.command("study-decide", fields)
        except EdgeError as error:
            return self.index(request, fault=str(error), code=422)
        visitor.leave_notice(f"{amount(answer['images'], 'held image')}: decided.")
        return RedirectResponse("/orders", 303)


def _mask_order(order: Order) -> Order:
    patient = replace(order.patient, patient_id=MASK, name=MASK, birth_date="", sex="")
    return replace(order, patient=patient, accession=MASK, study_uid=mask_uids(order.study_uid))
