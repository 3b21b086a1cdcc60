"""What a path holds: everything of use is found by its content, and what is dangerous or broken is named."""

from __future__ import annotations

import io
import os
import stat
import zipfile
from pathlib import Path

import pycdlib
import pytest

from edge.importer.sources import Found, Limits, SkipCode, SkippedFile, SourceFile, SourceWalk

SMALL = Limits(files=50, depth=4, archives=2, ratio=20.0, least=10_000, unpacked=10_000_000)


def walk(path: Path, limits: Limits = SMALL) -> dict[str, bytes | SkipCode]:
    """Name -> the bytes of a file, or why it is left out."""

    def value(found: Found) -> bytes | SkipCode:
        if isinstance(found, SkippedFile):
            return found.code
        with found.open() as file:
            data = file.read()
        assert len(data) == found.size
        return data

    return {each.name: value(each) for each in SourceWalk(path, limits).files()}


def make_zip(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compression)
    return path


def make_iso(path: Path, files: dict[str, bytes], *, joliet: bool = True) -> Path:
    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3 if joliet else None)
    folders = set()
    for number, (name, data) in enumerate(files.items()):
        folder = name.rpartition("/")[0]
        if folder and folder not in folders:
            iso.add_directory(f"/{folder.upper()}", joliet_path=f"/{folder}" if joliet else None)
            folders.add(folder)
        plain = f"/{folder.upper()}/F{number}.;1" if folder else f"/F{number}.;1"
        iso.add_fp(io.BytesIO(data), len(data), plain, joliet_path=f"/{name}" if joliet else None)
    iso.write(str(path))
    iso.close()
    return path


def test_a_folder_is_read_to_its_end_and_no_link_is_followed(tmp_path: Path) -> None:
    inside = tmp_path / "disc" / "DICOM" / "A"
    inside.mkdir(parents=True)
    (inside / "IM0").write_bytes(b"image")
    (tmp_path / "secret").write_bytes(b"not of this disc")
    (tmp_path / "disc" / "link").symlink_to(tmp_path / "secret")
    (tmp_path / "disc" / "folder").symlink_to(tmp_path)
    os.mkfifo(tmp_path / "disc" / "pipe")
    assert walk(tmp_path / "disc") == {
        "DICOM/A/IM0": b"image",
        "link": SkipCode.LINK,
        "folder": SkipCode.LINK,
        "pipe": SkipCode.SPECIAL,
    }
    assert walk(tmp_path / "disc" / "link") == {"link": SkipCode.LINK}


def test_folders_that_are_too_deep_and_files_that_are_too_many(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*"abcdef")
    deep.mkdir(parents=True)
    (deep / "x").write_bytes(b"x")
    assert walk(tmp_path) == {"a/b/c/d/e/": SkipCode.DEEP}
    for number in range(60):
        (tmp_path / f"{number:03}").write_bytes(b"x")
    found = walk(tmp_path)
    assert sum(each == b"x" for each in found.values()) == 50
    assert SkipCode.TOO_MANY in found.values()


def test_an_archive_and_what_is_in_it(tmp_path: Path) -> None:
    inner = make_zip(tmp_path / "inner.zip", {"deep/IM1": b"one"}).read_bytes()
    path = make_zip(tmp_path / "disc.zip", {"IM0": b"zero", "sub/inner.zip": inner, "sub/": b""})
    assert walk(path) == {"disc.zip/IM0": b"zero", "disc.zip/sub/inner.zip/deep/IM1": b"one"}
    third = make_zip(tmp_path / "third.zip", {"second.zip": path.read_bytes()})
    assert walk(third) == {
        "third.zip/second.zip/IM0": b"zero",
        "third.zip/second.zip/sub/inner.zip": SkipCode.DEEP,
    }


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "a/../../b", "..\\evil", "C:\\evil"])
def test_a_name_that_leads_out_of_its_archive_is_left_out(tmp_path: Path, name: str) -> None:
    path = make_zip(tmp_path / "slip.zip", {name: b"evil", "good": b"good"})
    found = walk(path)
    assert found.pop("slip.zip/good") == b"good"
    assert list(found.values()) == [SkipCode.SLIP]


