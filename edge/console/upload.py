"""Upload of files by drag and drop, in parts that may come again; then they are staged as `edge import` stages a path.

An upload is a folder beside the staged files. It belongs to the session that began it, and to the files that its page
names: those of another disc, which have the same names, are another upload. It is removed when it is staged, or a day
after its last part.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from pathlib import Path, PurePosixPath

from anyio import to_thread
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from edge.console.access import ConsolePage
from edge.errors import EdgeError
from edge.importer.service import ImportService
from edge.text import MIB
from edge.web.guard import Visitor, visitor_of

#: One part of a file, and one file, in bytes.
MAX_PART, MAX_FILE = 8 * MIB, 64 * 1024 * MIB
#: The uploads of a session: which files -> the name of the folder.
_UPLOADS = "uploads"
#: Characters of what a page says of its files.
_MAX_FILES = 100


class UploadPages(ConsolePage):
    def begin(self, request: Request) -> Response:
        """POST /import/upload: begin an upload, or go on with that of the same files."""
        visitor, importer = visitor_of(request), self._importer()
        files, uploads = visitor.field("files")[:_MAX_FILES], _uploads_of(visitor)
        name = uploads.get(files, "")
        if not name or not (importer.uploads_folder / name).is_dir():
            name = uploads[files] = secrets.token_hex(8)
            (importer.uploads_folder / name).mkdir(mode=0o700, parents=True)
        return JSONResponse({"upload": name})

    def have(self, request: Request) -> Response:
        """GET /import/upload/NAME/part: how many bytes of a file are here."""
        path = self._path(request)
        return JSONResponse({"have": path.stat().st_size if path.is_file() else 0})

    async def part(self, request: Request) -> Response:
        """POST /import/upload/NAME/part: one part of a file, at `offset`. Answers how many bytes are here."""
        path, body = self._path(request), bytearray()
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_PART:
                return JSONResponse({"error": "the part is too long"}, 413)
        offset = request.query_params.get("offset", "")
        if not re.fullmatch("[0-9]{1,12}", offset) or int(offset) + len(body) > MAX_FILE:
            return JSONResponse({"error": "the file is too long"}, 413)
        have = await to_thread.run_sync(self._write, path, int(offset), bytes(body))
        return JSONResponse({"have": have}, 200 if have >= int(offset) else 409)

    def finish(self, request: Request) -> Response:
        """POST /import/upload/NAME/finish: stage what has come."""
        visitor, importer = visitor_of(request), self._importer()
        folder, uploads = self._folder(request), _uploads_of(visitor)
        importer.submit(folder, visitor.name)
        for files in [each for each, name in list(uploads.items()) if name == folder.name]:
            uploads.pop(files, None)
        visitor.leave_notice("The files are received, and are being read; they are listed here when that is done.")
        return JSONResponse({"submitted": folder.name})

    def _write(self, path: Path, offset: int, data: bytes) -> int:
        """Write a part behind what is there; one that came before is passed over."""
        self._importer().check_room()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        have = path.stat().st_size if path.exists() else 0
        if offset > have:
            return have
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "r+b", closefd=True) as file:
            file.seek(offset)
            file.write(data)
        return max(have, offset + len(data))

    def _importer(self) -> ImportService:
        if self._access.importer is None:
            raise EdgeError("this gateway takes no uploads")
        return self._access.importer

    def _folder(self, request: Request) -> Path:
        """The folder of an upload of this session. Raises EdgeError."""
        name = request.path_params["name"]
        if name not in _uploads_of(visitor_of(request)).values():
            raise EdgeError("this upload has ended: begin it again")
        return self._importer().uploads_folder / str(name)

    def _path(self, request: Request) -> Path:
        """Where a file of an upload is; its own name decides nothing but the last components."""
        given = PurePosixPath(request.query_params.get("name", "").replace("\\", "/"))
        parts = [_plain(each) for each in given.parts if each not in ("/", "..", ".")]
        if not parts or len(parts) > 16:
            raise EdgeError("the file has no name")
        return self._folder(request).joinpath(*parts)


def _uploads_of(visitor: Visitor) -> dict[str, str]:
    assert visitor.session is not None
    uploads: dict[str, str] = visitor.session.kept.setdefault(_UPLOADS, {})
    return uploads


def _plain(name: str) -> str:
    """One component of a path, as it is kept; no two names are kept as one."""
    kept = (
        "".join(each if each.isprintable() and each != "/" else "_" for each in name)[:120]
        .encode()[:200]
        .decode("utf-8", "ignore")
    )
    return kept if kept == name else f"{hashlib.sha256(name.encode()).hexdigest()[:12]}-{kept}"
