"""The Standard's tables of attributes and of UIDs (PS3.6), as pydicom has them.

pydicom loads readers, writers and pixel code with whatever is imported of it, and numpy where there is one: half a
second and 20 MB. Its tables are two modules that import nothing; they are loaded without the rest.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType


def _load_table(name: str) -> ModuleType:
    """One module of pydicom without its package, which takes it over where it is imported later."""
    name = f"pydicom.{name}"
    if name in sys.modules:
        return sys.modules[name]
    package = find_spec("pydicom")
    spec = package and PathFinder.find_spec(name, package.submodule_search_locations)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"no module {name}: pydicom 3 has it", name=name)
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


_attributes = _load_table("_dicom_dict")
#: Tag -> VR (perhaps several: "US or SS"), VM, name, "Retired" or nothing, keyword.
_ATTRIBUTES: Mapping[int, tuple[str, str, str, str, str]] = _attributes.DicomDictionary
#: The same by tags in which an x is any digit, as "60xx0010".
_REPEATING = [
    (int(tag.replace("x", "0"), 16), int("".join("0" if digit == "x" else "F" for digit in tag), 16), entry)
    for tag, entry in _attributes.RepeatersDictionary.items()
]
#: Keyword -> tag; not of repeating groups.
TAGS_BY_KEYWORD: Mapping[str, int] = {entry[4]: tag for tag, entry in _ATTRIBUTES.items() if entry[4]}
#: UID -> name, type, what else is said of it, "Retired" or nothing, keyword (PS3.6 annex A).
STANDARD_UIDS: Mapping[str, tuple[str, str, str, str, str]] = _load_table("_uid_dict").UID_dictionary


def tag_for_keyword(keyword: str) -> int | None:
    """The tag of an attribute; None: not of the dictionary."""
    return TAGS_BY_KEYWORD.get(keyword)


def keyword_for_tag(tag: int) -> str:
    """The keyword of an attribute; empty: not of the dictionary."""
    found = _entry(tag)
    return found[4] if found else ""


def dictionary_vr(tag: int) -> str:
    """The VR of an attribute, or "US or SS" and the like; empty: not of the dictionary."""
    found = _entry(tag)
    return found[0] if found else ""


@lru_cache(maxsize=8192)
def _entry(tag: int) -> tuple[str, str, str, str, str] | None:
    found = _ATTRIBUTES.get(tag)
    if found is None and not tag >> 16 & 1:
        found = next((entry for base, mask, entry in _REPEATING if tag & mask == base), None)
    return found
