"""HL7 v2 messages to test with, and what each must come to; `build_cases` makes them, the same bytes each time.

Every patient, number and UID is invented (names TESTPATIENT, identifiers T...., UIDs under the example arc 2.999).
The messages are sent in the order of `build_cases`, by one feed with authority "MTF0067" and no charset, to an empty
gateway with no relay. A file is what lies between VT and FS CR; a file of the kind "stream" is all that goes down the
socket. `afterwards` says what must be so once the message is applied; what it does not name has not changed.

    T0001@MTF0067 name=... birth=... sex=...     the facts of the patient that the identifier resolves to ("-" is empty)
    T0101@MTF0067 -> T0102@MTF0067               the identifier resolves to that one
    T0005@MTF0067 == 9990000005@USDOD            two identifiers of one patient
    order A1001 ...                              the order with that accession number
    alert NAME, parked NAME, counted NAME        what is to be seen of it
"""

import random
from dataclasses import dataclass
from itertools import count

VT, FS = b"\x0b", b"\x1c"
ENDS = {"CR": "\r", "LF": "\n", "CRLF": "\r\n", "CRCR": "\r\r"}
UTF8, JIS = "UNICODE UTF-8", "~ISO IR87"
OTHER = "OTHERHOSP"


@dataclass
class Case:
    """One file, and what a gateway must make of it."""

    name: str
    event: str
    version: str
    data: bytes
    answer: str
    msa2: str
    effect: str
    afterwards: str
    msh18: str = ""
    charset: str = "ascii"
    ends: str = "CR"
    kind: str = "message"
    well_formed: str = "yes"
    segments: int = 0
    error: str = ""


CASES: list[Case] = []
_serials = count(1)


def control_id() -> str:
    """The next MSH-10."""
    return f"TM{next(_serials):04d}"


def msh(event: str, version: str, mid: str, msh18: str = "", accept: str = "", app: str = "") -> str:
    """The header; the time runs on with the control id, one minute each."""
    n = int(mid[2:]) if mid[2:].isdigit() else 0
    at = f"20260105{8 + n // 60:02d}{n % 60:02d}00"
    head = f"MSH|^~\\&|TESTHIS|MTF0067|EDGE|MTF0067|{at}||{event}|{mid}|P|{version}"
    return f"{head}|||{accept}|{app}||{msh18}" if msh18 or accept or app else head + "|||"


def evn(event: str) -> str:
    return f"EVN|{event}|20260105080000"


def cx(number: str, authority: str = "MTF0067", kind: str = "MR") -> str:
    return f"{number}^^^{authority}^{kind}" if authority else number


EDIPI = "USDOD&2.999.1&ISO"


def pid(ids: str, name: str, born: str = "19700101", sex: str = "F", two: str = "") -> str:
    return f"PID|1|{two}|{ids}||{name}||{born}|{sex}|||1 TEST STREET^^TESTTOWN^^00000"


def adt(event: str, version: str, *segments: str, mid: str = "", msh18: str = "") -> tuple[str, list[str]]:
    """An ADT message and its control id."""
    mid = mid or control_id()
    kind = (
        f"ADT^{event}"
        if version in ("2.1", "2.2", "2.3", "2.3.1")
        else f"ADT^{event}^{STRUCTURES.get(event, 'ADT_A01')}"
    )
    return mid, [msh(kind, version, mid, msh18), evn(event), *segments]


STRUCTURES = {
    "A05": "ADT_A05",
    "A28": "ADT_A05",
    "A31": "ADT_A05",
    "A40": "ADT_A39",
    "A43": "ADT_A43",
    "A47": "ADT_A30",
}


def add(
    name: str,
    message: tuple[str, list[str]],
    answer: str,
    effect: str,
    afterwards: str,
    *,
    charset: str = "ascii",
    ends: str = "CR",
    last: bool = True,
    **more,
) -> Case:
    """A case from segments."""
    mid, segments = message
    end = ENDS[ends]
    text = end.join(segments) + (end if last else "")
    head = [*segments[0].split(segments[0][3]), *[""] * 18]
    event, version, msh18 = head[8], head[11], head[17]
    data = text.encode(charset)
    case = Case(name, event, version, data, answer, mid, effect, afterwards, msh18, charset, ends, **more)
    case.segments = case.segments or sum(1 for segment in segments if segment)
    case.ends = case.ends if last else f"{ends}, none at the end"
    CASES.append(case)
    return case


