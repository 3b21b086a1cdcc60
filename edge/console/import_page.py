"""The pages of imports: what was read, what was left out, and whose each staged study is."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from edge.console.access import ConsolePage, read_reason
from edge.console.staged_look import choose_staged_images
from edge.errors import EdgeError
from edge.importer.staging import STAGED_FOLDER
from edge.importer.whose import LocalIdentity, identity_of_order, identity_of_patient, list_differences
from edge.store import imports, ledger, orders
from edge.store.database import Transaction
from edge.store.imports import DiscPatient, ImportStudy
from edge.store.listing import ListPart
from edge.web.endpoints import row_number
from edge.web.guard import Visitor, visitor_of
from edge.web.listing import read_list_page, read_view

_MOST_CANDIDATES = 20
_SEARCH = "import search"


@dataclass(frozen=True, slots=True)
class ImportCandidate:
    """A patient or an order known here, whose a staged study may be."""

    value: str  # in the form
    local: LocalIdentity
    is_order: bool
    detail: str
    differs_in: tuple[str, ...]


class ImportPage(ConsolePage):
    def index(self, request: Request) -> Response:
        """GET /import: the imports, and where files are dropped."""
        view = read_view(request, "/import", imports.BATCH_COLUMNS, ("state",))
        with self._access.db.reading() as conn:
            listing = imports.list_batches(conn, only_waiting=view.choice("state") == "waiting")
            page = read_list_page(listing, view)
        return self._pages.render(request, "import.html", view=view, page=page)

    def show(self, request: Request, fault: str = "", code: int = 200) -> Response:
        """GET /import/NUMBER: the studies of one import."""
        visitor, number = visitor_of(request), request.path_params["number"]
        with self._access.db.reading() as conn:
            batch = imports.find_batch(conn, number)
            if batch is None:
                return self._pages.render_missing(request)
            studies = imports.list_import_studies(conn, number)
            searched, text = _read_search(visitor)
            study = next((each for each in studies if each.id == searched), None)
            candidates = _find(conn, study, text) if study is not None else []
            failed = {
                each.id: imports.list_import_objects(conn, each.id, state="failed", limit=20)
                for each in studies
                if "failed" in each.objects
            }
            skipped = imports.list_skipped(conn, number)
            waiting = [each for each in studies if each.state is imports.ImportState.STAGED]
            pictures = {each.id: choose_staged_images(conn, each.id) for each in waiting}
        self._access.views.record_page(visitor, f"import {number}")
        if candidates:
            self._record_search(visitor)
        return self._pages.render(
            request,
            "import-batch.html",
            code=code,
            fault=fault,
            batch=batch,
            studies=studies,
            searched=searched,
            searched_text=text,
            candidates=candidates,
            skipped=skipped,
            failed=failed,
            pictures=pictures,
            differences=list_differences,
            identity_of=lambda study: LocalIdentity(**study.identity) if study.identity else None,
        )

    def _record_search(self, visitor: Visitor) -> None:
        """Record who was shown patients known here."""
        payload = {"access": "patients and orders found for an import", "address": visitor.address}
        self._access.db.write(
            lambda conn: ledger.append(conn, time.time(), ledger.VIEWED, visitor.name, [], payload=payload)
        )

    def find(self, request: Request) -> Response:
        """POST /import/NUMBER/find: look for patients and orders; what is looked for stands in no address."""
        visitor, number = visitor_of(request), request.path_params["number"]
        assert visitor.session is not None
        try:
            visitor.session.kept[_SEARCH] = row_number(visitor.field("study")), visitor.field("text")[:64]
        except ValueError:
            return self._pages.render_missing(request)
        return RedirectResponse(f"/import/{number}#study-{visitor.field('study')}", 303)

    def decide(self, request: Request) -> Response:
        """POST /import/NUMBER/decide: say whose a study is, or that it is not imported."""
        visitor, number = visitor_of(request), request.path_params["number"]
        reason = read_reason(visitor)
        try:
            study = row_number(visitor.field("study"))
            fields: dict[str, Any] = {"study": study, "reason": reason, "who": visitor.name}
            if visitor.field("action") == "discard":
                self._discard(fields)
                visitor.leave_notice(f"Study {study} is discarded.")
            else:
                self._access.command("import-assign", fields | _parse_choice(visitor.raw_field("whose")))
                visitor.leave_notice(f"Study {study} is assigned, and is imported now.")
        except (EdgeError, ValueError) as error:
            return self.show(request, fault=str(error) or "Choose a patient or an order.", code=422)
        return RedirectResponse(f"/import/{number}", 303)

    def _discard(self, fields: Mapping[str, Any]) -> None:
        folder = self._access.config().site.data_dir / STAGED_FOLDER
        for path in self._access.command("import-discard", dict(fields))["paths"]:
            (folder / path).unlink(missing_ok=True)


def _read_search(visitor: Visitor) -> tuple[int, str]:
    """Return the study for which a patient is looked for, and what is looked for."""
    kept = visitor.session.kept.get(_SEARCH, (0, "")) if visitor.session else (0, "")
    return int(kept[0]), str(kept[1])


def _find(conn: Transaction, study: ImportStudy, text: str) -> list[ImportCandidate]:
    """Find orders and patients known here; without a text, by what the files say."""
    wanted = [text] if text else [each for each in (study.accession, study.patient.patient_id) if each]
    found: dict[str, ImportCandidate] = {}
    for each in wanted:
        for order in orders.list_orders(conn, text=each).read(ListPart(_MOST_CANDIDATES)):
            local = identity_of_order(order)
            detail = " ".join(filter(None, (order.modality, order.procedure_text, order.scheduled_at[:8])))
            found[f"order:{order.id}"] = _candidate(f"order:{order.id}", study.patient, local, True, detail)
        for patient in imports.find_patients(conn, each, _MOST_CANDIDATES):
            local = identity_of_patient(patient)
            value = "patient:" + "\\".join(
                (patient.patient_id, patient.issuer, patient.birth_date, patient.patient_name)
            )
            found[value] = _candidate(value, study.patient, local, False, "")
    return sorted(found.values(), key=lambda each: (len(each.differs_in), not each.is_order))[:_MOST_CANDIDATES]


def _candidate(value: str, disc: DiscPatient, local: LocalIdentity, is_order: bool, detail: str) -> ImportCandidate:
    return ImportCandidate(value, local, is_order, detail, tuple(list_differences(disc, local)))


def _parse_choice(value: str) -> dict[str, Any]:
    """Return the fields of `import-assign` that a choice means. Raises ValueError."""
    kind, _, rest = value.partition(":")
    if kind == "order":
        return {"order": row_number(rest)}
    if kind == "patient" and rest:
        patient_id, issuer, birth_date, name = (*rest.split("\\", 3), "", "", "")[:4]
        return {"patient_id": patient_id, "issuer": issuer, "birth_date": birth_date, "patient_name": name}
    raise ValueError("")
