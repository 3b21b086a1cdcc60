"""The resources of the DICOMweb services (PS3.18 chapter 10), in one table: by it requests are served, and stated.

`edge.scp.dicomweb.server` gives each its handler; `edge statement dicom` prints the table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge.scp.dicomweb.exchange import DICOM, DICOM_JSON, DICOM_XML, WEB_ROOT

#: The variable parts of an address, by name; a UID where nothing else is said.
_FORMS = {"list": r"\d{1,9}(?:,\d{1,9})*", "tag": r"[0-9A-Fa-f]{8}(?:/\d{1,6}/[0-9A-Fa-f]{8})*", "frame": r"\d{1,9}"}
_UID = r"[0-9.]{1,64}"
_STUDY, _SERIES, _INSTANCE = (
    "/studies/{study}",
    "/studies/{study}/series/{series}",
    "/studies/{study}/series/{series}/instances/{instance}",
)
_FRAME, _FRAMES = f"{_INSTANCE}/frames/{{frame}}", f"{_INSTANCE}/frames/{{list}}"
RELATED, OF_FRAMES = "multipart/related", "of the frame's transfer syntax"
JPEG, PNG = "image/jpeg", "image/png"


@dataclass(frozen=True, slots=True)
class WebResource:
    """What answers a method at addresses of a form, to callers with a service."""

    method: str
    path: str  # below WEB_ROOT, with the names of UIDs and the like in braces
    service: str  # the word of [client.NAME] services
    transaction: str  # its name here, and of its handler
    media: tuple[str, ...]  # media types of the answer, the first of ours where several are alike

    @property
    def form(self) -> re.Pattern[str]:
        found = re.sub(r"\{(\w+)\}", lambda name: f"(?P<{name[1]}>{_FORMS.get(name[1], _UID)})", self.path)
        return re.compile(f"{WEB_ROOT}{found}/?")


STORE_WORD, SEARCH_WORD, RETRIEVE_WORD = "store", "query", "retrieve"
WEB_RESOURCES = (
    *(
        WebResource("POST", path, STORE_WORD, "store instances", (DICOM_JSON, DICOM_XML))
        for path in ("/studies", _STUDY)
    ),
    WebResource("GET", "/studies", SEARCH_WORD, "search for studies", (DICOM_JSON,)),
    *(
        WebResource("GET", path, SEARCH_WORD, "search for series", (DICOM_JSON,))
        for path in ("/series", f"{_STUDY}/series")
    ),
    *(
        WebResource("GET", path, SEARCH_WORD, "search for instances", (DICOM_JSON,))
        for path in ("/instances", f"{_STUDY}/instances", f"{_SERIES}/instances")
    ),
    *(
        WebResource("GET", path, RETRIEVE_WORD, "retrieve instances", (RELATED, DICOM))
        for path in (_STUDY, _SERIES, _INSTANCE)
    ),
    *(
        WebResource("GET", f"{path}/metadata", RETRIEVE_WORD, "retrieve metadata", (DICOM_JSON, DICOM_XML))
        for path in (_STUDY, _SERIES, _INSTANCE)
    ),
    WebResource("GET", _FRAMES, RETRIEVE_WORD, "retrieve frames", (RELATED, OF_FRAMES)),
    WebResource("GET", f"{_INSTANCE}/bulkdata/{{tag}}", RETRIEVE_WORD, "retrieve bulk data", (RELATED, OF_FRAMES)),
    WebResource("GET", f"{_INSTANCE}/rendered", RETRIEVE_WORD, "retrieve rendered", (JPEG, PNG)),
    WebResource("GET", f"{_FRAMES}/rendered", RETRIEVE_WORD, "retrieve rendered", (JPEG, PNG, RELATED)),
    *(
        WebResource("GET", f"{path}/rendered", RETRIEVE_WORD, "retrieve rendered instances", (RELATED, JPEG, PNG))
        for path in (_STUDY, _SERIES)
    ),
    *(
        WebResource("GET", f"{path}/thumbnail", RETRIEVE_WORD, "retrieve thumbnail", (JPEG, PNG))
        for path in (_STUDY, _SERIES, _INSTANCE, _FRAME)
    ),
)