def raw(name: str, data: bytes, answer: str, afterwards: str, **more) -> None:
    """A case from bytes."""
    more = {"kind": "message", "well_formed": "no", "msa2": "", "effect": "refused", "ends": "-", **more}
    CASES.append(Case(name, more.pop("event", ""), more.pop("version", ""), data, answer, more.pop("msa2"),
                      more.pop("effect"), afterwards, **more))  # fmt: skip


def demographics() -> None:
    """Who somebody is."""
    alpha = "T0001@MTF0067"
    add(
        "a28-new",
        adt("A28", "2.5", pid(cx("T0001"), "TESTPATIENT^ALPHA"), "PV1|1|N", msh18=UTF8),
        "AA",
        "created",
        f"{alpha} name=TESTPATIENT^ALPHA birth=19700101 sex=F",
    )
    add(
        "a01-admit",
        adt("A01", "2.1", pid("T0002", "TESTPATIENT^BRAVO", "19710202", "M"), "PV1|1|I|WARD1"),
        "AA",
        "created",
        "T0002@MTF0067 name=TESTPATIENT^BRAVO birth=19710202 sex=M",
    )
    add(
        "a04-register",
        adt("A04", "2.2", pid(cx("T0003"), "TESTPATIENT^CHARLIE", "19720303", "M"), "PV1|1|O"),
        "AA",
        "created",
        "T0003@MTF0067 name=TESTPATIENT^CHARLIE birth=19720303 sex=M",
    )
    add(
        "a05-preadmit",
        adt("A05", "2.3", pid(cx("T0004"), "TESTPATIENT^DELTA", "19730404", two="X0004"), "PV1|1|P"),
        "AA",
        "created",
        "T0004@MTF0067 name=TESTPATIENT^DELTA birth=19730404 sex=F; X0004 (PID-2) is no identifier",
    )
    first = adt("A08", "2.3.1", pid(cx("T0001"), "TESTPATIENT-MARRIED^ALPHA"), "PV1|1|N")
    add("a08-update", first, "AA", "updated", f"{alpha} name=TESTPATIENT-MARRIED^ALPHA birth=19700101 sex=F")
    add(
        "a31-null-and-empty",
        adt("A31", "2.4", pid(cx("T0001"), "TESTPATIENT-THIRD^ALPHA", '""', ""), "PV1|1|N"),
        "AA",
        "updated",
        f'{alpha} name=TESTPATIENT-THIRD^ALPHA birth=- sex=F; "" deletes, an empty field leaves what was',
    )
    add(
        "a08-same-message-again",
        first,
        "AA",
        "duplicate",
        f"{alpha} name=TESTPATIENT-THIRD^ALPHA birth=- sex=F; counted duplicate; applied once, the older does not return",  # noqa: E501
    )
    add(
        "a08-same-id-other-bytes",
        adt("A08", "2.3.1", pid(cx("T0001"), "TESTPATIENT-FOURTH^ALPHA"), "PV1|1|N", mid=first[0]),
        "AA",
        "updated",
        f"{alpha} name=TESTPATIENT-FOURTH^ALPHA birth=19700101 sex=F; alert hl7-control-id-reused",
    )
    add(
        "a08-unknown-patient",
        adt("A08", "2.5.1", pid(cx("T0010"), "TESTPATIENT^JULIETT", "19790909")),
        "AA",
        "created",
        "T0010@MTF0067 name=TESTPATIENT^JULIETT birth=19790909 sex=F",
    )
    add(
        "pid3-mrn-and-edipi",
        adt("A08", "2.5.1", pid(cx("T0005") + "~" + cx("9990000005", EDIPI, "NI"), "TESTPATIENT^ECHO")),
        "AA",
        "created",
        "T0005@MTF0067 name=TESTPATIENT^ECHO birth=19700101 sex=F; T0005@MTF0067 == 9990000005@USDOD",
    )
    add(
        "pid3-edipi-first",
        adt("A08", "2.5.1", pid(cx("9990000006", EDIPI, "NI") + "~" + cx("T0006"), "TESTPATIENT^FOXTROT")),
        "AA",
        "created",
        "T0006@MTF0067 == 9990000006@USDOD; an image with T0006 leaves with T0006, not with the EDIPI",
    )
    add(
        "pid3-no-authority",
        adt("A08", "2.3.1", pid("T0007", "TESTPATIENT^GOLF")),
        "AA",
        "created",
        "T0007@MTF0067 name=TESTPATIENT^GOLF birth=19700101 sex=F",
    )
    add(
        "pid3-same-number-other-authority",
        adt("A08", "2.5.1", pid(cx("T0001", OTHER), "TESTPATIENT^HOTEL", "19550505", "M")),
        "AA",
        "created",
        f"T0001@{OTHER} name=TESTPATIENT^HOTEL birth=19550505 sex=M; {alpha} name=TESTPATIENT-FOURTH^ALPHA: two patients",  # noqa: E501
    )
    add(
        "pid3-expired",
        adt(
            "A08",
            "2.5.1",
            pid("T0008^^^MTF0067^MR^^20200101^20201231~T0009^^^MTF0067^MR^^20210101", "TESTPATIENT^INDIA"),
        ),
        "AA",
        "created",
        "T0008@MTF0067 == T0009@MTF0067; what leaves carries T0009, the one that is valid",
    )
    add(
        "name-suffix-and-prefix",
        adt("A08", "2.5.1", pid(cx("T0011"), "TESTPATIENT^KILO^M^JR^DR^^L")),
        "AA",
        "created",
        "T0011@MTF0067 name=TESTPATIENT^KILO^M^DR^JR: DICOM has the prefix before the suffix",
    )
    add(
        "name-alias-first",
        adt("A08", "2.5.1", pid(cx("T0012"), "TESTALIAS^LIMA^^^^^A~TESTPATIENT^LIMA^^^^^L")),
        "AA",
        "created",
        "T0012@MTF0067 name=TESTPATIENT^LIMA: the legal name, not the alias",
    )
    add(
        "birth-year-only-sex-a",
        adt("A08", "2.5.1", pid(cx("T0013"), "TESTPATIENT^MIKE", "1970", "A")),
        "AA",
        "created",
        "T0013@MTF0067 birth=- sex=O: a year is no DICOM date, neither written nor compared",
    )
    add(
        "birth-with-time",
        adt("A08", "2.7", pid(cx("T0014"), "TESTPATIENT^NOVEMBER", "197011120304-0500", "U")),
        "AA",
        "created",
        "T0014@MTF0067 birth=19701112 sex=-",
    )


