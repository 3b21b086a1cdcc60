"""What is known of the equipment: what it offered, what its objects say, when it stored; and the history of samples."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from edge.config import load_config
from edge.model import UNNAMED_CALLER, Disk
from edge.monitor import equipment, health
from edge.monitor.live import Live, Usual
from edge.monitor.sampler import Gauges
from edge.monitor.snapshot_model import Snapshot
from edge.monitor.status_document import status_json
from edge.spool.room import disk_of
from edge.storage.backfill import Backfill
from edge.store import peers, samples
from edge.store.callers import Calls, remember_peer
from tests.support.filled import CT1, Filled
from tests.support.gateway import Receiving
from tests.support.objects import ct_files
from tests.support.peers import storescu

HOUR, DAY = 3600.0, 86400.0


@pytest.fixture
def filled(tmp_path: Path) -> Iterator[Filled]:
    with Filled(tmp_path) as made:
        yield made


def called(filled: Filled, ae_title: str, stored_at: float | None = None, modality: str = "ct1") -> None:
    heard = Calls(modality, 50.0, stored_at or 60.0, 1, stored_at)
    filled.db.write(lambda conn: remember_peer(conn, ae_title, "10.10.4.21", heard))


@pytest.mark.parametrize(("ae_title", "name"), [("CT1", "ct1"), ("", "feed.his")])
def test_a_caller_without_a_name_is_forgotten_once_its_address_is_let_in(
    filled: Filled, ae_title: str, name: str
) -> None:
    """Ten minutes later: another machine behind the same address does not hide it."""
    expired = Calls("", 50.0, 1000.0, 1, refused="its certificate has expired")
    filled.db.write(lambda conn: remember_peer(conn, "", "10.10.4.21", expired))
    remaining = []
    for at in (1100.0, 1700.0):
        called(filled, ae_title, at, name)
        with filled.db.reading() as conn:
            remaining.append([each[:4] for each in peers.refused_since(conn, 0.0)])
    assert remaining == [[("", "10.10.4.21", 50.0, "its certificate has expired")], []]
    with filled.db.reading() as conn:
        assert [each["ae_title"] for each in peers.all_peers(conn, 9)] == [ae_title] * bool(ae_title)


def test_a_real_senders_offer_and_number_are_kept(tmp_path: Path) -> None:
    with Receiving(tmp_path) as site:
        storescu(ct_files(tmp_path / "ct", 3, 1024), site.port, calling="CT1")
        site.receiver.drain(5.0)
        work = site.callers.take()
        assert work is not None
        site.db.write(work)
        with site.db.reading() as conn:
            (met,) = equipment.modalities(conn, site.config, {"CT1": Usual("by 09:00 on mon")})
        assert (met.ae_title, met.name, met.stored, met.usual) == ("CT1", "any", 3, "by 09:00 on mon")
        assert met.last_stored == pytest.approx(time.time(), abs=30)
        offered = dict(met.contexts)
        assert "1.2.840.10008.1.2" in offered["1.2.840.10008.5.1.4.1.1.2"]
        ((hour, first),) = site.rows("SELECT hour, first_at FROM heard")
        assert hour == first // 3600


def identified(filled: Filled, at: float, **attributes: str) -> None:
    """One object with these attributes has come then, and was read."""
    filled.receive(1, replace(CT1, received_at=at), **attributes)
    while Backfill(filled.db, filled.intake).step():
        pass
    filled.db.write(equipment.identify)


def changes(filled: Filled, at: float) -> list[str]:
    with filled.db.reading() as conn:
        seen = health.snapshot(conn, filled.config, disk_of(filled.data_dir), Live("running"), at)
    return [alert.what for alert in seen.alerts if alert.kind == "equipment-changed"]


SCANNER = {"Manufacturer": "ACME", "ManufacturerModelName": "Scan", "DeviceSerialNumber": "1", "SoftwareVersions": "A"}


def test_the_objects_say_who_made_it(filled: Filled) -> None:
    now = time.time()
    called(filled, "CT1", now)
    filled.receive(1, Manufacturer="ACME", ManufacturerModelName="Scan-O-\x1bMatic")
    filled.db.write(equipment.identify)
    assert filled.one("SELECT manufacturer FROM peer") == ""  # its header is not read yet: later
    Backfill(filled.db, filled.intake).step()
    filled.db.write(equipment.identify)
    with filled.db.reading() as conn:
        (known,) = equipment.modalities(conn, filled.config, {})
    assert known.manufacturer == "ACME"
    assert known.model.startswith("Scan-O-")
    assert "\x1b" not in known.model
    assert changes(filled, now) == []  # the first make is no change


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"Manufacturer": "Other"}, "manufacturer ACME is now Other"),
        ({"ManufacturerModelName": "Scan II"}, "model Scan is now Scan II"),
        ({"DeviceSerialNumber": "2"}, "serial number 1 is now 2"),
        ({"SoftwareVersions": "B"}, "software A is now B"),
    ],
)
def test_another_make_under_a_known_title_is_reported_once(filled: Filled, change: dict[str, str], words: str) -> None:
    now = time.time()
    called(filled, "CT1", now)
    identified(filled, now, **SCANNER)
    assert changes(filled, now) == []
    identified(filled, now + 1, **SCANNER | change)
    (what,) = changes(filled, now + 2)
    assert words in what
    identified(filled, now + 3, **SCANNER)  # the first one, again: both are known
    assert changes(filled, now + 4) == [what]
    assert changes(filled, now + 8 * DAY) == []


def test_a_change_of_years_ago_is_no_news(filled: Filled) -> None:
    now = time.time()
    called(filled, "CT1", now)
    identified(filled, now - 700 * DAY, **SCANNER)
    identified(filled, now - 300 * DAY, **SCANNER | {"DeviceSerialNumber": "2"})
    assert changes(filled, now) == []
    assert filled.one("SELECT serial FROM peer") == "2"


def test_what_an_object_does_not_say_is_no_change(filled: Filled) -> None:
    now = time.time()
    called(filled, "CT1", now)
    identified(filled, now, **SCANNER)
    identified(filled, now, Manufacturer="ACME", ManufacturerModelName="", SoftwareVersions="")
    identified(filled, now, Manufacturer="")
    assert changes(filled, now) == []
    assert filled.one("SELECT serial FROM peer") == "1"


def test_a_title_that_stands_for_many_is_one_alert_that_says_so(filled: Filled) -> None:
    now = time.time()
    called(filled, "CT1", now)
    for number in range(20):
        identified(filled, now + number, **SCANNER | {"DeviceSerialNumber": str(number)})
    (what,) = changes(filled, now + 30)
    assert "stands for 6 or more devices" in what
    assert filled.one("SELECT count(*) FROM equipment_make") == 6


def test_an_archive_that_only_reports_is_no_equipment(filled: Filled) -> None:
    called(filled, "ARCHIVE", modality="archive")
    with filled.db.reading() as conn:
        assert list(equipment.modalities(conn, filled.config, {})) == []


def test_ten_weeks_in_the_catalog_are_a_rhythm_and_a_silence_in_the_status(filled: Filled) -> None:
    now = time.time() // DAY * DAY + 20 * HOUR
    filled.config = replace(filled.config, calendar=replace(filled.config.calendar, time_zone="UTC"))
    for day in range(70, 0, -1):
        called(filled, "CT1", now - day * DAY - 12 * HOUR)  # each day at eight, weekends too
    with filled.db.reading() as conn:
        (met,) = equipment.rhythms(conn, filled.config, HOUR, now).values()
        assert met.text == "by 08:00 on mon, tue, wed, thu, fri, sat, sun"
        assert met.missed_at == now - 12 * HOUR
        seen = health.snapshot(conn, filled.config, disk_of(filled.data_dir), Live("running"), now)
    assert [alert.subject for alert in seen.alerts if alert.kind == "modality-silent"] == ["CT1"]
    (told,) = status_json(seen)["modalities"]
    assert (told["silent"], told["usual"]) == (True, met.text)
    called(filled, "CT1", now)
    with filled.db.reading() as conn:
        assert equipment.rhythms(conn, filled.config, HOUR, now)["CT1"].missed_at is None


@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("ct1", '[modality.ct1]\nae_title = "CT1"\n', True),
        ("ct1", '[modality.renamed]\nae_title = "CT*"\n', True),
        ("ct1", '[modality.mr1]\nae_title = "MR1"\n', False),
        ("ct1", '[listen]\nunknown = "accept"\n', False),
        (UNNAMED_CALLER, '[listen]\nunknown = "accept"\n', True),
        (UNNAMED_CALLER, "", False),
        ("client.ai", '[client.ai]\ntoken = "ai"\nservices = ["store"]\n', True),
        ("client.ai", "", False),
    ],
)
def test_equipment_that_was_removed_is_not_silent(filled: Filled, name: str, config: str, expected: bool) -> None:
    """A scanner is sold, its table goes: it cannot call any more, and nobody waits for it."""
    folder = filled.tmp_path / "today"
    folder.mkdir()
    (folder / "site.toml").write_text(f'[site]\nid = "1"\ndata_dir = "data"\n{config}')
    now = time.time() // DAY * DAY + 20 * HOUR
    for day in range(70, 0, -1):
        called(filled, "CT1", now - day * DAY - 12 * HOUR, name)
    with filled.db.reading() as conn:
        found = equipment.rhythms(conn, load_config(folder), HOUR, now)
    assert ("CT1" in found) is expected


# The history.


def test_samples_are_thinned_to_the_last_of_each_hour_and_end_after_13_months(filled: Filled) -> None:
    now = 1_800_000_000.0
    moments = [now - 400 * DAY, *(now - 4 * DAY + n * 60.0 for n in range(4 * 1440))]
    for name in ("disk.used", "backlog/archive"):
        filled.db.write(lambda conn, name=name: [samples.add_sample(conn, at, {name: at}) for at in moments])
    for _ in range(2):
        filled.db.write(lambda conn: samples.thin(conn, now))
        with filled.db.reading() as conn:
            kept = samples.series(conn, "disk.used", 0.0)
        old = [at for at, _ in kept if at < now - 2 * DAY - HOUR]
        assert len(old) == pytest.approx(47, abs=2)
        assert all((at + 60) % HOUR < 60 for at in old)
        assert len(kept) - len(old) >= 2880
    assert filled.one("SELECT count(*) FROM sample WHERE name = 'backlog/archive'") == len(kept)


def test_the_gauges_keep_what_the_plots_show(filled: Filled) -> None:
    filled.receive(3)

    def seen() -> Snapshot:
        with filled.db.reading() as conn:
            return health.snapshot(conn, filled.config, disk(), Live("running"), time.time())

    def disk() -> Disk:
        return disk_of(filled.data_dir)

    gauges = Gauges(filled.db, lambda: filled.config, disk, seen)
    gauges.sample()
    with filled.db.reading() as conn:
        assert [value for _, value in samples.series(conn, "backlog/archive", 0.0)] == [3.0]
        (sent,) = samples.series(conn, "sent.bytes/archive", 0.0)
        (received,) = samples.series(conn, "received.bytes", 0.0)
        assert (sent[1], received[1]) == (0.0, filled.one("SELECT sum(size) FROM instance"))
    again = Gauges(filled.db, lambda: filled.config, disk, seen)
    assert again.usage == gauges.usage  # a restart forgets nothing
