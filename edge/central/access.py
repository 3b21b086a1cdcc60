"""The access of the centre's pages: its database, the configuration, and answers that are kept for a while."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edge.central.answers import KeptAnswers
from edge.central.config import CentralConfig
from edge.store.engine import EngineStore
from edge.web.pages import Pages


@dataclass(frozen=True, slots=True)
class CentralAccess:
    """What pages are made of. `config` gives the current one."""

    store: EngineStore
    config: Callable[[], CentralConfig]
    pages: Pages
    answers: KeptAnswers


class CentralPage:
    """The handlers of a page, or of some."""

    def __init__(self, access: CentralAccess) -> None:
        self._store, self._config, self._pages = access.store, access.config, access.pages
        self._answers = access.answers
