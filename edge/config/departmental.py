"""[worklist], [mpps], [prefetch.NAME] and [iocm]: what the gateway does between equipment, RIS and archive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from edge.config import kinds

_MINUTE, _HOUR = 60.0, 3600.0


@dataclass(frozen=True, slots=True)
class WorklistSection:
    """[worklist]: what modalities are served as Modality Worklist."""

    from_: Annotated[str, kinds.TABLE_NAME] = ""  # a destination that answers C-FIND; omitted: orders by HL7
    refresh: Annotated[float, kinds.PERIOD] = 5 * _MINUTE
    per_modality: Annotated[bool, kinds.YES_NO] = False
    keep: Annotated[float, kinds.DURATION] = 24 * _HOUR


@dataclass(frozen=True, slots=True)
class MppsSection:
    """[mpps]: where performed procedure steps go on to."""

    to: Annotated[tuple[str, ...], kinds.TABLE_NAMES] = ()
    ian: Annotated[tuple[str, ...], kinds.TABLE_NAMES] = ()  # instance availability notifications
    ian_after: Annotated[float, kinds.DURATION] = 10 * _MINUTE  # of rest: a study that no step names is announced
    missing_after: Annotated[float, kinds.DURATION] = 2 * _HOUR  # images that a step named are late


@dataclass(frozen=True, slots=True)
class Prefetch:
    """[prefetch.NAME]: earlier studies that are fetched ahead of an appointment."""

    name: str
    from_: Annotated[str, kinds.TABLE_NAME]  # a destination
    when: Annotated[dict[str, Any], kinds.WHEN] = field(default_factory=dict)
    priors: Annotated[int, kinds.COUNT] = 2
    years: Annotated[int, kinds.COUNT] = 5
    share: Annotated[float, kinds.FRACTION] = 0.2  # of the line, at most


@dataclass(frozen=True, slots=True)
class IocmSection:
    """[iocm]: rejection notes (IHE RAD TF-3, Imaging Object Change Management)."""

    senders: Annotated[tuple[str, ...], kinds.TABLE_NAMES] = ()  # modalities that may send one
    quality: Annotated[str, kinds.one_of("hide", "show")] = "hide"  # what 113001 does to what it names
    again: Annotated[str, kinds.one_of("hide", "refuse")] = "hide"  # what 113037 or 113038 names, when it comes again
