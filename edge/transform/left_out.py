"""What processes leave out of pydicom that decode no frame, download nothing and name no private element: 40 MB."""

from __future__ import annotations

import sys
from types import ModuleType

_AS_IF_NOT_INSTALLED = ("numpy", "PIL", "gdcm", "jpeg_ls", "pylibjpeg", "requests")
_PRIVATE_DICTIONARY = "pydicom._private_dict"


def leave_out_pixels() -> None:
    """To be called before pydicom is imported; what is imported already stays."""
    for name in _AS_IF_NOT_INSTALLED:
        sys.modules.setdefault(name, None)  # type: ignore[arg-type]  # None: as if not installed
    empty = ModuleType(_PRIVATE_DICTIONARY)
    empty.private_dictionaries = {}  # type: ignore[attr-defined]
    sys.modules.setdefault(_PRIVATE_DICTIONARY, empty)
