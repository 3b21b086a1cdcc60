"""Pages as people wait for them: one frame of a CT at the console, and the centre's tables of 1,000 sites."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pydicom
from pydicom.uid import UID, JPEG2000Lossless

from edge.central.accounts import record_in_journal
from edge.central.heartbeat import parse
from edge.central.intake import record_heartbeat
from edge.central.simulated_site import SimulatedSite, fleet
from edge.web.accounts import Account, Accounts, UserRole
from tests.bench.peers import EDGE, HERE, Gateway, archive_at
from tests.bench.row import Figures, Target
from tests.bench.stage import KIB, Stage
from tests.support.central_office import CentralOffice, OpenDatabase, encoded
from tests.support.objects import REAL_CT, ct_files
from tests.support.peers import dcmsend, free_port
from tests.support.web_site import HASH, PASSWORD, sign_in

NAME = "anna"
SITES = 1_000
#: Heartbeats of each site that the centre has heard, a minute apart.
BEATS = 3
PLAIN, COMPRESSED = "plain", "JPEG 2000"
FRAME = "/instances/{}/frame.png?side=1024&center=40&width=400"


def answer_times(client: httpx.Client, paths: Iterable[str]) -> list[float]:
    """How long each answer took, in ms, the quickest first."""
    waits = []
    for path in paths:
        began = time.perf_counter()
        answer = client.get(path)
        waits.append(1000 * (time.perf_counter() - began))
        assert answer.status_code == 200, f"{path}: {answer.status_code}"
    return sorted(waits)


@dataclass(frozen=True)
class Look:
    """An operator who has signed in opens one slice after the other, each for the first time, with a window."""

    name: str = "look"
    what: str = "quick look: a CT of 512 x 512, large, with a window"
    count: int = 200
    peers: tuple[str, ...] = (EDGE,)
    # "Under a second for a CT slice"
    targets: tuple[Target, ...] = (
        Target(f"p99 ms, {PLAIN}", at_least=1000.0),
        Target(f"p99 ms, {COMPRESSED}", at_least=1000.0),
    )

    def measure(self, peer: str, stage: Stage) -> Figures:
        count = stage.few(self.count, 20)
        slices = stage.once("slices", lambda folder: make_slices(folder, count))
        figures: dict[str, float] = {}
        with ExitStack() as stack:
            folder = stack.enter_context(stage.directory())
            gateway = stack.enter_context(Gateway(folder, archive_at(free_port())).at(HERE))
            client = stack.enter_context(httpx.Client(base_url=gateway.url(""), timeout=100))
            sign_in_operator(client, gateway)
            client.get("/studies")  # from here on the worker is ready, as it is for people
            for begin, kind in ((0, PLAIN), (count, COMPRESSED)):
                dcmsend(sorted((slices / kind).iterdir()), gateway.port)
                assert gateway.stored() == begin + count
                waits = answer_times(client, (FRAME.format(begin + each) for each in range(1, count + 1)))
                figures |= {f"median ms, {kind}": waits[count // 2], f"p99 ms, {kind}": waits[count * 99 // 100]}
        return figures


def make_slices(folder: Path, count: int) -> None:
    """The real slice at four times its size, with some noise; as it is, and in JPEG 2000."""
    small = pydicom.dcmread(REAL_CT).pixel_array
    noise = np.random.default_rng(1).integers(0, 16, (512, 512))
    pixels = (np.kron(small, np.ones((4, 4), "i4")) + noise).clip(0, 4095).astype("<u2").tobytes()
    (folder / COMPRESSED).mkdir()
    for path in ct_files(folder / PLAIN, count, 512 * KIB, PixelData=pixels):
        ds = pydicom.dcmread(path)
        ds.compress(JPEG2000Lossless, generate_instance_uid=False)
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = UID(f"{ds.SOPInstanceUID[:-2]}.1")
        ds.save_as(folder / COMPRESSED / path.name)


def sign_in_operator(client: httpx.Client, gateway: Gateway) -> None:
    """Somebody who may see images."""
    secret = gateway.directory / "password"
    secret.write_text(PASSWORD)
    secret.chmod(0o600)
    done = gateway.cli("console", "accounts", "add", NAME, "--role", "operator", "--password-file", str(secret))
    assert done.returncode == 0, done.stderr
    assert sign_in(client, NAME).status_code == 303


#: What is asked of the centre, by the figure's name.
QUESTIONS = {
    "ms, overview": "/",
    "ms, sites": "/sites",
    "ms, sorted": "/sites?sort=used&down=1",
    "ms, filtered": "/sites?q=9&region=Region+3",
    "ms, page 5": "/sites?page=5",
    "ms, metrics": "/metrics",
}


@dataclass(frozen=True)
class Centre:
    """Somebody who has signed in reads the tables of a centre whose sites have just reported."""

    name: str = "centre"
    what: str = f"the centre's pages of {SITES:,} sites"
    peers: tuple[str, ...] = (EDGE,)
    targets: tuple[Target, ...] = tuple(Target(name, at_least=300.0) for name in QUESTIONS)

    def measure(self, peer: str, stage: Stage) -> Figures:
        sites, times = fleet(SITES), stage.few(20, 5)
        tables = "\n".join(map(_table, sites))
        with stage.directory() as folder, ExitStack() as stack:
            office = CentralOffice(folder, tables)
            fill(office, sites)
            stack.enter_context(office)
            client = stack.enter_context(httpx.Client(base_url=office.url, verify=office.context, timeout=100))
            assert sign_in(client, NAME).status_code == 303
            return {name: answer_times(client, [path] * times)[times // 2] for name, path in QUESTIONS.items()}


def _table(site: SimulatedSite) -> str:
    number = int(site.id)
    return (
        f'[site."{site.id}"]\nkey = "{site.id}.key"\nprovider = "Provider {number % 25}"\n'
        f'region = "Region {number % 8}"\n'
    )


def fill(office: CentralOffice, sites: Iterable[SimulatedSite]) -> None:
    """What the sites have reported is in the centre's database, and one person has an account."""
    now = time.time()
    with closing(OpenDatabase(office.config.database_url())) as store:
        with store.writing() as conn:
            for site in sites:
                for minute in range(BEATS):
                    at = now - 60 * (BEATS - minute)
                    record_heartbeat(conn, parse(encoded(site.document(at))), at)
        Accounts(store, record_in_journal).put(Account(NAME, UserRole.ADMIN, HASH, now - 1), "bench")


ROWS = (Look(), Centre())
