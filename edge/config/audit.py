"""[audit]: where the DICOM audit trail goes (PS3.15 A.5 to A.7, IHE ITI-20)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from edge.config import kinds
from edge.config.files import Key

if TYPE_CHECKING:
    from edge.config.reading import Reading


@dataclass(frozen=True, slots=True)
class Audit:
    """The audit record repository; a file or secret is named as in [syslog.NAME]."""

    host: Annotated[str | None, kinds.HOST] = None  # None: no audit messages are sent
    transport: Annotated[str, kinds.one_of("tls", "tcp", "udp")] = "tls"
    port: Annotated[int | None, kinds.PORT] = None  # None: 6514 for tls, 601 for tcp, 514 for udp
    ca: Annotated[str | None, kinds.FILE] = None
    certificate: Annotated[str | None, kinds.FILE] = None  # ours, where the repository asks for one
    client_key: Annotated[str | None, kinds.SECRET] = None

    @property
    def is_enabled(self) -> bool:
        return self.host is not None


def audit_goes_somewhere(reading: Reading) -> Iterator[tuple[Key, str]]:
    found = reading.section(Audit)
    given = {key: value for key, value in found.items() if value is not None and key != "transport"}
    if given and found.get("host", "") is None:
        yield ("audit", "host"), f"missing; expected {kinds.HOST.expected}"
