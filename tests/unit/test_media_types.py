"""Which media type a caller is sent, by the weights of its Accept header."""

from __future__ import annotations

import pytest

from edge.scp.dicomweb.media_types import choose_media, parse_accepted
from edge.scp.dicomweb.protocol import HttpError
from edge.scp.dicomweb.rendered import _choose_picture

JSON, XML = "application/dicom+json", "application/dicom+xml"


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("*/*", JSON),
        ("*/*, application/dicom+json;q=0", XML),
        ("application/dicom+json; q=0, application/*", XML),
        ("*/*, application/*;q=0, application/dicom+xml", XML),
        ("text/html, */*;q=0.8", JSON),
    ],
)
def test_a_type_with_a_weight_of_zero_is_not_sent(accept: str, chosen: str) -> None:
    assert choose_media(accept, (JSON, XML)) == chosen


def test_a_caller_that_refuses_all_is_answered_so() -> None:
    with pytest.raises(HttpError, match="Accept is to name one of"):
        choose_media("*/*, application/dicom+json;q=0", (JSON,))


@pytest.mark.parametrize("accept", ["*/*, image/jpeg;q=0", "image/*, image/jpeg;q=0", "image/png"])
def test_a_picture_is_of_a_type_that_is_wanted(accept: str) -> None:
    assert _choose_picture(accept, is_list=False) == ("image/png", False)


def test_parts_may_be_refused() -> None:
    (found,) = parse_accepted("*/*, multipart/related;q=0")
    assert not found.covers("multipart/related")
    assert found.covers("application/dicom")