def merges() -> None:
    """Who was thought to be two."""

    def merge(old: str, new: str, version: str = "2.3.1", event: str = "A40") -> tuple[str, list[str]]:
        return adt(event, version, pid(new, "TESTPATIENT^MERGED"), f"MRG|{old}||||||TESTPATIENT^OLD")

    m = "@MTF0067"
    add("a40-a-to-b", merge(cx("T0101"), cx("T0102")), "AA", "merged", f"T0101{m} -> T0102{m}")
    add(
        "a40-b-to-c",
        merge(cx("T0102"), cx("T0103"), "2.5"),
        "AA",
        "merged",
        f"T0101{m} -> T0103{m}; T0102{m} -> T0103{m}",
    )
    add("a40-same-merge-again", merge(cx("T0101"), cx("T0102")), "AA", "none", f"T0101{m} -> T0103{m}: nothing new")
    add(
        "a08-for-a-merged-id",
        adt("A08", "2.5.1", pid(cx("T0101"), "TESTPATIENT^STALE", "19010101")),
        "AA",
        "none",
        f"T0103{m} name=TESTPATIENT^MERGED birth=19700101; alert merged-id-used",
    )
    add(
        "a40-unknown-old",
        merge(cx("T0199"), cx("T0104"), "2.5.1"),
        "AA",
        "merged",
        f"T0199{m} -> T0104{m}; an image that comes later with T0199 leaves with T0104",
    )
    for turn, (old, new) in enumerate((("T0111", "T0112"), ("T0112", "T0111")) * 2, 1):
        note = "" if turn == 1 else "; alert merge-reversed, one for the pair"
        add(f"a40-inverse-{turn}", merge(cx(old), cx(new), "2.5"), "AA", "merged", f"{old}{m} -> {new}{m}{note}")
    add("a40-into-itself", merge(cx("T0120"), cx("T0120"), "2.5"), "AE", "refused", "nothing", error="205")
    mid, segments = merge(cx("T0121"), cx("T0122"), "2.6")
    segments += [pid(cx("T0124"), "TESTPATIENT^SECOND"), f"MRG|{cx('T0123')}"]
    add("a40-two-in-one", (mid, segments), "AA", "merged", f"T0121{m} -> T0122{m}; T0123{m} -> T0124{m}")
    add(
        "a40-other-authority",
        merge(cx("T0131"), cx("T0131", OTHER), "2.5.1"),
        "AA",
        "merged",
        f"T0131{m} -> T0131@{OTHER}: the same number, another identifier",
    )
    add("a40-unqualified-old", merge("T0132", cx("T0133"), "2.3.1"), "AA", "merged", f"T0132{m} -> T0133{m}")
    add("a18-merge", merge("T0134", "T0135", "2.2", "A18"), "AA", "merged", f"T0134{m} -> T0135{m}")
    add("a34-merge", merge(cx("T0136"), cx("T0137"), "2.3", "A34"), "AA", "merged", f"T0136{m} -> T0137{m}")
    add("a47-change-id", merge(cx("T0141"), cx("T0142"), "2.6", "A47"), "AA", "merged", f"T0141{m} -> T0142{m}")
    add(
        "a47-to-an-id-in-use",
        merge(cx("T0142"), cx("T0003"), "2.6", "A47"),
        "AA",
        "parked",
        f"parked identifier-in-use; T0142{m} and T0003{m} stay two patients",
    )
    add("a43-move-id", merge(cx("T0151"), cx("T0152"), "2.7", "A43"), "AA", "merged", f"T0151{m} -> T0152{m}")
    for old, new in (("T0171", "T0172"), ("T0172", "T0173")):
        add(f"a40-cycle-{old[-1]}", merge(cx(old), cx(new), "2.5"), "AA", "merged", f"{old}{m} -> {new}{m}")
    add(
        "a40-cycle-3",
        merge(cx("T0173"), cx("T0171"), "2.5"),
        "AA",
        "parked",
        f"parked merge-cycle; T0171{m} -> T0173{m}; T0172{m} -> T0173{m}",
    )
    add(
        "a08-after-the-cycle",
        adt("A08", "2.5", pid(cx("T0171"), "TESTPATIENT^AFTER")),
        "AA",
        "parked",
        f"parked behind-another; T0173{m} name=TESTPATIENT^MERGED; messages about others go on",
    )
    add(
        "a24-link",
        adt("A24", "2.5.1", pid(cx("T0161"), "TESTPATIENT^LINK"), pid(cx("T0162"), "TESTPATIENT^LINK")),
        "AE",
        "refused",
        "nothing: links are not kept, and the sender hears so",
        error="201",
    )
    add(
        "a40-no-mrg", adt("A40", "2.5", pid(cx("T0163"), "TESTPATIENT^MERGED")), "AE", "refused", "nothing", error="100"
    )
    add(
        "a40-mrg1-empty",
        adt("A40", "2.5", pid(cx("T0163"), "TESTPATIENT^MERGED"), "MRG|"),
        "AE",
        "refused",
        "nothing",
        error="101",
    )


