"""One gateway with an open web door for all files of this folder: a start takes longer than most of the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.web_door import SharedEdge


@pytest.fixture(scope="package")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SharedEdge]:
    """Each file asks it for patients or studies of its own."""
    shared = SharedEdge(tmp_path_factory.mktemp("web"))
    with shared.archive, shared:
        yield shared
        log = shared.log.read_text("utf-8", "replace")
        assert "unexpected" not in log.lower()
        assert not [name for name in ("Test^Patient", "Müller", "TESTPATIENT", "W0001") if name in log]
