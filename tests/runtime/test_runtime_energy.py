"""Energy comes from what the kernel exposes, and from nowhere else."""

import time

import pytest

from runtime.measuring.energy import EnergyMeter


def put(root, path, text):
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{text}\n")


def rapl(root, zone, name, energy, limit=1_000_000_000):
    put(root, f"sys/class/powercap/{zone}/name", name)
    put(root, f"sys/class/powercap/{zone}/energy_uj", energy)
    put(root, f"sys/class/powercap/{zone}/max_energy_range_uj", limit)


def test_a_counter_gives_what_was_added_also_when_it_started_again(tmp_path):
    rapl(tmp_path, "intel-rapl:0", "package-0", 2_000_000)
    rapl(tmp_path, "intel-rapl:1", "package-1", 999_000_000)
    rapl(tmp_path, "intel-rapl:0:0", "core", 5)
    with EnergyMeter(tmp_path) as meter:
        rapl(tmp_path, "intel-rapl:0", "package-0", 5_500_000)
        rapl(tmp_path, "intel-rapl:1", "package-1", 999_999)
    assert meter.joules == {"package-0": 3.5, "package-1": pytest.approx(2.0)}


def test_the_power_of_a_rail_is_summed_over_time(tmp_path):
    monitor = "sys/class/hwmon/hwmon1"
    put(tmp_path, f"{monitor}/name", "ina3221")
    put(tmp_path, f"{monitor}/in1_label", "VDD_IN")
    put(tmp_path, f"{monitor}/in1_input", 5000)
    put(tmp_path, f"{monitor}/curr1_input", 2000)
    put(tmp_path, f"{monitor}/in2_label", "switched off")
    put(tmp_path, "sys/class/hwmon/hwmon0/name", "nct6775")
    began = time.monotonic()
    with EnergyMeter(tmp_path) as meter:
        time.sleep(0.3)
    seconds = time.monotonic() - began
    assert set(meter.joules) == {"VDD_IN"}
    assert meter.joules["VDD_IN"] == pytest.approx(10 * seconds, rel=0.2)


def test_a_device_that_exposes_nothing_gives_nothing(tmp_path):
    put(tmp_path, "sys/class/powercap/intel-rapl:0/name", "package-0")
    put(tmp_path, "sys/class/powercap/intel-rapl:0/energy_uj", "unreadable")
    with EnergyMeter(tmp_path) as meter:
        pass
    assert meter.joules == {}
