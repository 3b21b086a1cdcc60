"""For tests of the store and the journal."""

from __future__ import annotations

import pytest

from edge.journal import replay


@pytest.fixture(autouse=True)
def _read_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many tests damage what is read: its pause before another try is no part of what they promise."""
    monkeypatch.setattr(replay, "READ_PAUSE_SECONDS", 0.0)