def orders() -> None:
    """What is to be done to whom."""

    def order(
        kind: str,
        control: str,
        number: str,
        patient: str,
        name: str,
        version: str = "2.3.1",
        study: str = "",
        code: str = "TCHEST",
        ids: bool = True,
        last: str = "",
        at: str = "202601061000",
    ) -> tuple[str, list[str]]:
        mid = control_id()
        accession = f"A{number}" if ids else ""
        placer, filler, requested, step = (f"{letter}{number}" if ids else "" for letter in ("P", "F", "RP", "SP"))
        obr = f"OBR|1|{placer}|{filler}|{code}^TEST PROCEDURE^TESTCODES||{'|' * 12}{accession}|{requested}|{step}||||CT|||^^^{at}"  # noqa: E501
        orc = f"ORC|{control}|{placer}|{filler}||{last}||^^^{at}"
        return mid, [msh(kind, version, mid), pid(cx(patient), name), "PV1|1|O", orc, obr, *([study] if study else [])]

    def zds(n: int) -> str:
        return f"ZDS|2.999.10.{n}^TESTHIS^Application^DICOM"

    who = ("T0301", "TESTPATIENT^ORDER-ONE")
    add(
        "orm-nw",
        order("ORM^O01", "NW", "1001", *who, study=zds(1001)),
        "AA",
        "order",
        "order A1001 open, T0301@MTF0067, study 2.999.10.1001, TCHEST at 20260106 10:00, CT",
    )
    add(
        "orm-xo",
        order("ORM^O01", "XO", "1001", *who, study=zds(1001), code="TABDOMEN", at="202601061130"),
        "AA",
        "order",
        "order A1001 open, TABDOMEN at 20260106 11:30; one order, not two",
    )
    add(
        "orm-ca",
        order("ORM^O01", "CA", "1001", *who, study=zds(1001)),
        "AA",
        "order",
        "order A1001 cancelled; not on the worklist; an image with A1001 still matches, with a note",
    )
    add(
        "orm-nw-second",
        order("ORM^O01", "NW", "1002", *who, study=zds(1002)),
        "AA",
        "order",
        "order A1002 open, T0301@MTF0067, study 2.999.10.1002",
    )
    add(
        "orm-sc-complete",
        order("ORM^O01", "SC", "1002", *who, study=zds(1002), last="CM"),
        "AA",
        "order",
        "order A1002 completed",
    )
    add(
        "orm-xo-before-nw",
        order("ORM^O01", "XO", "1003", *who),
        "AA",
        "order",
        "order A1003 open, no study UID: matched by accession number alone",
    )
    add(
        "orm-accession-reused",
        order("ORM^O01", "NW", "1002", "T0302", "TESTPATIENT^ORDER-TWO", study=zds(1902)),
        "AA",
        "order",
        "alert accession-reused; order A1002 of T0301@MTF0067 unchanged; an image with A1002 is judged by its patient",
    )
    add("orm-no-numbers", order("ORM^O01", "NW", "1004", *who, ids=False), "AE", "refused", "nothing", error="101")
    mid, segments = order("ORM^O01", "NW", "1005", *who, study=zds(1005))
    segments += [segments[3].replace("P1005", "P1006"), segments[4].replace("OBR|1|P1005", "OBR|2|P1006"), zds(1006)]
    add(
        "orm-two-in-one",
        (mid, segments),
        "AA",
        "order",
        "order A1005 open, two requested procedures, studies 2.999.10.1005 and 2.999.10.1006",
    )
    two = ("T0303", "TESTPATIENT^ORDER-THREE")
    for control, last, text in (
        ("NW", "", "open, T0303@MTF0067, no study UID"), ("XO", "", "open, TABDOMEN"), ("SC", "IP", "in progress"),
        ("CA", "", "cancelled"),
    ):  # fmt: skip
        mid, segments = order(
            "OMG^O19^OMG_O19",
            control,
            "1101",
            *two,
            version="2.5.1",
            last=last,
            code="TABDOMEN" if control == "XO" else "TCHEST",
        )
        segments.insert(4, "TQ1|1||||||202601061000||R")
        add(f"omg-{control.lower()}", (mid, segments), "AA", "order", f"order A1101 {text}")
    mid, segments = order("OMI^O23^OMI_O23", "NW", "1201", *two, version="2.5.1")
    segments += ["IPC|A1201|RP1201|2.999.10.1201|SP1201|CT|||TESTROOM|CT1"]
    segments.insert(4, "TQ1|1||||||202601061000||S")
    add(
        "omi-nw-ipc",
        (mid, segments),
        "AA",
        "order",
        "order A1201 open, T0303@MTF0067, study 2.999.10.1201, stat, for CT1",
    )


