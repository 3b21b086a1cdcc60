"""De-identification: the whole of Table E.1-1, at every depth; a canary in 300 places leaves none of them."""

from __future__ import annotations

import warnings
import zlib

import pytest
from pydicom import Dataset
from pydicom.datadict import dictionary_VR
from pydicom.sequence import Sequence

from edge.dicom.header import read_from
from edge.dicom.part10 import parse_meta
from edge.errors import TransformError, Unreadable
from edge.transform.confidentiality import Deidentification, _read_table, safe_private, table_actions
from edge.transform.deidentify import DeidentifiedEdits, deidentify, pixel_risk
from edge.transform.editing import edited_pieces
from tests.support.objects import RealFile, real_files
from tests.unit.test_corrections import EXPLICIT, IMPLICIT, decoded, encoded

KEY = b"0123456789abcdef0123456789abcdef"
BASIC = Deidentification("T17", KEY)
_PLANTED = {"DA": "19631122", "TM": "121212", "DT": "19631122121212", "AS": "077Y", "UR": "http://canary.example"}
_PLANTED |= {"PN": "Canary^Bird", "CS": "CANARY", "AE": "CANARY", "UI": "1.2.826.0.1.999.{n}"}
TEXT_VRS = ("SH", "LO", "ST", "LT", "UT", "UC")


def run(data: bytes, project: Deidentification = BASIC, syntax: str = EXPLICIT) -> tuple[DeidentifiedEdits, bytes]:
    read = read_from(data)
    found = deidentify(read, len(data), syntax, project)
    return found, b"".join(edited_pieces(read, len(data), found.edits))


def plant(ds: Dataset, tags: list[int]) -> int:
    """A value that can be found again in each element that can hold one. Returns how many."""
    count = 0
    for tag in tags:
        vr = dictionary_VR(tag).split(" ")[0]
        if vr in TEXT_VRS:
            ds.add_new(tag, vr, f"CANARY{count:04}")
        elif vr in _PLANTED:
            ds.add_new(tag, vr, _PLANTED[vr].format(n=count))
        elif vr == "OB":
            ds.add_new(tag, vr, b"CANARY")
        else:
            continue
        count += 1
    return count


def canary() -> tuple[Dataset, int]:
    """Every attribute of the table, nested and private ones, overlays, curves, and the content of a report."""
    _, rows = _read_table()
    named = [tag for tag in rows if 0x00080000 <= tag < 0x7FE00000 and tag not in (0x00080005, 0x00080018)]
    top, inner, deeper, content = Dataset(), Dataset(), Dataset(), Dataset()
    count = plant(top, [tag for tag in named if _is_known(tag)])
    count += plant(inner, [0x00100010, 0x00100020, 0x00081155, 0x00104000, 0x00080080])
    count += plant(deeper, [0x00081155, 0x00100010, 0x00204000])
    count += plant(content, [0x0040A160, 0x0040A123, 0x0040A124, 0x0040A121, 0x0040A122, 0x0040A120, 0x00080104])
    inner.SourceImageSequence = Sequence([deeper])
    inner.private_block(0x0009, "CANARY", create=True).add_new(1, "LO", "CANARY nested")
    top.ReferencedImageSequence = Sequence([inner])
    top.ContentSequence = Sequence([content])
    top.PerformedProtocolCodeSequence = Sequence([deeper])
    top.private_block(0x0011, "CANARY", create=True).add_new(1, "LO", "CANARY private")
    private = Dataset()
    private.PatientName = "Canary^Private"
    top[0x00111001].value = "CANARY"
    top.private_block(0x0011, "CANARY", create=False).add_new(2, "SQ", Sequence([private]))
    top.add_new(0x60000010, "US", 1)
    top.add_new(0x60004000, "LT", "CANARY overlay")
    top.add_new(0x60003000, "OW", b"CANARY")
    top.add_new(0x50003000, "OW", b"CANARY")
    top.SOPClassUID, top.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.88.11", "1.2.826.0.1.999.1000"
    top.StudyInstanceUID, top.SeriesInstanceUID = "1.2.826.0.1.999.1001", "1.2.826.0.1.999.1002"
    top.BodyPartExamined, top.Manufacturer = "CHEST", "Made of Canary^Bird"
    return top, count + 8


