"""The series of a study with their instances in order, for people. Reads only."""

from __future__ import annotations

from dataclasses import dataclass

from edge.store.database import Transaction

_INSTANCES = """
SELECT i.id, i.series_uid, i.instance_number, coalesce(r.modality, '') AS modality,
       coalesce(r.series_number, '') AS series_number, coalesce(r.description, '') AS description,
       coalesce(r.body_part, '') AS body_part
FROM instance i LEFT JOIN series r ON r.id = i.series_id
WHERE i.study_id = ? AND i.state IN ('stored', 'conflict')
"""


@dataclass(frozen=True, slots=True)
class SeriesOfStudy:
    """One series, and the instances of it that are on the disk, in the order of their numbers."""

    series_uid: str
    modality: str
    number: str
    description: str
    body_part: str
    instances: tuple[int, ...]

    @property
    def middle(self) -> int:
        """The instance that stands for the series."""
        return self.instances[len(self.instances) // 2]


def list_study_series(conn: Transaction, study_id: int) -> list[SeriesOfStudy]:
    """List the series of a study in the order of their numbers."""
    groups: dict[str, list[tuple[tuple[int, str, int], tuple[str, ...]]]] = {}
    for row in conn.execute(_INSTANCES, (study_id,)):
        order = (*_number(row["instance_number"]), row["id"])
        facts = (row["modality"], row["series_number"], row["description"], row["body_part"])
        groups.setdefault(row["series_uid"], []).append((order, facts))
    found = []
    for uid, members in groups.items():
        members.sort()
        modality, number, description, part = next((each for _, each in members if any(each)), ("", "", "", ""))
        instances = tuple(order[2] for order, _ in members)
        found.append(SeriesOfStudy(uid, modality, number, description, part, instances))
    return sorted(found, key=lambda each: (*_number(each.number), each.series_uid))


def _number(text: str) -> tuple[int, str]:
    """Return an Integer String (IS) as a key to sort by: numbers in order, then other text."""
    plain = text.strip()
    is_number = plain.lstrip("+-").isdigit() and plain.isascii()
    return (int(plain), "") if is_number else (1 << 40, plain)
