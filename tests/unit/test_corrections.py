"""Corrections of an outgoing copy: what each rule does, and that nothing else changes in any encoding."""

from __future__ import annotations

import struct
import subprocess
import tracemalloc
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import pydicom
import pytest
from pydicom import Dataset
from pydicom.sequence import Sequence

from edge.config.coercion import Coercion
from edge.config.tables import keys
from edge.config.values import Unfit
from edge.dicom.header import read_from
from edge.dicom.part10 import parse_meta
from edge.errors import TransformError, Unreadable
from edge.model import InstanceHeader, Origin
from edge.transform.copying import read_plain, write_copy
from edge.transform.correct import Corrected, correct_data_set
from edge.transform.corrections import (
    NO_FACTS,
    AttributeValues,
    CompiledCoercion,
    CorrectionRules,
    RuleFailed,
    TodayFacts,
    rules_for,
)
from edge.transform.editing import edited_length, edited_pieces
from tests.support.objects import RealFile, ct_files, real_files
from tests.support.peers import requires

EXPLICIT, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED = "1.2.840.10008.1.2.1.99"
HEADER = InstanceHeader("", "", EXPLICIT, Origin("CT1", "EDGE", "10.0.0.1", 0.0))
SINCE = 1_790_000_000.0


def rule(name: str = "r", **lines: Any) -> Coercion:
    """A rule as a site writes it."""
    return Coercion(name, **{key: keys(Coercion)[key].read(value) for key, value in lines.items()})


def run(
    data: bytes, *rules: Coercion, syntax: str = EXPLICIT, facts: TodayFacts = NO_FACTS
) -> tuple[Corrected | None, bytes]:
    """What is found, and the data set as it would go out."""
    read = read_from(data)
    compiled = rules_for(rules, lambda _: SINCE)
    found = correct_data_set(read, len(data), syntax, HEADER, compiled, facts, "Edge 0067")
    if found is None:
        return None, data
    out = b"".join(edited_pieces(read, len(data), found.edits))
    assert len(out) == edited_length(len(data), found.edits)
    return found, out


def encoded(ds: Dataset, syntax: str = EXPLICIT) -> bytes:
    buffer = BytesIO()
    pydicom.filewriter.write_dataset(_raw(buffer, syntax), ds)
    return buffer.getvalue()


def _raw(buffer: BytesIO, syntax: str) -> Any:
    file = pydicom.filebase.DicomFileLike(buffer)
    file.is_implicit_VR, file.is_little_endian = syntax == IMPLICIT, syntax != BIG
    return file


def decoded(data: bytes, syntax: str = EXPLICIT) -> Dataset:
    return pydicom.filereader.read_dataset(BytesIO(data), syntax == IMPLICIT, syntax != BIG)


def sample(**more: Any) -> Dataset:
    """Elements of all sorts: private, nested, unknown, of undefined length, and pixels."""
    ds = Dataset()
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.SOPClassUID, ds.SOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", "1.2.3"
    ds.StudyInstanceUID, ds.SeriesInstanceUID = "1.2.4", "1.2.5"
    ds.InstitutionName, ds.PatientName, ds.PatientID = "Klinik Süd", "Müller^Jörg", "0042"
    inner = Dataset()
    inner.CodeValue, inner.CodeMeaning = "1", "Schädel"
    ds.AnatomicRegionSequence = Sequence([inner, Dataset()])
    ds.AnatomicRegionSequence.is_undefined_length = True
    ds.private_block(0x0009, "ACME", create=True).add_new(1, "LO", "private ä")
    ds.Rows = 1
    ds.add_new(0x7FE00010, "OW", bytes(range(64)))
    for keyword, value in more.items():
        setattr(ds, keyword, value)
    return ds


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG])
def test_only_what_a_rule_names_changes_and_the_original_is_on_record(syntax: str) -> None:
    data = encoded(sample(), syntax)
    made = rule(set={"InstitutionName": "Clinic"}, remove=["AnatomicRegionSequence"], prefix={"PatientID": "A-"})
    found, out = run(data, made, syntax=syntax)
    assert found is not None
    before, after = decoded(data, syntax), decoded(out, syntax)
    assert (after.InstitutionName, after.PatientID) == ("Clinic", "A-0042")
    assert "AnatomicRegionSequence" not in after
    (record,) = after.OriginalAttributesSequence
    assert record.AttributeModificationDateTime == "20260921141320.000000+0000"
    assert (record.ModifyingSystem, record.SourceOfPreviousValues) == ("Edge 0067", "CT1")
    (was,) = record.ModifiedAttributesSequence
    assert [each.tag for each in was] == [each.tag for each in before if each.tag in (0x80080, 0x82218, 0x100020)]
    assert (was.InstitutionName, was.PatientID) == ("Klinik Süd", "0042")
    del after.OriginalAttributesSequence
    for each in before:
        if each.tag not in was:
            assert after[each.tag] == each