def _is_known(tag: int) -> bool:
    try:
        return dictionary_VR(tag) != "SQ"
    except KeyError:
        return False


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
@pytest.mark.parametrize("clean", [(), ("descriptors",), ("descriptors", "structured-content", "graphics")])
def test_a_canary_in_300_places_leaves_none(syntax: str, clean: tuple[str, ...]) -> None:
    ds, count = canary()
    assert count >= 300
    data = encoded(ds, syntax)
    _, out = run(data, Deidentification("T17", KEY, frozenset(clean)), syntax)
    plain = out.lower()
    left = [each for each in (b"canary", b"bird", b"19631122", b"121212", b"077y", b"1.2.826.0.1.999") if each in plain]
    assert not left, [str(each.tag) for each in decoded(out, syntax).iterall() if "canary" in str(each.value).lower()]
    after = decoded(out, syntax)
    assert after.PatientIdentityRemoved == "YES"
    assert after.DeidentificationMethod
    codes = [each.CodeValue for each in after.DeidentificationMethodCodeSequence]
    numbers = {"graphics": "113103", "structured-content": "113104", "descriptors": "113105"}
    assert codes == ["113100", *[code for option, code in numbers.items() if option in clean]]
    assert after.BodyPartExamined == "CHEST"


def test_the_same_uid_is_the_same_in_every_reference_and_another_in_another_project() -> None:
    ds, _ = canary()
    ds.ReferencedImageSequence[0].ReferencedSOPInstanceUID = ds.SOPInstanceUID
    found, out = run(encoded(ds))
    after = decoded(out)
    assert after.SOPInstanceUID == found.sop_instance_uid == BASIC.map_uid("1.2.826.0.1.999.1000")
    assert after.ReferencedImageSequence[0].ReferencedSOPInstanceUID == after.SOPInstanceUID
    assert after.StudyInstanceUID == found.study_uid
    assert len({Deidentification(project, KEY).map_uid("1.2.3") for project in ("A", "B")}) == 2
    assert Deidentification("T17", b"x" * 32).map_uid("1.2.3") != BASIC.map_uid("1.2.3")
    assert BASIC.map_uid("1.2.840.10008.5.1.4.1.1.2") == "1.2.840.10008.5.1.4.1.1.2"
    assert "0123456789" not in repr(BASIC)


def test_one_patient_has_one_pseudonym() -> None:
    first, second = Dataset(), Dataset()
    for ds, study in ((first, "1.2.3"), (second, "1.2.4")):
        ds.SOPInstanceUID, ds.StudyInstanceUID, ds.PatientID, ds.PatientName = "1.2", study, "0042", "Doe^Jane"
        ds.StudyID = ""
    one, two = decoded(run(encoded(first))[1]), decoded(run(encoded(second))[1])
    assert one.PatientID == two.PatientID == one.PatientName
    assert one.PatientID.startswith("T17-")


