"""The report says where its latencies were measured, and names a target only where that is another machine."""

import pytest

import targets
from compress.stages.report import place


@pytest.mark.parametrize(
    ("target", "arch", "said"),
    [
        ("cpu", "x86_64", "this workstation's CPU"),
        ("cpu-x86-openvino", "x86_64", "this workstation's CPU"),
        ("cpu-arm64", "aarch64", "this workstation's CPU"),
        ("cpu-arm64", "x86_64", "this workstation's CPU, not on cpu-arm64"),
        ("jetson", "aarch64", "this workstation's CPU, not on jetson-orin-nano"),
        ("gpu-ampere", "x86_64", "this workstation's CPU, not on gpu-ampere"),
    ],
)
def test_latencies_are_elsewhere_only_where_the_target_is_another_kind_of_machine(target, arch, said):
    assert place(targets.load(target), arch) == said