def test_what_is_corrected_once_is_not_corrected_again() -> None:
    rules = (
        rule("a", set={"InstitutionName": "Clinic"}, prefix={"PatientID": "A-"}, trim=["StudyID"]),
        rule("b", map={"InstitutionName": {"Clinic": "Clinic 2"}}, regex={"PatientName": ["(.+)\\^(.+)", "\\1^X"]}),
    )
    found, out = run(encoded(sample(StudyID=" 7 ")), *rules)
    assert found is not None
    assert found.correction.rules == ("a", "b")
    assert run(out, *rules) == (None, out)


def test_a_retry_has_the_same_bytes() -> None:
    data, made = encoded(sample()), rule(set={"InstitutionName": "Clinic"})
    assert run(data, made)[1] == run(data, made)[1]


def test_a_rule_that_would_change_its_own_result_fails_with_its_name() -> None:
    with pytest.raises(RuleFailed) as caught:
        run(encoded(sample()), rule("fine", set={"StudyID": "1"}), rule("grows", regex={"PatientID": ["(.*)", "X\\1"]}))
    assert (caught.value.rule, "again" in caught.value.why) == ("grows", True)


def test_a_value_that_its_vr_cannot_hold_fails_and_is_not_quoted() -> None:
    with pytest.raises(RuleFailed, match=r"rule long: \(0010,0020\) would have longer than the 64") as caught:
        run(encoded(sample()), rule("long", prefix={"PatientID": "x" * 64}))
    assert "0042" not in str(caught.value)


@pytest.mark.parametrize(
    ("lines", "values", "expected"),
    [
        ({"set": {"InstitutionName": "B"}}, {"InstitutionName": "A"}, {"InstitutionName": "B"}),
        ({"set": {"InstitutionName": ""}}, {"InstitutionName": "A"}, {"InstitutionName": ""}),
        ({"set": {"ImageType": ["A", "B"]}}, {}, {"ImageType": ["A", "B"]}),
        ({"remove": ["StudyID"]}, {"StudyID": "1"}, {"StudyID": None}),
        ({"trim": ["PatientID"]}, {"PatientID": "  7 "}, {"PatientID": "7"}),
        ({"prefix": {"PatientID": "A"}}, {"PatientID": "A1"}, {"PatientID": "A1"}),
        ({"prefix": {"PatientID": "A"}}, {"PatientID": ""}, {"PatientID": ""}),
        ({"map": {"StationName": {"X": "Y"}}}, {"StationName": "X"}, {"StationName": "Y"}),
        ({"map": {"StationName": {"X": "Y"}}}, {"StationName": "XX"}, {"StationName": "XX"}),
        ({"regex": {"PatientID": ["0*([1-9].*)", "\\1"]}}, {"PatientID": "0042"}, {"PatientID": "42"}),
        ({"regex": {"PatientID": ["0*", "\\g<0>"]}}, {"PatientID": "0042"}, {"PatientID": "0042"}),
        ({"issuer": "MTF"}, {"PatientID": "1"}, {"IssuerOfPatientID": "MTF"}),
        ({"issuer": "MTF"}, {"IssuerOfPatientID": "X"}, {"IssuerOfPatientID": "X"}),
        ({"issuer": "MTF"}, {"PatientID": ""}, {"IssuerOfPatientID": None}),
        ({"charset": "ISO_IR 144"}, {}, {"SpecificCharacterSet": "ISO_IR 100"}),
        ({"when": {"InstitutionName": ""}, "set": {"StudyID": "1"}}, {"InstitutionName": ""}, {"StudyID": "1"}),
        ({"when": {"InstitutionName": ""}, "set": {"StudyID": "1"}}, {"InstitutionName": "A"}, {"StudyID": None}),
        ({"when": {"CallingAETitle": "CT?"}, "set": {"StudyID": "1"}}, {}, {"StudyID": "1"}),
        ({"when": {"CodeValue": "1"}, "set": {"StudyID": "1"}}, {}, {"StudyID": "1"}),
    ],
)
def test_each_step(lines: dict[str, Any], values: dict[str, Any], expected: dict[str, Any]) -> None:
    after = decoded(run(encoded(sample(**values)), rule(**lines))[1])
    for keyword, value in expected.items():
        assert after.get(keyword) == value if value is not None else keyword not in after