def test_what_an_option_retains_stays() -> None:
    ds = Dataset()
    ds.StudyDate, ds.StudyTime, ds.StationName, ds.InstitutionName = "20260102", "101112", "CT1", "Clinic"
    ds.StudyInstanceUID, ds.PatientID, ds.PatientAge, ds.StudyDescription = (
        "1.2.3",
        "0042",
        "056Y",
        "CT HEAD 0042 1.2.2026",
    )

    def after(*options: str) -> Dataset:
        return decoded(run(encoded(ds), Deidentification("T17", KEY, frozenset(options)))[1])

    kept = after("dates", "device", "institution", "patient-characteristics", "uids")
    assert (kept.StudyDate, kept.StudyTime, kept.StationName, kept.InstitutionName) == (
        *("20260102", "101112", "CT1", "Clinic"),
    )
    assert (kept.PatientAge, kept.StudyInstanceUID) == ("056Y", "1.2.3")
    assert kept.LongitudinalTemporalInformationModified == "UNMODIFIED"
    shifted = after("modified-dates")
    assert shifted.StudyDate < "20260102"
    assert (shifted.StudyTime, shifted.LongitudinalTemporalInformationModified) == ("101112", "MODIFIED")
    assert (after().get("StudyDescription"), after().StudyDate) == (None, "")
    assert after("descriptors").StudyDescription.split() == ["CT", "HEAD"]


def test_a_text_is_cleaned_of_a_name_in_every_spelling_and_keeps_its_letters() -> None:
    ds = Dataset()
    ds.SpecificCharacterSet, ds.StudyInstanceUID, ds.PatientName = "ISO_IR 100", "1.2.3", "Strauß^Änne"
    ds.StudyDescription, ds.SeriesDescription = "Schädel Strauß ÄNNE 12.03.2024 Nr. 1234567", "STRAUSS, seitlich"
    after = decoded(run(encoded(ds), Deidentification("T17", KEY, frozenset({"descriptors"})))[1])
    assert after.StudyDescription.split() == ["Schädel", "Nr."]
    assert after.SeriesDescription == ", seitlich"


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_what_a_report_says_is_cleaned_at_every_depth(syntax: str) -> None:
    """Text Value (0040,A160) is not in the table: what is done with its sequence is done with it."""
    inner, outer, code, ds = Dataset(), Dataset(), Dataset(), Dataset()
    inner.TextValue = "Jane Miller, seen on 12.03.2024, Größe 12 mm, case 1234567"
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "1", "99CLINIC", "as on 12.03.2024"
    outer.ContentSequence, outer.ConceptCodeSequence = Sequence([inner]), Sequence([code])
    ds.SpecificCharacterSet, ds.StudyInstanceUID, ds.PatientName = "ISO_IR 192", "1.2.3", "Miller^Jane"
    ds.ContentSequence = Sequence([outer])

    def content(*options: str) -> Dataset:
        project = Deidentification("T17", KEY, frozenset(options))
        found: Dataset = decoded(run(encoded(ds, syntax), project, syntax)[1], syntax).ContentSequence[0]
        return found

    cleaned = content("structured-content")
    assert cleaned.ContentSequence[0].TextValue == ", seen on , Größe 12 mm, case"
    assert cleaned.ConceptCodeSequence[0].CodeMeaning == "as on"
    assert content().ContentSequence[0].TextValue == "REMOVED"


def test_a_date_that_cannot_be_shifted_is_removed() -> None:
    ds = Dataset()
    ds.StudyInstanceUID, ds.StudyDate = "1.2.3", "00010101"
    after = decoded(run(encoded(ds), Deidentification("T17", KEY, frozenset({"modified-dates"})))[1])
    assert after.StudyDate == ""


