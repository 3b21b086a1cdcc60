"""Imports on a real gateway: by the command, by a browser, by a watched folder; and studies that leave by hand."""

from __future__ import annotations

import io
import json
import shutil
import sqlite3
import subprocess
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pydicom
import pytest
from playwright.sync_api import Browser, expect

from tests.support.browser import chromium, find_barriers, listening
from tests.support.clinic import Clinic, csrf, signed_in
from tests.support.discs import burn_disc
from tests.support.objects import ct_files, new_uid, sop_instance_uid
from tests.support.peers import requires, storescu, wait_until

ORDER = {"number": "L77", "name": "Local^Lea", "birth_date": "19710203", "sex": "F", "accession": "A4711"}


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clinic]:
    folder = tmp_path_factory.mktemp("clinic")
    drop = folder / "sensor"
    drop.mkdir()
    more = f'[drop.sensor]\npath = "{drop}"\nquiet = "1s"\nidentity = "worklist"\n'
    with ExitStack() as stack:
        clinic = Clinic(folder, stack, more)
        add_order(clinic, **ORDER)
        yield clinic


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def add_order(clinic: Clinic, number: str, name: str, birth_date: str, sex: str, accession: str) -> None:
    """An order of a patient known here, as HL7 would have brought it."""
    with closing(sqlite3.connect(clinic.edge.data_dir / "catalog.db", timeout=10)) as conn, conn:

        def insert(table: str, **values: Any) -> int:
            sql = f"INSERT INTO {table} ({', '.join(values)}) VALUES ({', '.join('?' * len(values))})"
            return conn.execute(sql, list(values.values())).lastrowid or 0

        authority = insert("assigning_authority", namespace="CLINIC", universal_id="", universal_type="")
        patient = insert("known_patient", name=name, birth_date=birth_date, sex=sex, changed_at=1.0)
        found = insert("patient_identifier", number=number, authority_id=authority, patient_key=patient)
        texts = "issuer placer_number filler_number study_uid procedure_id procedure_code procedure_scheme"
        texts += " procedure_text step_id station_ae station_name modality scheduled_at physician"
        texts += " referring_physician feed"
        given = dict.fromkeys(texts.split(), "") | {"accession": accession, "status": "open", "priority": 2}
        given |= {"created_at": 1.0, "changed_at": 1.0, "patient_key": patient, "identifier_id": found}
        insert("imaging_order", **given)


