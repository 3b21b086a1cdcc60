"""Watched folders and uploads: nothing is removed that was not staged."""

from __future__ import annotations

import errno
import os
import zipfile
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.daemon.import_changes import IMPORT_TRANSACTIONS
from edge.errors import StorageFull
from edge.importer import staging
from edge.importer.service import ImportService
from edge.importer.staging import Stager, StagingProgress
from edge.store import imports
from edge.store.database import Store
from tests.support.objects import ct_files


class Drop:
    """A watched folder, and the service that reads it; `before_each` is called before a file is copied."""

    def __init__(self, folder: Path, before_each: Callable[[], None] = lambda: None) -> None:
        self.path = folder / "drop"
        self.path.mkdir()
        self.entered: list[str] = []
        config: Any = SimpleNamespace(site=SimpleNamespace(data_dir=folder / "data"))
        nothing: Any = None
        self.service = ImportService(nothing, lambda: config, nothing, self._change, before_each)

    def _change(self, name: str, fields: dict[str, Any]) -> dict[str, Any]:
        self.entered += [each["name"] for each in fields.get("objects", ())]
        return {"batch": 1, "members": []}

    def take(self, name: str) -> None:
        section: Any = SimpleNamespace(name="sensor", path=self.path, identity="person")
        self.service._take(section, self.path / name)

    @property
    def left(self) -> list[str]:
        return sorted(str(each.relative_to(self.path)) for each in self.path.rglob("*") if each.is_file())


def test_what_comes_into_a_folder_while_it_is_read_stays(tmp_path: Path) -> None:
    late = ct_files(tmp_path / "late", 1, 2048)[0].read_bytes()

    def arrive() -> None:
        if not (path := drop.path / "study" / "late.dcm").exists():
            path.write_bytes(late)

    drop = Drop(tmp_path, arrive)
    ct_files(drop.path / "study" / "series", 2, 2048)
    drop.take("study")
    assert drop.left == ["study/late.dcm"]
    assert not (drop.path / "study" / "series").exists()
    drop.take("study")
    assert sorted(drop.entered) == ["late.dcm", "series/000000.dcm", "series/000001.dcm"]
    assert not drop.left


def test_a_file_that_is_written_again_while_it_is_read_stays(tmp_path: Path) -> None:
    (path,) = ct_files(tmp_path / "made", 1, 2048)
    drop = Drop(tmp_path, lambda: os.utime(drop.path / "shot.dcm", (1.0, 1.0)))
    (drop.path / "shot.dcm").write_bytes(path.read_bytes())
    drop.take("shot.dcm")
    assert drop.left == ["shot.dcm"]


def test_a_folder_of_which_something_cannot_be_read_is_kept(tmp_path: Path) -> None:
    drop = Drop(tmp_path)
    whole, torn = ct_files(drop.path / "study", 2, 2048)
    torn.write_bytes(torn.read_bytes()[:400])
    drop.take("study")
    assert drop.entered == [whole.name]
    assert drop.left == ["refused/study/000000.dcm", "refused/study/000001.dcm"]


def test_a_full_disk_of_ours_says_nothing_of_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    drop = Drop(tmp_path)
    ct_files(drop.path / "study", 2, 2048)
    with monkeypatch.context() as full:
        full.setattr(Stager, "_copy", refuse)
        with pytest.raises(StorageFull):
            drop.take("study")
    assert drop.left == ["study/000000.dcm", "study/000001.dcm"]
    drop.take("study")
    assert (len(drop.entered), drop.left) == (2, [])


def carry_out(db: Store, name: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A change of an import, as the gateway carries it out."""
    return db.write(lambda conn: dict(IMPORT_TRANSACTIONS[name](conn, fields, 1.0)))


def test_another_archive_under_the_same_name_is_read_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one broke off; the files of the second one have the names and the sizes of the first one's."""
    monkeypatch.setattr(staging, "_BATCH", 1)
    archive, room = tmp_path / "export.zip", [None]

    def check_room() -> None:
        if not room:
            raise StorageFull("the disk is full")
        room.pop()

    def burn(folder: str, at: float) -> None:
        with zipfile.ZipFile(archive, "w") as made:
            for path in ct_files(tmp_path / folder, 2, 2048):
                made.write(path, path.name)
        os.utime(archive, (at, at))

    with closing(Store(tmp_path / "catalog.db")) as db:

        def stage(check_room: Callable[[], None]) -> StagingProgress:
            def change(name: str, **fields: Any) -> dict[str, Any]:
                return carry_out(db, name, {**fields, "who": "anna"})

            return Stager(tmp_path, change, check_room).stage(archive, str(archive), "command")

        burn("first", 1.0)
        with pytest.raises(StorageFull):
            stage(check_room)
        burn("second", 2.0)
        found = stage(lambda: None)
        assert (found.objects, found.known) == (2, 0)
        room.append(None)
        with pytest.raises(StorageFull):
            stage(check_room)
        found = stage(lambda: None)
        assert (found.objects, found.known) == (1, 1)


def test_an_upload_stays_until_it_is_staged_also_after_a_restart(tmp_path: Path) -> None:
    def refuse() -> None:
        raise StorageFull("the disk is full")

    with closing(Store(tmp_path / "catalog.db")) as db:

        def start(check_room: Callable[[], None]) -> ImportService:
            config: Any = SimpleNamespace(site=SimpleNamespace(data_dir=tmp_path), drops={})
            nothing: Any = None
            change = partial(carry_out, db)
            return ImportService(db, lambda: config, nothing, change, check_room)

        service = start(refuse)
        folder = service.uploads_folder / "abc"
        ct_files(folder, 2, 2048)
        service.submit(folder, "anna")
        with pytest.raises(StorageFull):
            service._step()
        assert len(list(folder.iterdir())) == 2
        start(lambda: None)._step()
        assert not folder.exists()
        with db.reading() as conn:
            (batch,) = imports.list_batches(conn).read()
        assert (batch.source, batch.who, batch.objects, batch.ended_at) == ("upload abc", "anna", 2, 1.0)


def test_what_cannot_be_staged_keeps_nothing_else_back(tmp_path: Path) -> None:
    drop: Any = SimpleNamespace(name="sensor", path=tmp_path / "drop", quiet=0.0, identity="person")
    refused = set[str]()

    def change(name: str, fields: dict[str, Any]) -> dict[str, Any]:
        if refused & {fields.get("door"), fields.get("source")}:
            raise OSError(errno.EIO, "as often as it is tried")
        return carry_out(db, name, fields)

    with closing(Store(tmp_path / "catalog.db")) as db:
        config: Any = SimpleNamespace(site=SimpleNamespace(data_dir=tmp_path), drops={"sensor": drop})
        nothing: Any = None
        service = ImportService(db, lambda: config, nothing, change, lambda: None)
        ct_files(drop.path, 1, 2048)
        for name in ("first", "second"):
            ct_files(service.uploads_folder / name, 1, 2048)
            service.submit(service.uploads_folder / name, "anna")
        refused |= {"drop sensor", "upload first"}
        with pytest.raises(OSError, match="as often"):
            service._step()
        assert [each.name for each in service.uploads_folder.iterdir()] == ["first"]
        assert len(list(drop.path.iterdir())) == 1
