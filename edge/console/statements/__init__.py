"""The statements that a vendor owes: of DICOM conformance (PS3.2) and of IHE integration, made from what runs."""

from __future__ import annotations

from edge.config.sections import Config
from edge.console.statements import dicom, ihe
from edge.console.statements.document import Document
from edge.console.statements.render import FORMATS, render_document

STATEMENTS = ("dicom", "ihe")
__all__ = ["FORMATS", "STATEMENTS", "make_statement", "render_document"]


def make_statement(kind: str, config: Config) -> Document:
    """One of STATEMENTS, for this configuration."""
    return dicom.make_dicom_statement(config) if kind == "dicom" else ihe.make_ihe_statement(config)