def others() -> None:
    """What is only carried on, and what nobody knows."""
    mid = control_id()
    oru = [msh("ORU^R01^ORU_R01", "2.8", mid), pid(cx("T0301"), "TESTPATIENT^ORDER-ONE"), "OBR|1|P1002|F1002|TCHEST",
           "OBX|1|TX|TREPORT||NO FINDING. TEST REPORT.||||||F"]  # fmt: skip
    add("oru-small", (mid, oru), "AA", "none", "counted relay-only")
    mid = control_id()
    body = ("TESTDATA" * 8 + "=") * (2 * 1024 * 1024 // 65 + 1)
    oru = [msh("ORU^R01^ORU_R01", "2.5.1", mid), pid(cx("T0301"), "TESTPATIENT^ORDER-ONE"), "OBR|1|P1002|F1002|TCHEST",
           f"OBX|1|ED|TPDF||^application^pdf^Base64^{body[: 2 * 1024 * 1024]}||||||F"]  # fmt: skip
    add("oru-2-mib-obx", (mid, oru), "AA", "none", "counted relay-only; memory does not grow with the number of such")
    mid = control_id()
    siu = [msh("SIU^S12^SIU_S12", "2.5.1", mid), "SCH|P1301|F1301|||||TEST|ROUTINE|30|MIN|^^30^202601061000",
           pid(cx("T0301"), "TESTPATIENT^ORDER-ONE"), "RGS|1", "AIS|1||TCHEST^TEST PROCEDURE^TESTCODES|202601061000"]  # fmt: skip  # noqa: E501
    add("siu-s12", (mid, siu), "AA", "none", "counted relay-only")
    add(
        "unknown-adt-event", adt("A99", "2.9", pid(cx("T0401"), "TESTPATIENT^UNKNOWN")), "AA", "none", "counted ignored"
    )
    mid = control_id()
    add("unknown-type", (mid, [msh("ZZT^Z01", "2.5", mid), "ZZZ|1|TEST"]), "AA", "none", "counted ignored")


def shapes() -> None:  # noqa: PLR0915 - a list
    """The same message as different systems write it."""

    def update(n: int, name: str, version: str = "2.5.1", msh18: str = "", *more: str) -> tuple[str, list[str]]:
        return adt("A08", version, pid(cx(f"T0{n}"), name), *more, msh18=msh18)

    def made(n: int, name: str) -> str:
        return f"T0{n}@MTF0067 name={name} birth=19700101 sex=F"

    notes = ("NTE|1||line one\\.br\\line two\\X0D0A\\line three \\E\\ \\R\\ \\S\\ \\Q99\\ end",)
    add(
        "escapes",
        update(501, "TEST\\T\\PATIENT^ESC\\F\\APE", "2.5", "", *notes),
        "AA",
        "created",
        made(501, "TEST&PATIENT^ESC|APE"),
    )
    add(
        "escape-of-a-component",
        update(502, "TEST\\S\\PATIENT^CARET\\E\\"),
        "AA",
        "created",
        made(502, "TEST PATIENT^CARET") + ": ^, = and \\ cannot stand inside a DICOM name; note name-changed",
    )
    add(
        "surname-is-a-backslash", update(503, "\\^LONE"), "AA", "created", "T0503@MTF0067 name=^LONE; note name-changed"
    )
    mid, segments = update(504, "TESTPATIENT^ZED")
    segments[2:2] = ["ZPI|1|HOUSE|FIELDS", "ZZ9"]
    add("z-segments", (mid, [*segments, "ZLS|"]), "AA", "created", made(504, "TESTPATIENT^ZED"))
    mid, segments = update(505, "TESTPATIENT^GAP")
    add("empty-segment", (mid, [*segments[:2], "", *segments[2:]]), "AA", "created", made(505, "TESTPATIENT^GAP"))
    for n, ends in enumerate(ENDS, 506):
        add(
            f"ends-{ends.lower()}",
            update(n, f"TESTPATIENT^{ends}"),
            "AA",
            "created",
            made(n, f"TESTPATIENT^{ends}"),
            ends=ends,
        )
    add(
        "ends-none-at-the-end",
        update(510, "TESTPATIENT^OPEN"),
        "AA",
        "created",
        made(510, "TESTPATIENT^OPEN"),
        last=False,
    )
    case = add("bom", update(511, "TESTPATIENT^MARK"), "AA", "created", made(511, "TESTPATIENT^MARK"), charset="utf-8")
    case.data = b"\xef\xbb\xbf" + case.data
    mid, segments = update(512, "TESTPATIENT^BARE", "2.3")
    segments[0] = segments[0].rstrip("|")
    add("msh-without-trailing-bars", (mid, segments), "AA", "created", made(512, "TESTPATIENT^BARE"), ends="LF")
    mid, segments = update(513, "TESTPATIENT^FIVE", "2.8.2")
    segments[0] = segments[0].replace("^~\\&", "^~\\&#", 1)
    add("msh2-five-characters", (mid, segments), "AA", "created", made(513, "TESTPATIENT^FIVE"))
    mid, segments = update(514, "TESTPATIENT^HASH")
    add(
        "field-separator-hash",
        (mid, [s.replace("|", "#") for s in segments]),
        "AA",
        "created",
        made(514, "TESTPATIENT^HASH"),
    )
    mid, segments = update(515, "TESTPATIENT^LAND")
    segments[0] = segments[0].replace("|2.5.1", "|2.5.1^USA")
    add("version-with-country", (mid, segments), "AA", "created", made(515, "TESTPATIENT^LAND"))
    umlaut = "TESTPATIENT-MÜLLER^RENÉ"
    add("latin1-with-msh18", update(521, umlaut, msh18="8859/1"), "AA", "created", made(521, umlaut), charset="latin-1")
    add(
        "latin1-without-msh18",
        update(522, umlaut),
        "AA",
        "created",
        made(522, umlaut) + "; note charset-guessed: it is no UTF-8, so Latin-1",
        charset="latin-1",
    )
    add("utf8-with-msh18", update(523, umlaut, msh18=UTF8), "AA", "created", made(523, umlaut), charset="utf-8")
    add(
        "utf8-without-msh18",
        update(524, umlaut),
        "AA",
        "created",
        made(524, umlaut) + "; note charset-guessed",
        charset="utf-8",
    )
    japanese = "TESTPATIENT^MIHON^^^^^L^A~見本^患者^^^^^L^I~みほん^かんじゃ^^^^^L^P"
    add(
        "iso2022jp",
        update(525, japanese, msh18=JIS),
        "AA",
        "created",
        made(525, "TESTPATIENT^MIHON=見本^患者=みほん^かんじゃ")
        + "; the second byte of 本 is a backslash: decode, then split",
        charset="iso2022_jp",
    )
    add(
        "msh18-says-utf8-bytes-are-latin1",
        update(526, umlaut, msh18=UTF8),
        "AA",
        "created",
        "T0526@MTF0067 name in doubt: kept and shown, not written out; birth=19700101 sex=F; alert charset-wrong",
        charset="latin-1",
    )
    add(
        "msh18-unknown",
        update(527, umlaut, msh18="8859/99"),
        "AA",
        "created",
        "T0527@MTF0067 name in doubt: kept and shown, not written out; birth=19700101 sex=F; alert charset-wrong",
        charset="utf-8",
    )
    mid, segments = update(528, "TESTPATIENT^ENHANCED")
    segments[0] = msh("ADT^A08^ADT_A01", "2.5.1", mid, "", "AL", "NE")
    add(
        "enhanced-accept-only",
        (mid, segments),
        "CA",
        "created",
        made(528, "TESTPATIENT^ENHANCED") + "; no second answer",
    )

    mid, segments = update(529, "TESTPATIENT^ENHANCED-BOTH")
    segments[0] = msh("ADT^A08^ADT_A01", "2.5.1", mid, "", "AL", "AL")
    add("enhanced-both", (mid, segments), "CA AA", "created", made(529, "TESTPATIENT^ENHANCED-BOTH"))
    mid, segments = update(530, "TESTPATIENT^ENHANCED-NONE")
    segments[0] = msh("ADT^A08^ADT_A01", "2.5.1", mid, "", "NE", "NE")
    add("enhanced-none", (mid, segments), "-", "created", made(530, "TESTPATIENT^ENHANCED-NONE") + "; no answer at all")

    ids, joined = [], ["FHS|^~\\&|TESTHIS|MTF0067", "BHS|^~\\&|TESTHIS|MTF0067"]
    for n in (531, 532, 533):
        mid, segments = update(n, f"TESTPATIENT^BATCH{n}")
        ids.append(mid)
        joined += segments
    add(
        "batch-of-three",
        (" ".join(ids), [*joined, "BTS|3", "FTS|1"]),
        "AA AA AA",
        "created",
        "T0531, T0532, T0533@MTF0067 exist",
        kind="batch",
        segments=len(joined) + 2,
    )
    ids, joined = [], ["BHS|^~\\&|TESTHIS|MTF0067"]
    for n in (534, 535, 536):
        mid, segments = update(n, f"TESTPATIENT^BATCH{n}")
        ids.append(mid)
        joined += segments if n != 535 else segments[:2]
    add(
        "batch-with-one-bad",
        (" ".join(ids), [*joined, "BTS|3"]),
        "AA AE AA",
        "created",
        "T0534 and T0536@MTF0067 exist, T0535 does not",
        kind="batch",
        segments=len(joined) + 1,
        error="100",
    )
    for case in CASES[-2:]:
        case.event, case.version, case.msh18 = "ADT^A08^ADT_A01", "2.5.1", ""


def refusals() -> None:
    """What must not be answered with success."""
    raw("garbage-text", b"HELLO, THIS IS A TEST AND NO HL7\r", "AR", "nothing; counted refused", error="100")
    noise = random.Random(67)
    data = bytes(b for b in (noise.randrange(256) for _ in range(600)) if b not in (0x0B, 0x1C))
    raw("garbage-binary", data, "AR", "nothing; counted refused", error="100", charset="-")
    raw("garbage-empty", b"", "AR", "nothing; counted refused", error="100")
    raw("garbage-header-cut", b"MSH|^~\\&|TESTHIS", "AR", "nothing; counted refused", error="101")
    mid, segments = adt("A08", "2.5.1", pid(cx("T0601"), "TESTPATIENT^REFUSED"))
    segments[0] = segments[0].replace("ADT^A08^ADT_A01", "")
    add("no-message-type", (mid, segments), "AR", "refused", "nothing", error="101")
    mid, segments = adt("A08", "2.5.1", pid(cx("T0602"), "TESTPATIENT^REFUSED"))
    segments[0] = segments[0].replace(mid, "")
    add("no-control-id", ("", segments), "AR", "refused", "nothing", error="101")
    add("no-pid", adt("A08", "2.5.1", "PV1|1|O"), "AE", "refused", "nothing", error="100")
    add("pid3-empty", adt("A08", "2.5.1", pid("", "TESTPATIENT^REFUSED")), "AE", "refused", "nothing", error="101")


def streams() -> None:
    """What goes down a socket, framing and all."""

    def framed(n: int, name: str) -> tuple[str, bytes]:
        mid, segments = adt("A08", "2.5.1", pid(cx(f"T0{n}"), name))
        return mid, "\r".join([*segments, ""]).encode()

    (one, first), (two, second) = framed(701, "TESTPATIENT^STREAM-ONE"), framed(702, "TESTPATIENT^STREAM-TWO")
    same = {
        "kind": "stream",
        "well_formed": "yes",
        "event": "ADT^A08^ADT_A01",
        "version": "2.5.1",
        "ends": "CR",
        "effect": "created",
    }
    raw(
        "stream-two-frames-line-ends-between",
        VT + first + FS + b"\r\r\n" + VT + second + FS + b"\r",
        "AA AA",
        "T0701 and T0702@MTF0067 exist, in this order",
        msa2=f"{one} {two}",
        **same,
    )
    mid, data = framed(703, "TESTPATIENT^STREAM-THREE")
    raw(
        "stream-fs-without-cr",
        VT + data + FS,
        "AA",
        "T0703@MTF0067 exists; the answer comes within 2 s",
        msa2=mid,
        **same,
    )
    mid, data = framed(704, "TESTPATIENT^STREAM-FOUR")
    raw(
        "stream-junk-before-frame",
        b"\x00\x00TEST JUNK\r\n" + VT + data + FS + b"\r",
        "AA",
        "T0704@MTF0067 exists; counted junk",
        msa2=mid,
        **same,
    )
    mid, data = framed(705, "TESTPATIENT^STREAM-FIVE")
    raw(
        "stream-frame-starts-again",
        VT + data[:60] + VT + data + FS + b"\r",
        "AA",
        "T0705@MTF0067 exists; counted junk: the first VT began a frame that was given up",
        msa2=mid,
        **same,
    )
    mid, data = framed(706, "TESTPATIENT^STREAM-SIX")
    raw(
        "stream-never-ends",
        VT + data,
        "-",
        "nothing; closed after the wait for the rest of a frame",
        **{**same, "effect": "refused", "well_formed": "no"},
    )
    raw(
        "stream-http",
        b"GET / HTTP/1.1\r\nHost: test.invalid\r\n\r\n",
        "-",
        "nothing; closed after the wait for a frame",
        kind="stream",
    )


def build_cases() -> list[Case]:
    """Every message in its order."""
    if not CASES:
        for part in (demographics, merges, orders, others, shapes, refusals, streams):
            part()
    return CASES
