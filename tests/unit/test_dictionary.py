"""The tables of the Standard are those of pydicom, which loads much more with them."""

from __future__ import annotations

import codecs

from pydicom import charset, datadict
from pydicom._dicom_dict import DicomDictionary

from edge.model import dictionary
from edge.model.character_sets import CODECS, ESCAPES

#: Overlays and curves repeat; group lengths, private elements and what does not exist are in no table.
OTHERS = [0x60000010, 0x60200010, 0x60FE3000, 0x50000005, 0x00203105, 0x00100000, 0x60110010, 0x00090010, 0x0008111E]


def vr_by_pydicom(tag: int) -> str:
    try:
        return datadict.dictionary_VR(tag)
    except KeyError:
        return ""


def test_attributes_are_those_of_pydicom() -> None:
    for tag in (*DicomDictionary, *OTHERS):
        assert dictionary.keyword_for_tag(tag) == datadict.keyword_for_tag(tag), hex(tag)
        assert dictionary.dictionary_vr(tag) == vr_by_pydicom(tag), hex(tag)


def test_keywords_have_their_tags() -> None:
    for keyword, tag in datadict.keyword_dict.items():
        assert dictionary.tag_for_keyword(keyword) == (tag if keyword else None)
    assert dictionary.tag_for_keyword("NoSuchKeyword") is None


def test_character_sets_are_those_of_pydicom() -> None:
    def name(codec: str) -> str:
        return codecs.lookup(codec).name

    ascii_terms = {"", "ISO_IR 6", "ISO 2022 IR 6"}  # which pydicom decodes as Latin 1
    assert {term: name(CODECS[term]) for term in charset.python_encoding if term not in ascii_terms} == {
        term: name(codec) for term, codec in charset.python_encoding.items() if term not in ascii_terms
    }
    assert {CODECS[term] for term in ascii_terms} == {"ascii"}
    assert {code: name(ESCAPES[code]) for code in charset.CODES_TO_ENCODINGS} == {
        code: name(codec) for code, codec in charset.CODES_TO_ENCODINGS.items()
    }
    extended = {codec for term, codec in CODECS.items() if term.startswith("ISO 2022 IR ")}
    assert extended - {"ascii"} <= set(ESCAPES.values())
