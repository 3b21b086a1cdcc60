"""The state of the modality worklist, for status, alerts, command and console."""

from __future__ import annotations

from edge.config.sections import Config
from edge.monitor.snapshot_model import WorklistState
from edge.store import worklist
from edge.store.database import Transaction

#: A list that is older than this many refreshes is stale: the gateway may have been down.
STALE_REFRESHES = 2
#: Besides that, so that a refresh which takes long is no fault.
_SLACK_SECONDS = 60.0


def read_worklist_state(conn: Transaction, config: Config, now: float) -> WorklistState:
    """The oldest list decides."""
    if not any("worklist" in each.services for each in config.modalities.values()):
        return WorklistState()
    sources = tuple(worklist.read_sources(conn))
    ages = [each.as_of for each in sources]
    as_of = min((each for each in ages if each is not None), default=None)
    limit = STALE_REFRESHES * config.worklist.refresh + _SLACK_SECONDS
    is_old = as_of is None or None in ages or now - as_of > limit
    is_stale = is_old or any(each.failures > 1 for each in sources)
    return WorklistState(worklist.count_items(conn), as_of, is_stale, config.worklist.from_, sources)