def private_object() -> Dataset:
    """Safe private elements, others of the same creator and of one that is not listed, a name, a sequence."""
    ds, inner, stack = Dataset(), Dataset(), Dataset()
    ds.SOPInstanceUID, ds.StudyInstanceUID, ds.PatientID, ds.PatientName = "1.2", "1.2.3", "0042", "Canary^Bird"
    suv = ds.private_block(0x7053, "Philips PET Private Group", create=True)
    suv.add_new(0x00, "DS", "0.0001234")
    suv.add_new(0x03, "ST", "CANARY of the same creator")
    ds.private_block(0x7053, "CANARY Inc.", create=True).add_new(0x00, "DS", "4.5")  # safe in another's block
    stack.PatientName = "Canary^Nested"
    stack.private_block(0x2001, "Philips Imaging DD 001", create=True).add_new(0x32, "FL", 1.5)
    philips = ds.private_block(0x2001, "Philips Imaging DD 001", create=True)
    philips.add_new(0x03, "FL", 1000.0)
    philips.add_new(0x5A, "ST", "for Canary^Bird")
    philips.add_new(0x5F, "SQ", Sequence([stack]))
    inner.add_new(0x00191010, "LO", "CANARY without a creator")
    inner.private_block(0x0019, "SIEMENS MR HEADER", create=True).add_new(0x0C, "IS", "1000")
    ds.ReferencedImageSequence = Sequence([inner])
    return ds


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_of_private_elements_those_stay_that_the_standard_calls_safe(syntax: str) -> None:
    data = encoded(private_object(), syntax)
    _, out = run(data, Deidentification("T17", KEY, frozenset({"safe-private"})), syntax)
    assert b"canary" not in out.lower()
    after = decoded(out, syntax)
    suv = after.private_block(0x7053, "Philips PET Private Group")
    philips = after.private_block(0x2001, "Philips Imaging DD 001")
    assert (float(suv[0x00].value), 0x03 in suv, philips[0x03].value) == (0.0001234, False, 1000.0)
    assert "Bird" not in str(philips[0x5A].value)
    (stack,) = philips[0x5F].value
    assert stack.private_block(0x2001, "Philips Imaging DD 001")[0x32].value == 1.5
    assert 0x0C in after.ReferencedImageSequence[0].private_block(0x0019, "SIEMENS MR HEADER")
    assert 0x70530011 not in after
    assert [each.CodeValue for each in after.DeidentificationMethodCodeSequence] == ["113100", "113111"]
    _, without = run(data, BASIC, syntax)
    assert not [each for each in decoded(without, syntax).iterall() if each.tag.is_private]


def test_the_table_of_safe_private_elements_is_whole() -> None:
    assert safe_private(0x7053, "Philips PET Private Group") == {0x00: "", 0x09: ""}
    assert safe_private(0x2001, "Philips Imaging DD 001")[0x5F] == "SQ"
    assert safe_private(0x2001, "Canary") == {}
    assert set(safe_private(0x0199, "NQLeft")) == set(range(0x01, 0x17))


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT])
def test_what_the_table_forgets_goes_too(syntax: str) -> None:
    """Dates of birth in another calendar, who assigned a number, numbers of orders, links to where the object is."""
    issuer, retrieval = Dataset(), Dataset()
    issuer.LocalNamespaceEntityID, issuer.UniversalEntityID, issuer.UniversalEntityIDType = "SECRET", "1.9.9", "ISO"
    retrieval.RetrieveURI = "http://SECRET/1.2.3"
    ds = Dataset()
    ds.PatientID, ds.PatientBirthDateInAlternativeCalendar, ds.PatientAlternativeCalendar = (
        "1",
        "SECRET S40",
        "JAPANESE",
    )
    ds.PatientDeathDateInAlternativeCalendar = "SECRET R01"
    ds.IssuerOfPatientIDQualifiersSequence = Sequence([issuer])
    ds.IssuerOfAccessionNumberSequence = Sequence([issuer])
    ds.OrderPlacerIdentifierSequence = Sequence([issuer])
    ds.add_new(0x00401006, "SH", "SECRET 1")
    ds.add_new(0x00402007, "SH", "SECRET 2")
    ds.CommentsOnTheScheduledProcedureStep = "SECRET"
    ds.RetrieveURL = "http://SECRET/studies/1.2.3"
    ds.WADORetrievalSequence = Sequence([retrieval])
    code = Dataset()
    code.URNCodeValue, code.CodeMeaning = "urn:lex:1", "Chest"
    ds.AnatomicRegionSequence = Sequence([code])
    _, out = run(encoded(ds, syntax), syntax=syntax)
    assert b"SECRET" not in out
    assert b"1.9.9" not in out
    after = decoded(out, syntax)
    assert "PatientAlternativeCalendar" not in after
    assert after.AnatomicRegionSequence[0].URNCodeValue == "urn:lex:1"


