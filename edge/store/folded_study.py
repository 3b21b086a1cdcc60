"""The test of an arrival whether its study is in a yearly file (edge.store.folding)."""

from __future__ import annotations

from edge.errors import Transient
from edge.store.database import Transaction


class StudyIsFolded(Transient):
    """A study that comes again is in a yearly file: it has to be unfolded first."""

    def __init__(self, study_uid: str) -> None:
        super().__init__("the study is in a yearly file")
        self.study_uid = study_uid


def is_folded(conn: Transaction, study_uid: str) -> bool:
    """Is a study in a yearly file (edge.store.folding)?"""
    return conn.execute("SELECT 1 FROM folded_study WHERE study_uid = ?", (study_uid,)).fetchone() is not None
