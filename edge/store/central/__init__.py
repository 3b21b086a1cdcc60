"""The centre's database: its tables (`migrations`, one text for both engines), and the verbs on them by subject."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from edge.store.engine import EngineStore, open_engine


def open_store(url: str) -> AbstractAsyncContextManager[EngineStore]:
    """The centre's database, its tables brought up to date. Raises StoreError."""
    return open_engine(url, "edge.store.central")