def edge(clinic: Clinic, *args: str | Path, code: int = 0) -> str:
    done = clinic.edge.cli(*map(str, args))
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def read(clinic: Clinic, path: Path, code: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(edge(clinic, "import", path, "--json", code=code))
    return found


def disc(folder: Path, count: int = 3, **attributes: Any) -> Path:
    """A disc of another clinic."""
    given = {"PatientName": "Foreign^Lea", "PatientID": "X1", "PatientBirthDate": "19710203", "PatientSex": "F"}
    return burn_disc(folder / "disc", ct_files(folder / "made", count, 4096, **given | attributes))


def received(clinic: Clinic) -> int:
    return int(clinic.edge.api_status()["instances"]["received"])


def instances_of(clinic: Clinic, patient_id: str) -> list[pydicom.Dataset]:
    """What the archive has of a patient."""
    found = [pydicom.dcmread(path) for path in clinic.archive.files()]
    return [each for each in found if each.PatientID == patient_id]


def test_a_disc_goes_to_the_right_patient(clinic: Clinic, tmp_path: Path) -> None:
    path, before = disc(tmp_path), received(clinic)
    found = read(clinic, path)
    assert (found["objects"], found["foreign"], found["skipped"]) == (3, 1, [])
    assert (found["listed_and_missing"], found["present_and_unlisted"]) == ([], 0)
    [study] = found["studies"]
    assert study["patient"]["patient_name"] == "Foreign^Lea"
    again = read(clinic, path)  # it ended, so it is another import
    assert received(clinic) == before  # nothing goes anywhere
    edge(clinic, "import", "assign", str(study["study"]), "--order", "A4711")
    wait_until(lambda: len(instances_of(clinic, "L77")) == 3, 30, "they are at the archive")
    for ds in instances_of(clinic, "L77"):
        assert (ds.PatientName, ds.IssuerOfPatientID, ds.AccessionNumber) == ("Local^Lea", "CLINIC", "A4711")
        assert ds.StudyInstanceUID == study["study_uid"]
        [original] = ds.OriginalAttributesSequence
        assert original.ModifiedAttributesSequence[0].PatientID == "X1"
    shown = json.loads(edge(clinic, "import", "show", str(found["batch"]), "--json"))
    assert shown["studies"][0]["state"] == "imported"
    assert shown["studies"][0]["objects"] == {"imported": 3}
    edge(clinic, "import", "assign", str(again["studies"][0]["study"]), "--order", "A4711")

    def second() -> Any:
        return json.loads(edge(clinic, "import", "show", str(again["batch"]), "--json"))["studies"][0]["objects"]

    wait_until(lambda: second() == {"known": 3}, 30, "a second import adds nothing")
    assert received(clinic) == before + 3
    assert not clinic.edge.api_status()["instances"].get("conflict")
    rows = [text for who, _, _, text in clinic.ledger("imported")]
    assert rows[0] == "3 files of import 1 assigned to a patient (other name)"
    assert not list((clinic.edge.data_dir / "imports").rglob("*.part"))


def test_another_birth_date_needs_a_reason(clinic: Clinic, tmp_path: Path) -> None:
    found = read(clinic, disc(tmp_path, 1, PatientBirthDate="19710302"))
    number = str(found["studies"][0]["study"])
    refused = clinic.edge.cli("import", "assign", number, "--order", "A4711")
    assert refused.returncode == 1
    assert "birth date" in refused.stderr
    assert "give a reason" in refused.stderr
    assert "no order A9999" in clinic.edge.cli("import", "assign", number, "--order", "A9999").stderr
    assert "no patient known here" in clinic.edge.cli("import", "assign", number, "--patient", "NOBODY").stderr
    edge(clinic, "import", "discard", number, "--reason", "not ours")
    assert "discarded already" in clinic.edge.cli("import", "assign", number, "--order", "A4711").stderr
    assert not list((clinic.edge.data_dir / "imports" / str(found["batch"])).iterdir())


def test_several_names_under_one_number_are_several_patients(clinic: Clinic, tmp_path: Path) -> None:
    """Two devices gave out one number: a person says which of the two it is, by the command and on the page."""
    for name in ("Twin^Anna", "Twin^Berta"):
        clinic.send(1, PatientName=name, PatientID="TWIN1", StudyInstanceUID=new_uid())
    staged = read(clinic, disc(tmp_path, 1, PatientName="Twin^Berta"))
    number, batch = str(staged["studies"][0]["study"]), staged["batch"]
    page = clinic.person("operator")
    given = {"csrf": csrf(page, f"/import/{batch}"), "study": number, "text": "TWIN1"}
    found = page.post(f"/import/{batch}/find", data=given).text
    assert [name in found for name in ("Twin Anna", "Twin Berta")] == [True, True]
    refused = clinic.edge.cli("import", "assign", number, "--patient", "TWIN1", "--reason", "x")
    assert refused.returncode == 1
    assert "say which with --name and --born: " in refused.stderr
    assert "Twin^Anna born 19700101" in refused.stderr
    edge(
        clinic,
        "import",
        "assign",
        number,
        "--patient",
        "TWIN1",
        "--name",
        "twin^berta",
        "--reason",
        "the birth date is mistyped",
    )
    wait_until(lambda: len(instances_of(clinic, "TWIN1")) == 3, 60, "it is at the archive")
    assert sorted(str(each.PatientName) for each in instances_of(clinic, "TWIN1")) == [
        "Twin^Anna",
        "Twin^Berta",
        "Twin^Berta",
    ]


def test_what_the_dicomdir_says_is_a_hint(clinic: Clinic, tmp_path: Path) -> None:
    path = disc(tmp_path, 3)
    (path / "IMAGES" / "IM0001").unlink()
    [more] = ct_files(tmp_path / "more", 1, 2048, PatientID="X1")
    shutil.copy(more, path / "extra.bin")
    (path / "IMAGES").rename(path / "images")
    for each in list((path / "images").iterdir()):
        each.rename(each.with_name(each.name.lower()))
    found = read(clinic, path, code=1)
    assert found["objects"] == 3
    assert found["listed_and_missing"] == ["IMAGES/IM0001"]
    assert found["present_and_unlisted"] == 1


def test_bad_files_are_named_and_end_nothing(clinic: Clinic, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    paths = ct_files(folder, 2, 2048)
    with zipfile.ZipFile(folder / "more.zip", "w") as archive:
        archive.write(paths[0], "IM0")
        archive.writestr("../slip", "x")
    blob = bytearray(paths[1].read_bytes())
    (folder / "torn.dcm").write_bytes(blob[:400])
    (folder / "link.dcm").symlink_to(paths[0])
    found = read(clinic, folder, code=1)
    assert {each["name"]: each["code"] for each in found["skipped"]} == {
        "link.dcm": "link",
        "more.zip/../slip": "slip",
        "torn.dcm": "broken",
    }
    assert found["objects"] == 3


def test_an_import_that_broke_off_goes_on(clinic: Clinic, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    ct_files(folder, 60, 2048)
    from edge.daemon.control import call
    from edge.errors import StorageFull
    from edge.importer.staging import Stager

    def change(name: str, **fields: Any) -> dict[str, Any]:
        return call(clinic.edge.data_dir, name, **fields)

    asked = 0

    def check_room() -> None:
        nonlocal asked
        asked += 1
        if asked > 57:
            raise StorageFull("the disk is full")

    with pytest.raises(StorageFull):
        Stager(clinic.edge.data_dir, change, check_room).stage(folder, str(folder), "command")
    found = read(clinic, folder)
    assert (found["staged_before"], found["objects"]) == (50, 10)
    assert [sum(each["objects"].values()) for each in found["studies"]] == [60]


def test_a_watched_folder_by_the_worklist(clinic: Clinic, tmp_path: Path) -> None:
    drop = clinic.folder / "sensor"
    before = received(clinic)
    [path] = ct_files(tmp_path, 1, 2048, AccessionNumber="A4711", PatientName="", PatientID="", PatientBirthDate="",
                      PatientSex="")  # fmt: skip
    shutil.copy(path, drop / "shot.dcm")
    (drop / "A4711_left.pdf").write_bytes(b"%PDF-1.4\n%%EOF\n")
    (drop / "notes.txt").write_text("nothing of use")
    wait_until(lambda: received(clinic) == before + 2, 30, "both are imported")
    wait_until(lambda: sorted(each.name for each in drop.iterdir()) == ["refused"], 10, "the folder is empty")
    assert [each.name for each in (drop / "refused").iterdir()] == ["notes.txt"]
    wait_until(lambda: len(instances_of(clinic, "L77")) == 5, 30, "they are at the archive")
    (drop / "portrait.pdf").write_bytes(b"%PDF-1.4\nwhose?\n%%EOF\n")
    wait_until(lambda: not (drop / "portrait.pdf").exists(), 20, "it is taken")
    listed = json.loads(edge(clinic, "import", "list", "--json"))
    assert [each["waiting"] for each in listed if each["source"] == "portrait.pdf"] == [1]


# -- in the browser ----------------------------------------------------------------------------------------------------


def test_files_are_uploaded_and_assigned_in_the_browser(clinic: Clinic, browser: Browser, tmp_path: Path) -> None:
    page = signed_in(browser, clinic, "operator")
    heard = listening(page)
    paths = ct_files(tmp_path / "new", 2, 6 << 20, PatientName="Foreign^Lea", PatientID="X9", PatientSex="M")
    page.goto(clinic.edge.url("/import"))
    page.get_by_label("Files", exact=True).set_input_files(paths)
    expect(page.get_by_text("The files are received")).to_be_visible(timeout=30_000)

    def waiting() -> bool:
        page.reload()
        return page.get_by_role("link", name="upload").count() > 0 and page.get_by_text("to assign").count() > 0

    wait_until(waiting, 20, "it is staged")
    page.get_by_role("link", name="upload").first.press("Enter")
    page.get_by_label("Whose is it here?").fill("A4711")
    page.get_by_role("button", name="Find").click()
    row = page.locator("tr", has_text="A4711")
    expect(row).to_contain_text("another birth date, sex, name")
    assert find_barriers(page) == []
    row.get_by_role("radio").check()
    page.get_by_role("button", name="It is this patient's: import it").click()
    expect(page.get_by_role("alert")).to_contain_text("give a reason")
    page.locator("tr", has_text="A4711").get_by_role("radio").check()
    page.get_by_label("Reason (required where birth date or sex differ)").fill("a typing error there")
    page.get_by_role("button", name="It is this patient's: import it").press("Enter")
    expect(page.get_by_role("status")).to_contain_text("is assigned")
    wait_until(lambda: len(instances_of(clinic, "L77")) == 7, 30, "they are at the archive")
    assert not [each for each in heard if "status of 422" not in each]
    uploads = clinic.edge.data_dir / "imports" / "uploads"
    assert not list(uploads.iterdir())


def test_an_upload_that_broke_off_goes_on_with_its_own_files_alone(
    clinic: Clinic, browser: Browser, tmp_path: Path
) -> None:
    """Files of two discs have the same names: the head of one patient's must not get the pixels of another's."""
    page = signed_in(browser, clinic, "operator")
    (first,), (second,) = (
        ct_files(tmp_path / name, 1, 6 << 20, PatientName=f"{name}^Disc", PatientID=name) for name in ("Anna", "Bert")
    )
    assert (first.name, first.stat().st_size) == (second.name, second.stat().st_size)
    page.goto(clinic.edge.url("/import"))
    page.route("**/part?*offset=4194304", lambda route: route.fulfill(status=400, body="no"))
    page.get_by_label("Files", exact=True).set_input_files(first)
    expect(page.get_by_text("The upload broke off")).to_be_visible(timeout=30_000)
    page.unroute("**/part?*offset=4194304")
    page.get_by_label("Files", exact=True).set_input_files(second)
    expect(page.get_by_text("The files are received")).to_be_visible(timeout=30_000)
    page.goto(clinic.edge.url("/import"))
    sent: list[str] = []
    page.on("request", lambda each: sent.append(each.url.rpartition("=")[2]) if "offset=" in each.url else None)
    page.get_by_label("Files", exact=True).set_input_files(first)
    expect(page.get_by_text("The files are received")).to_be_visible(timeout=30_000)
    assert sent == ["4194304"]

    def names() -> list[str]:
        with closing(sqlite3.connect(clinic.edge.data_dir / "catalog.db")) as conn:
            sql = "SELECT patient_name FROM import_study WHERE patient_name LIKE '%^Disc' ORDER BY patient_name"
            return [str(name) for (name,) in conn.execute(sql)]

    wait_until(lambda: names() == ["Anna^Disc", "Bert^Disc"], 30, "both are staged")


def test_a_disc_brings_back_what_was_lost(clinic: Clinic, tmp_path: Path) -> None:
    order = ORDER | {"number": "L88", "accession": "A4788"}
    add_order(clinic, **order)
    path = disc(
        tmp_path,
        1,
        PatientName=order["name"],
        PatientID="L88",
        IssuerOfPatientID="CLINIC",
        AccessionNumber="A4788",
    )
    (image,) = (path / "IMAGES").iterdir()
    storescu([image], clinic.edge.port)

    def state(*, is_lost: bool = False) -> str:
        with closing(sqlite3.connect(clinic.edge.data_dir / "catalog.db", timeout=10)) as conn, conn:
            given = (sop_instance_uid(image),)
            if is_lost:
                conn.execute("UPDATE instance SET state = 'lost' WHERE sop_instance_uid = ?", given)
            row = conn.execute("SELECT state FROM instance WHERE sop_instance_uid = ?", given).fetchone()
            return str(row[0]) if row else ""

    wait_until(lambda: state() == "stored", 30, "it is stored")
    assert state(is_lost=True) == "lost"
    number = str(read(clinic, path)["studies"][0]["study"])
    edge(clinic, "import", "assign", number, "--order", "A4788")
    wait_until(lambda: state() == "stored", 30, "it is back")


def test_a_part_of_a_file_comes_from_our_page_alone(clinic: Clinic) -> None:
    operator, viewer = clinic.person("operator"), clinic.person("viewer")
    token = csrf(operator, "/import")
    upload = operator.post("/import/upload", data={"csrf": token}).json()["upload"]
    address, octets = f"/import/upload/{upload}/part", {"content-type": "application/octet-stream"}
    good = octets | {"x-csrf": token}

    def put(name: str, offset: int, data: bytes, headers: dict[str, str] = good) -> Any:
        return operator.post(address, params={"name": name, "offset": offset}, content=data, headers=headers)

    assert put("a", 0, b"x", octets).status_code == 403
    assert put("a", 0, b"x", good | {"origin": "http://evil.example"}).status_code == 403
    assert put("../../../a", 0, b"1234").json() == {"have": 4}
    assert put("../../../a", 2, b"3456").json() == {"have": 6}  # a part that comes again
    assert put("../../../a", 9, b"x").status_code == 409  # one is missing before it
    assert operator.get(address, params={"name": "a"}).json() == {"have": 6}
    assert put("b", 0, bytes(9 << 20)).status_code == 413
    assert operator.post("/queue/decide", content=b"x", headers=good).status_code == 415
    assert viewer.get("/import").status_code == 403
    other = clinic.person("admin")
    assert other.get(address, params={"name": "a"}).status_code == 503  # it is another session's
    inside = clinic.edge.data_dir / "imports" / "uploads" / upload / "a"
    assert inside.read_bytes() == b"123456"
    long = "1.2.840." * 20
    assert put(f"{long}1", 0, b"one").json() == {"have": 3}
    assert operator.get(address, params={"name": f"{long}2"}).json() == {"have": 0}  # another file


# -- out again ---------------------------------------------------------------------------------------------------------


def test_a_study_is_exported_with_a_directory(clinic: Clinic, tmp_path: Path) -> None:
    study = json.loads(edge(clinic, "studies", "list", "--search", "Zebrafink", "--json"))[0]["study_uid"]
    said = edge(clinic, "studies", "export", study, tmp_path / "usb")
    assert "5 images" in said
    check(tmp_path / "usb", 5)
    assert "not empty" in clinic.edge.cli("studies", "export", study, str(tmp_path / "usb")).stderr
    operator = clinic.person("operator")
    answer = operator.post("/studies/1/export", data={"csrf": csrf(operator, "/studies/1")})
    assert answer.headers["content-type"] == "application/zip"
    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        archive.extractall(tmp_path / "zip")
    check(tmp_path / "zip", 5)
    exported = [(who, text) for who, _, _, text in clinic.ledger("exported")]
    assert exported[-1] == ("operator", "to a browser at 127.0.0.1: 5 images")
    found = read(clinic, tmp_path / "usb")  # what went out can be read again
    assert (found["objects"], found["listed_and_missing"], found["present_and_unlisted"]) == (5, [], 0)


def check(folder: Path, count: int) -> None:
    """Each file is whole, and DCMTK and pydicom read the directory."""
    ds = pydicom.dcmread(folder / "DICOMDIR")
    kinds = [record.DirectoryRecordType for record in ds.DirectoryRecordSequence]
    assert kinds == ["PATIENT", "STUDY", "SERIES", *["IMAGE"] * count]
    at = {record.seq_item_tell: record for record in ds.DirectoryRecordSequence}
    patient = at[ds.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity]
    images = patient
    for _ in ("STUDY", "SERIES", "IMAGE"):
        images = at[images.OffsetOfReferencedLowerLevelDirectoryEntity]
    found = []
    while images is not None:
        file = pydicom.dcmread(folder.joinpath(*images.ReferencedFileID))
        assert file.SOPInstanceUID == images.ReferencedSOPInstanceUIDInFile
        assert file.file_meta.TransferSyntaxUID == images.ReferencedTransferSyntaxUIDInFile
        found.append(file.SOPInstanceUID)
        images = at.get(images.OffsetOfTheNextDirectoryRecord)
    assert len(set(found)) == count
    done = subprocess.run([requires("dcmdump"), folder / "DICOMDIR"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    done = subprocess.run([requires("dciodvfy"), folder / "DICOMDIR"], capture_output=True, text=True, check=False)
    assert [line for line in done.stderr.splitlines() if line.startswith("Error")] == []


def test_a_damaged_file_is_left_out_of_an_export(clinic: Clinic, tmp_path: Path) -> None:
    clinic.send(2, PatientName="Damaged^Dora", PatientID="D1")
    study = wait_until(
        lambda: json.loads(edge(clinic, "studies", "list", "--search", "Damaged", "--json")), 20, "it is here"
    )[0]["study_uid"]
    with closing(sqlite3.connect(clinic.edge.data_dir / "catalog.db")) as conn:
        sql = "SELECT i.path, i.id FROM instance i JOIN study s ON s.id = i.study_id WHERE s.study_uid = ? LIMIT 1"
        path, number = conn.execute(sql, (study,)).fetchone()
    spooled = clinic.edge.data_dir / "spool" / path
    blob = bytearray(spooled.read_bytes())
    blob[-1] ^= 1
    spooled.write_bytes(blob)
    done = clinic.edge.cli("studies", "export", study, str(tmp_path / "usb"))
    assert done.returncode == 1
    assert f"instance {number} is left out: its file is not what was received" in done.stdout
    check(tmp_path / "usb", 1)


def test_a_study_is_sent_by_hand(clinic: Clinic) -> None:
    before = len(clinic.reader.files())
    study = json.loads(edge(clinic, "studies", "list", "--search", "Zebrafink", "--json"))[0]["study_uid"]
    send = ("studies", "send", study, "--to", "reader", "--reason", "second opinion")
    assert "5 images queued for reader." in edge(clinic, *send)
    wait_until(lambda: len(clinic.reader.files()) == before + 5, 30, "the reader has them")
    assert json.loads(edge(clinic, *send, "--json", code=1))["there"] == 5
    assert json.loads(edge(clinic, *send, "--again", "--json"))["queued"] == 5
    assert "no destination" in clinic.edge.cli(*send[:3], "--to", "nobody", "--reason", "x").stderr
    routed = [(to, text) for _, _, to, text in clinic.ledger("routed")]
    assert ("reader", "second opinion") in routed
    operator = clinic.person("operator")
    given = {"csrf": csrf(operator, "/studies/1"), "to": "reader", "reason": "again", "again": "1"}
    assert "5 images queued for reader." in operator.post("/studies/1/send", data=given).text
