"""When compression pays: while the encoders keep ahead of the line."""

from __future__ import annotations

from edge.outbound.economy import MEASURED_BYTES, CompressionEconomy


def measured(bytes_per_second: float) -> CompressionEconomy:
    economy = CompressionEconomy(encoders=1)
    economy.note_encoded(MEASURED_BYTES, MEASURED_BYTES / bytes_per_second)
    return economy


def test_it_is_on_until_enough_was_measured() -> None:
    economy = CompressionEconomy(encoders=2)
    economy.note_encoded(MEASURED_BYTES - 1, 1e9)
    assert economy.pays(1e9)
    assert measured(1.0).pays(None)


def test_it_is_off_while_the_line_is_faster_than_the_encoders() -> None:
    economy = measured(50e6)
    assert economy.pays(12.5e6)
    assert economy.outpaced_at is None
    assert not economy.pays(125e6)
    assert economy.outpaced_at == 50e6
    assert not economy.pays(45e6)  # it does not waver
    assert economy.pays(30e6)
    assert economy.pays(60e6)
