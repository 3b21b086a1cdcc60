"""The navigation: a few groups, each with its pages, the same on every page. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edge.web.accounts import UserRole


@dataclass(frozen=True, slots=True)
class NavigationEntry:
    """One page of a group. `also`: addresses of pages that are reached from it."""

    path: str
    label: str
    role: UserRole = UserRole.VIEWER
    also: tuple[str, ...] = ()

    def depth_of(self, path: str) -> int:
        """Return how much of an address this entry names; 0: it is another page's."""
        fits = [
            each for each in (self.path, *self.also) if path == each or (each != "/" and path.startswith(f"{each}/"))
        ]
        return max(map(len, fits), default=0)


@dataclass(frozen=True, slots=True)
class NavigationGroup:
    """Pages that belong together, the first of which the group's own link leads to."""

    label: str
    entries: tuple[NavigationEntry, ...]

    @property
    def path(self) -> str:
        return self.entries[0].path


@dataclass(frozen=True, slots=True)
class Navigation:
    """What one visitor is shown on one page; `group` and `entry` are None on a page that belongs to no group."""

    groups: tuple[NavigationGroup, ...]
    group: NavigationGroup | None = None
    entry: NavigationEntry | None = None


def navigation_for(groups: Sequence[NavigationGroup], role: UserRole, path: str) -> Navigation:
    """Return the groups with what a role may see, and where in them an address is."""
    allowed = (replace(each, entries=tuple(one for one in each.entries if role >= one.role)) for each in groups)
    seen = tuple(each for each in allowed if each.entries)
    found = max(((one.depth_of(path), one, each) for each in seen for one in each.entries), key=lambda each: each[0])
    return Navigation(seen, found[2], found[1]) if found[0] else Navigation(seen)