def test_the_issuer_of_an_accession_number_is_a_sequence() -> None:
    data = encoded(sample(AccessionNumber="A1"))
    _, out = run(data, rule(issuer={"AccessionNumber": "RIS"}))
    assert decoded(out).IssuerOfAccessionNumberSequence[0].LocalNamespaceEntityID == "RIS"
    assert run(out, rule(issuer={"AccessionNumber": "RIS"})) == (None, out)


def test_an_order_gives_what_it_has() -> None:
    facts = TodayFacts(order={"accession": "A9", "procedure_text": ""}, order_changed_at=SINCE + 60)
    made = rule(from_order=["AccessionNumber", "StudyDescription"])
    found, out = run(encoded(sample(AccessionNumber="A1", StudyDescription="Head")), made, facts=facts)
    assert found is not None
    after = decoded(out)
    assert (after.AccessionNumber, after.StudyDescription) == ("A9", "Head")
    assert after.OriginalAttributesSequence[0].AttributeModificationDateTime.startswith("20260921141420")


@pytest.mark.parametrize(
    ("here", "today", "expected"),
    [
        ("Doe^Jane", "DOE^JANE", "DOE^JANE"),
        ("Doe^Jane^^^", "Doe^Jane", "Doe^Jane^^^"),
        ("Yamada^Tarou=山田^太郎", "Yamada^Tarou", "Yamada^Tarou=山田^太郎"),
        ("Yamada^Tarou=山田^太郎", "Yamada^Jirou=山田^次郎", "Yamada^Jirou=山田^次郎"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "=山田^太郎=やまだ^たろう", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("Yamada^Tarou=山田^太郎=やまだ^たろう", "Yamada^Tarou==やまだ^たろう", "Yamada^Tarou=山田^太郎=やまだ^たろう"),
        ("Yamada^Tarou", "=山田^太郎", "=山田^太郎"),
    ],
)
def test_demographics_of_today(here: str, today: str, expected: str) -> None:
    data = encoded(sample(SpecificCharacterSet="ISO_IR 192", PatientName=here))
    found, out = run(data, facts=TodayFacts("0042", name=today, changed_at=SINCE))
    assert decoded(out).PatientName == expected
    if found is not None:
        assert (found.correction.reason, found.correction.rules) == ("CORRECT", ("demographics",))


@pytest.mark.parametrize(("today", "stays"), [("OLD", True), ("NEW", False), ("", True)])
def test_what_describes_another_issuer_goes_with_it(today: str, stays: bool) -> None:
    issuer = Dataset()
    issuer.UniversalEntityID, issuer.UniversalEntityIDType = "1.2.3", "ISO"
    ds = sample(IssuerOfPatientID="OLD", IssuerOfPatientIDQualifiersSequence=Sequence([issuer]))
    _, out = run(encoded(ds), facts=TodayFacts("77", today, changed_at=SINCE))
    after = decoded(out)
    assert after.PatientID == "77"
    assert ("IssuerOfPatientIDQualifiersSequence" in after) is stays
    was = after.OriginalAttributesSequence[0].ModifiedAttributesSequence[0]
    assert ("IssuerOfPatientIDQualifiersSequence" in was) is not stays
    assert run(out, facts=TodayFacts("77", today, changed_at=SINCE))[0] is None


def test_a_name_that_the_character_set_cannot_hold_turns_every_text_into_utf_8() -> None:
    data = encoded(sample())
    _, out = run(data, facts=TodayFacts("0042", name="Łuczak^Żaneta", changed_at=SINCE))
    after = decoded(out)
    assert after.SpecificCharacterSet == "ISO_IR 192"
    assert after.PatientName == "Łuczak^Żaneta"
    assert after.InstitutionName == "Klinik Süd"
    assert after.AnatomicRegionSequence[0].CodeMeaning == "Schädel"
    assert after[0x00091001].value == "private ä"
    assert after.PixelData == decoded(data).PixelData
    was = after.OriginalAttributesSequence[0].ModifiedAttributesSequence[0]
    assert (was.SpecificCharacterSet, was.PatientName) == ("ISO_IR 100", "Müller^Jörg")
    again, twice = run(out, facts=TodayFacts("0042", name="Łuczak^Żaneta", changed_at=SINCE))
    assert (again, twice) == (None, out)
    corrected, more = run(
        out, rule(set={"InstitutionName": "Süd 2"}), facts=TodayFacts(name="Ōta^Rei", changed_at=SINCE)
    )
    assert corrected is not None
    assert len(decoded(more).OriginalAttributesSequence) == 2


def test_text_of_an_object_is_read_in_the_set_that_a_rule_declares_for_it() -> None:
    """The object declares none: its bytes are Latin 2, which only the site knows."""
    ds = Dataset()
    ds.PatientName, ds.PatientID, ds.InstitutionName = "NAME", "0042", "CLINIC"
    data = encoded(ds)
    for text, here in (("Łąka", b"NAME"), ("Kliłka", b"CLINIC")):
        data = data.replace(here, text.encode("iso8859_2"))
    declares = rule(charset="ISO_IR 101")
    _, out = run(data, declares, facts=TodayFacts("0042", name="Müller^Ян", changed_at=SINCE))
    assert (decoded(out).SpecificCharacterSet, decoded(out).InstitutionName) == ("ISO_IR 192", "Kliłka")
    _, out = run(data, declares, rule(regex={"PatientName": ["(Ł[^^]*)", r"\1^ANNA"]}))
    after = decoded(out)
    assert (after.SpecificCharacterSet, after.PatientName) == ("ISO_IR 101", "Łąka^ANNA")
    assert run(out, declares, rule(regex={"PatientName": ["(Ł[^^]*)", r"\1^ANNA"]}))[0] is None


def test_an_attribute_behind_the_record_of_what_was_before_is_changed_in_place() -> None:
    data = encoded(sample(RTPlanLabel="OLD", StructureSetLabel="GONE"))
    _, out = run(data, rule(set={"RTPlanLabel": "NEW"}, remove=["StructureSetLabel"]))
    after = decoded(out)
    assert (after.RTPlanLabel, "StructureSetLabel" in after) == ("NEW", False)
    was = after.OriginalAttributesSequence[0].ModifiedAttributesSequence[0]
    assert (was.RTPlanLabel, was.StructureSetLabel) == ("OLD", "GONE")
    assert out.count(struct.pack("<HH", 0x300A, 0x0002)) == 2  # the element, and what it had


def test_an_old_value_that_is_no_legal_dicom_is_kept_as_bytes() -> None:
    data = encoded(sample()).replace(b"0042", b"00\x0142")  # a control character, and an odd length
    data = data.replace(struct.pack("<HH2sH", 0x10, 0x20, b"LO", 4), struct.pack("<HH2sH", 0x10, 0x20, b"LO", 5))
    _, out = run(data, rule(set={"PatientID": "42"}))
    (record,) = decoded(out).OriginalAttributesSequence
    (odd,) = record.NonconformingModifiedAttributesSequence
    assert (odd.SelectorAttribute, odd.NonconformingDataElementValue) == (0x00100020, b"00\x0142\0")


def group_length(ds: Dataset) -> int:
    """Bytes of the elements of group 0010."""
    group, charset = ds[0x00100000:0x00110000], ds[0x00080005:0x00080006]
    group.SpecificCharacterSet = ds.SpecificCharacterSet
    return len(encoded(group)) - len(encoded(charset))


def test_defined_lengths_and_group_lengths_around_a_change_are_right() -> None:
    ds = sample(SpecificCharacterSet="ISO_IR 100")
    ds.AnatomicRegionSequence.is_undefined_length = False
    length = struct.pack("<HH2sHI", 0x10, 0, b"UL", 4, group_length(ds))
    data = encoded(ds)
    at = data.index(struct.pack("<HH2s", 0x10, 0x10, b"PN"))
    found, out = run(data[:at] + length + data[at:], facts=TodayFacts("0042", name="Łuczak^Ola", changed_at=SINCE))
    assert found is not None
    after = decoded(out)
    assert after.AnatomicRegionSequence[0].CodeMeaning == "Schädel"
    assert after[0x00100000].value == group_length(after)


def test_a_deflated_object_is_corrected_and_deflated_again(tmp_path: Path) -> None:
    plain = encoded(sample())
    deflate = zlib.compressobj(wbits=-15)
    (tmp_path / "in").write_bytes(b"head" + deflate.compress(plain) + deflate.flush())
    with (
        (tmp_path / "in").open("rb") as file,
        read_plain(file.fileno(), 4, (tmp_path / "in").stat().st_size - 4, DEFLATED, tmp_path) as data,
    ):
        assert data.read(0, data.length) == plain
        made = write_copy(tmp_path / "out", b"head", [plain[:10], plain[10:]], DEFLATED)
    assert (made.size - made.dataset_offset) % 2 == 0
    assert zlib.decompress((tmp_path / "out").read_bytes()[4:], wbits=-15) == plain


def test_two_gigabytes_take_no_more_memory(tmp_path: Path) -> None:
    head = encoded(sample())[: -(12 + 64)]
    size = 2 << 30
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.write(head + struct.pack("<HH2sHI", 0x7FE0, 0x10, b"OW", 0, size))
        file.truncate(len(head) + 12 + size)
    with (
        path.open("rb") as file,
        read_plain(file.fileno(), 0, path.stat().st_size, EXPLICIT, tmp_path) as data,
    ):
        tracemalloc.start()
        rules = rules_for([rule(set={"InstitutionName": "Clinic"})])
        found = correct_data_set(data.read, data.length, EXPLICIT, HEADER, rules, NO_FACTS, "Edge")
        assert found is not None
        pieces = sum(len(piece) for piece in edited_pieces(data.read, data.length, found.edits))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert pieces == edited_length(data.length, found.edits)
    assert peak < 8 << 20


def test_every_real_object_is_corrected_in_place() -> None:
    """Nothing but the elements of the rule differs; what cannot be walked is refused, never cut."""
    for file in real_files():
        is_corrected_in_place(file)


def is_corrected_in_place(file: RealFile) -> None:
    blob = file.path.read_bytes()
    try:
        meta = parse_meta(blob)
    except Unreadable:
        return  # no Part 10 file: it is in quarantine, and is never sent
    syntax, data = meta.context_key.transfer_syntax_uid, blob[meta.dataset_offset :]
    if syntax == DEFLATED:
        data = zlib.decompress(data, wbits=-15)
    made = rule(set={"InstitutionName": "Example Health Clinic"}, prefix={"PatientID": "A-"})
    try:
        found, out = run(data, made, syntax=syntax)
    except (Unreadable, TransformError):
        return
    if found is None:
        return
    assert run(out, made, syntax=syntax) == (None, out)
    kept = data
    for edit in reversed(found.edits):
        kept = kept[: edit.at] + kept[edit.at + edit.size :]
    left = out
    shift = 0
    for edit in found.edits:
        at = edit.at + shift
        left = left[:at] + left[at + len(edit.data) :]
        shift -= edit.size
    assert left == kept
    assert sum(edit.size for edit in found.edits) < 4096 or "0400" in str(found.edits)


@pytest.mark.parametrize(
    ("key", "value", "why"),
    [
        ("set", {"InstitutionNam": "x"}, 'did you mean "InstitutionName"'),
        ("set", {"StudyInstanceUID": "1.2"}, "identifies the object"),
        ("set", {"Rows": 1}, "describes pixels"),
        ("set", {"PatientBirthDate": "1970"}, "no date"),
        ("set", {"AnatomicRegionSequence": "x"}, "can only be removed"),
        ("remove", ["PixelData"], "describes pixels"),
        ("regex", {"PatientID": ["(a", "b"]}, "regular expression"),
        ("regex", {"PatientID": ["(a)", "\\2"]}, "replacement"),
        ("map", {"StationName": {"a": "b", "b": "c"}}, "mapped again"),
        ("from_order", ["PatientAge"], "no order has it"),
        ("charset", "latin1", "no character set"),
    ],
)
def test_a_mistake_in_a_rule_is_named(key: str, value: object, why: str) -> None:
    with pytest.raises(Unfit, match=why):
        keys(Coercion)[key].read(value)


def test_the_pixels_are_read_once(tmp_path: Path) -> None:
    """What is decided is decided from the header; then each byte is copied once."""
    (path,) = ct_files(tmp_path, 1, 512 << 10)
    data = path.read_bytes()[parse_meta(path.read_bytes()[:4096]).dataset_offset :]
    made = rules_for([rule(set={"InstitutionName": "Clinic"}, regex={"PatientID": ["P0*(.+)", "\\1"]})])
    asked: list[int] = []

    def read(at: int, count: int) -> bytes:
        asked.append(len(data[at : at + count]))
        return data[at : at + count]

    found = correct_data_set(read, len(data), EXPLICIT, HEADER, made, NO_FACTS, "Edge")
    assert found is not None
    assert sum(asked) < 64 << 10
    asked.clear()
    out = b"".join(edited_pieces(read, len(data), found.edits))
    assert len(out) == edited_length(len(data), found.edits)
    assert sum(asked) <= len(data)


def test_a_corrected_copy_has_no_new_error_for_dciodvfy(tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path, 1, 20_000)
    meta = parse_meta(path.read_bytes()[:4096])
    blob = path.read_bytes()
    _, out = run(blob[meta.dataset_offset :], rule(set={"InstitutionName": "Clinic"}, issuer="MTF"))
    (tmp_path / "copy.dcm").write_bytes(blob[: meta.dataset_offset] + out)
    before, after = (_errors(each) for each in (path, tmp_path / "copy.dcm"))
    assert after <= before


def _errors(path: Path) -> set[str]:
    done = subprocess.run([requires("dciodvfy"), path], capture_output=True, text=True, check=False)
    return {line for line in (done.stdout + done.stderr).splitlines() if line.startswith("Error")}


CODED = TodayFacts(
    order={"procedure_code": "CTCHEST", "procedure_scheme": "L", "procedure_text": "CT Thorax"}, order_changed_at=SINCE
)


def test_the_code_of_the_order_is_written_where_there_is_none() -> None:
    data, made = encoded(sample()), rule(from_order=["ProcedureCodeSequence", "RequestedProcedureCodeSequence"])
    _, once = run(data, made, facts=CODED)
    for name in ("ProcedureCodeSequence", "RequestedProcedureCodeSequence"):
        (item,) = decoded(once)[name].value
        assert (item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning) == ("CTCHEST", "L", "CT Thorax")
    assert run(once, made, facts=CODED) == (None, once)
    long = TodayFacts(order={**CODED.order, "procedure_code": "A-CODE-OF-MORE-THAN-SIXTEEN"}, order_changed_at=SINCE)
    _, once = run(data, made, facts=long)
    assert decoded(once).ProcedureCodeSequence[0].LongCodeValue == "A-CODE-OF-MORE-THAN-SIXTEEN"
    assert run(data, made, facts=NO_FACTS)[0] is None


def test_the_time_on_record_is_that_of_the_facts_so_that_a_retry_has_the_same_bytes() -> None:
    data, facts = encoded(sample()), TodayFacts("PAT-C", name="TODAY^NAME", changed_at=SINCE)
    _, first = run(data, facts=facts)
    _, retry = run(data, facts=facts)
    assert first == retry
    (record,) = decoded(first).OriginalAttributesSequence
    assert record.AttributeModificationDateTime == "20260921141320.000000+0000"


def test_a_step_that_raises_holds_the_object_with_the_name_of_the_rule_and_no_value() -> None:
    def fail(_now: AttributeValues, _facts: TodayFacts) -> None:
        raise ValueError("a value of the patient")

    rules = CorrectionRules((CompiledCoercion("odd", (), (fail,), frozenset(), False),))
    with pytest.raises(RuleFailed) as raised:
        rules.correct(HEADER, {}, NO_FACTS)
    assert (raised.value.rule, str(raised.value)) == ("odd", "rule odd: it raises ValueError")
