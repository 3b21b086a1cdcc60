"""The statements that a vendor owes: DICOM conformance (PS3.2), IHE integration and HL7, made from what runs."""

from __future__ import annotations

from edge.config.sections import Config
from edge.console.statements import dicom, hl7, ihe
from edge.console.statements.document import Document
from edge.console.statements.render import FORMATS, render_document

STATEMENTS = ("dicom", "ihe", "hl7")
_MAKERS = {"dicom": dicom.make_dicom_statement, "ihe": ihe.make_ihe_statement, "hl7": hl7.make_hl7_statement}
__all__ = ["FORMATS", "STATEMENTS", "make_statement", "render_document"]


def make_statement(kind: str, config: Config) -> Document:
    """One of STATEMENTS, for this configuration."""
    return _MAKERS[kind](config)
