"""A machine is held against the table; the command line exits as promised and starts fast."""

import dataclasses
import subprocess
import sys
import time
from pathlib import Path

import pytest

import targets
from targets.check import detect, lacking
from targets.errors import InputError
from targets.machine import Gpu, Machine, l4t_release, memory_bytes, parse_gpu, probe

REPO = Path(__file__).parents[2]
NANO = Machine(
    arch="aarch64",
    memory_bytes=7945728 * 1024,
    device_model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    l4t="36.4.3",
    onnxruntime="1.23.0",
    providers=("CPUExecutionProvider",),
    tensorrt="10.3.0",
)
RTX = Machine(
    arch="x86_64",
    memory_bytes=32 << 30,
    gpu=Gpu("NVIDIA GeForce RTX 4070", 12282 << 20, "8.9", "580.1"),
    onnxruntime="1.31.1",
    providers=("CUDAExecutionProvider", "CPUExecutionProvider"),
    tensorrt="10.9.0.34",
)


def test_a_machine_that_fits_lacks_nothing():
    assert lacking(targets.load("jetson"), NANO) == []
    assert lacking(targets.load("rtx"), RTX) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"arch": "x86_64"}, "architecture: this machine is x86_64, jetson-orin-nano is aarch64"),
        ({"device_model": "NVIDIA Jetson AGX Orin Developer Kit"}, "device: this machine is NVIDIA Jetson AGX Orin"),
        ({"device_model": None}, "device: this machine is unknown"),
        ({"memory_bytes": 4 << 30}, "memory: 4.3 GB here, jetson-orin-nano has 8 GB"),
        ({"l4t": None}, "JetPack: none found"),
        ({"l4t": "35.4.1"}, "JetPack: L4T 35.4.1 is not in the table"),
        ({"tensorrt": None}, "TensorRT: its Python module does not import"),
        ({"tensorrt": "10.16.2"}, "TensorRT: 10.16.2 is not in the table for jetson-orin-nano; it has 10.3"),
        ({"onnxruntime": None}, "ONNX Runtime: it does not import"),
        ({"providers": ("CUDAExecutionProvider",)}, "offers no CPUExecutionProvider"),
        ({"gpu": Gpu("Orin", 0, "7.2", "540")}, "compute capability 7.2, jetson-orin-nano has 8.7"),
    ],
)
def test_each_thing_lacking_is_one_line(change, line):
    missing = lacking(targets.load("jetson"), dataclasses.replace(NANO, **change))
    assert len(missing) == 1 and line in missing[0] and "\n" not in missing[0]


@pytest.mark.parametrize(
    ("change", "fits"),
    [
        ({"tensorrt": "10.2.0"}, False),
        ({"tensorrt": "12.0.1"}, False),
        ({"tensorrt": "11.1.0"}, True),
        ({"tensorrt": None, "tensorrt_rtx": "1.7.1.116"}, True),
        ({"gpu": None}, False),
    ],
)
def test_a_pc_takes_any_tensorrt_between_the_oldest_and_the_newest_known(change, fits):
    assert (lacking(targets.load("rtx"), dataclasses.replace(RTX, **change)) == []) == fits


@pytest.mark.parametrize(
    ("machine", "name"),
    [
        (NANO, "jetson-orin-nano"),
        (dataclasses.replace(NANO, device_model="NVIDIA Jetson AGX Orin Developer Kit"), "jetson-agx-orin"),
        (dataclasses.replace(NANO, device_model="Raspberry Pi 5 Model B Rev 1.0"), "cpu-arm64"),
        (RTX, "rtx-ada"),
        (dataclasses.replace(RTX, gpu=None), "cpu-x86"),
        (dataclasses.replace(RTX, gpu=Gpu("H100", 80 << 30, "9.0", "580")), "gpu-hopper"),
    ],
)
def test_this_machines_target_is_found(machine, name):
    assert detect(targets.load_all(), machine).name == name