def test_the_table_is_whole() -> None:
    columns, rows = _read_table()
    assert columns[0] == "basic"
    assert len(rows) == 617
    basic = table_actions(frozenset())
    assert {basic[tag] for tag in basic} == {"X", "Z", "D", "U"}
    assert (basic[0x00100010], basic[0x00080018], basic[0x00102160], basic[0x00080050]) == ("Z", "U", "X", "Z")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"Modality": "CT", "BurnedInAnnotation": "NO"}, ""),
        ({"Modality": "CT", "BurnedInAnnotation": "YES"}, "Burned In Annotation is YES"),
        ({"Modality": "CT"}, "Burned In Annotation is absent"),
        ({"Modality": "US", "BurnedInAnnotation": "NO"}, "modality US"),
    ],
)
def test_pixels_that_may_name_the_patient(values: dict[str, str], why: str) -> None:
    ds = Dataset()
    ds.Rows = 1
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    data = encoded(ds)
    assert pixel_risk(read_from(data), len(data), EXPLICIT) == why


def test_an_overlay_in_the_pixels_is_one_of_them() -> None:
    ds = Dataset()
    ds.Modality, ds.BurnedInAnnotation, ds.Rows = "CT", "NO", 1
    ds.add_new(0x60000100, "US", 16)
    ds.add_new(0x60000102, "US", 12)
    data = encoded(ds)
    assert pixel_risk(read_from(data), len(data), EXPLICIT) == "an overlay in unused bits of the pixels"


def test_every_real_object_loses_its_identity() -> None:
    for file in real_files():
        loses_its_identity(file)


def loses_its_identity(file: RealFile) -> None:
    blob = file.path.read_bytes()
    try:
        meta = parse_meta(blob)
    except Unreadable:
        return  # no Part 10 file: it is in quarantine, and is never sent
    syntax, data = meta.context_key.transfer_syntax_uid, blob[meta.dataset_offset :]
    if syntax == "1.2.840.10008.1.2.1.99":
        data, syntax = zlib.decompress(data, wbits=-15), EXPLICIT
    try:
        found, out = run(data, syntax=syntax)
    except (Unreadable, TransformError):
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some are odd
        before = decoded(data, syntax)
        uid, name = str(before.get("SOPInstanceUID", "")), before.get("PatientName", "")
        after = decoded(out, syntax)
        again, twice = run(data, syntax=syntax)
        assert (again.sop_instance_uid, twice) == (found.sop_instance_uid, out)
        assert after.get("SOPInstanceUID", "") == BASIC.map_uid(uid)
        if name:
            assert str(after.PatientName).startswith("T17-")
        if 0x7FE00010 in before:
            assert after.get_item(0x7FE00010).value == before.get_item(0x7FE00010).value
        assert not [each for each in after if each.tag.is_private]


def test_a_document_waits_for_a_person_and_is_kept_when_one_has_inspected_it() -> None:
    ds = Dataset()
    ds.SOPClassUID, ds.SOPInstanceUID, ds.Modality = "1.2.840.10008.5.1.4.1.1.104.1", "1.2.826.0.1.999.2", "DOC"
    ds.EncapsulatedDocument = b"%PDF a letter"
    data = encoded(ds)
    assert pixel_risk(read_from(data), len(data), EXPLICIT) == "an encapsulated document"
    read = read_from(data)
    edits = deidentify(read, len(data), EXPLICIT, BASIC, is_approved=True).edits
    assert decoded(b"".join(edited_pieces(read, len(data), edits))).EncapsulatedDocument[:13] == b"%PDF a letter"
    assert b"%PDF" not in run(data)[1]
