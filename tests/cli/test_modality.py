"""What `edge modality add --certificate` takes."""

from __future__ import annotations

import hashlib
import ssl
from pathlib import Path

import pytest

from edge.cli.modality import certificate_to_show
from edge.errors import EdgeError
from tests.support.certificates import Authority


def test_a_file_stands_for_the_digest_of_its_certificate(tmp_path: Path) -> None:
    pem = Authority(tmp_path).issue("ct1.example.org").certificate
    der = ssl.PEM_cert_to_DER_cert(
        pem.read_text().partition("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
    )
    assert certificate_to_show(str(pem)) == f"sha256:{hashlib.sha256(der).hexdigest()}"


@pytest.mark.parametrize("text", ["", "ct1.example.org", "*.example.org", "sha256:" + "ab" * 32])
def test_a_name_or_digest_stays(text: str) -> None:
    assert certificate_to_show(text) == text


def test_a_file_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    with pytest.raises(EdgeError, match=r"x\.pem is no certificate"):
        certificate_to_show(str(tmp_path / "x.pem"))