def test_links_and_encrypted_members_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        link = zipfile.ZipInfo("link")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
        archive.writestr("secret", b"secret")
    blob = bytearray(path.read_bytes())
    at = blob.rindex(b"PK\1\2")
    blob[at + 8] |= 1  # the flag of encryption, of the last member
    path.write_bytes(blob)
    assert walk(path) == {"a.zip/link": SkipCode.LINK, "a.zip/secret": SkipCode.ENCRYPTED}


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "bomb.zip", {"zeros": bytes(5_000_000)})
    assert walk(path) == {"bomb.zip": SkipCode.BOMB}
    mixed = make_zip(tmp_path / "mixed.zip", {"zeros": bytes(400_000), "noise": os.urandom(100_000)})
    found = walk(mixed)
    assert found["mixed.zip/zeros"] is SkipCode.BOMB
    assert len(found["mixed.zip/noise"]) == 100_000  # type: ignore[arg-type]


def test_a_broken_member_ends_nothing(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", {"one": b"1" * 100, "two": b"2" * 100}, zipfile.ZIP_STORED)
    blob = bytearray(path.read_bytes())
    blob[blob.index(b"1" * 100) + 50] ^= 1
    path.write_bytes(blob)
    found = {each.name: each for each in SourceWalk(path, SMALL).files()}
    assert isinstance(found["a.zip/two"], SourceFile)
    broken = found["a.zip/one"]
    if isinstance(broken, SourceFile):  # its fault shows when it is read to its end
        with pytest.raises(zipfile.BadZipFile), broken.open() as file:
            file.read()
    path.write_bytes(path.read_bytes()[:200])
    assert walk(path) == {"a.zip": SkipCode.BROKEN}


@pytest.mark.parametrize("joliet", [True, False])
def test_an_image_of_a_disc(tmp_path: Path, joliet: bool) -> None:
    files = {"DICOMDIR": b"directory", "dicom/image-one.dcm": b"x" * 5000, "dicom/empty": b""}
    path = make_iso(tmp_path / "disc.iso", files, joliet=joliet)
    found = walk(path)
    assert sorted(each for each in found.values() if isinstance(each, bytes)) == sorted(files.values())
    if joliet:
        assert found["disc.iso/dicom/image-one.dcm"] == b"x" * 5000
    zipped = make_zip(tmp_path / "disc.zip", {"disc.iso": path.read_bytes()}, zipfile.ZIP_STORED)
    assert sum(isinstance(each, bytes) for each in walk(zipped, Limits()).values()) == 3


def test_images_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    udf = bytearray(40 * 2048)
    for number, mark in enumerate((b"BEA01", b"NSR03", b"TEA01")):
        udf[(16 + number) * 2048 + 1 : (16 + number) * 2048 + 6] = mark
    (tmp_path / "udf.iso").write_bytes(udf)
    whole = make_iso(tmp_path / "whole.iso", {"a": b"x" * 100_000}).read_bytes()
    (tmp_path / "whole.iso").unlink()
    (tmp_path / "cut.iso").write_bytes(whole[: len(whole) // 2])
    found = walk(tmp_path)
    assert found["udf.iso"] is SkipCode.UDF
    assert found["cut.iso"] is SkipCode.BROKEN


def test_an_image_with_a_loop_ends(tmp_path: Path) -> None:
    path = make_iso(tmp_path / "a.iso", {"sub/a": b"x"}, joliet=False)
    blob = bytearray(path.read_bytes())
    root = int.from_bytes(blob[16 * 2048 + 158 : 16 * 2048 + 162], "little")
    at = blob.index(b"SUB", root * 2048) - 33
    blob[at + 2 : at + 10] = root.to_bytes(4, "little") + root.to_bytes(4, "big")  # the folder is its own parent
    path.write_bytes(blob)
    assert walk(path) == {}