def test_a_machine_of_no_known_kind_is_refused():
    with pytest.raises(InputError, match="riscv64"):
        detect(targets.load_all(), Machine(arch="riscv64"))


def test_facts_are_read_from_proc_and_etc(tmp_path):
    (tmp_path / "proc/device-tree").mkdir(parents=True)
    (tmp_path / "etc").mkdir()
    (tmp_path / "proc/device-tree/model").write_bytes(b"NVIDIA Jetson AGX Thor Developer Kit\x00")
    (tmp_path / "proc/meminfo").write_text("MemTotal:        7945728 kB\nMemAvailable:    5000000 kB\n")
    (tmp_path / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic\n")
    assert l4t_release(tmp_path) == "36.4.3"
    assert memory_bytes(tmp_path) == 7945728 * 1024
    assert memory_bytes(tmp_path, "MemAvailable") == 5_000_000 * 1024
    assert probe(tmp_path).device_model == "NVIDIA Jetson AGX Thor Developer Kit"
    assert l4t_release(tmp_path / "proc") is None


def test_the_driver_answer_is_parsed_also_where_memory_is_not_said():
    assert parse_gpu("NVIDIA H100 80GB HBM3, 81559, 9.0, 550.1\n") == Gpu(
        "NVIDIA H100 80GB HBM3", 81559 << 20, "9.0", "550.1"
    )
    assert parse_gpu("Orin (nvgpu), [N/A], 8.7, 540.4.0") == Gpu("Orin (nvgpu)", 0, "8.7", "540.4.0")
    assert parse_gpu("") is None


def run(*args):
    return subprocess.run(
        [sys.executable, "-m", "targets", *args], capture_output=True, text=True, cwd=REPO, check=False
    )


def test_list_shows_a_row_per_target_and_show_the_sources():
    done = run("list")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 1 + len(targets.names())
    assert "jetson-orin-nano  jetson          8 GB    fp16       tensorrt, ort-tensorrt, cuda, cpu" in done.stdout
    shown = run("show", "jetson")
    assert shown.returncode == 0
    assert "JetPack 6.2, TensorRT 10.3, CUDA 12.6" in shown.stdout and "source:" in shown.stdout


def test_check_exits_three_with_a_line_per_lack_and_zero_where_it_fits():
    done = run("check", "jetson-thor")
    assert done.returncode == 3
    assert sum(line.startswith("lacking  ") for line in done.stdout.splitlines()) >= 3
    here = run("check")
    assert here.returncode == (3 if "lacking" in here.stdout else 0)


def test_wrong_usage_exits_two_without_a_traceback():
    done = run("show", "jetsn")
    assert done.returncode == 2
    assert done.stderr.startswith("error: unknown target 'jetsn'") and "Traceback" not in done.stderr
    assert run("nonsense").returncode == 2


def test_help_and_list_answer_at_once_and_import_the_standard_library_alone():
    for args in (["--help"], ["list"]):
        took = []
        for _ in range(3):
            start = time.perf_counter()
            assert run(*args).returncode == 0
            took.append(time.perf_counter() - start)
        assert min(took) < 0.5
    code = "import sys, targets, targets.check, targets.machine; targets.load_all(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()} - {"targets"}
    foreign = {name for name in loaded if name not in sys.stdlib_module_names and not name.startswith("__")}
    assert not foreign & {"numpy", "onnxruntime", "torch", "pydantic", "rich", "typer", "runtime", "export", "compress"}


def test_a_target_whose_first_backend_is_lacking_is_told_so():
    target, pc = targets.load("openvino"), dataclasses.replace(RTX, gpu=None)
    assert lacking(target, dataclasses.replace(pc, lacks={"openvino": None})) == []
    told = lacking(target, dataclasses.replace(pc, lacks={"openvino": "OpenVINO is not installed"}))
    assert told == ["openvino: OpenVINO is not installed"]
