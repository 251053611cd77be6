"""Timing: figures are the clock's, each model has a process of its own, the device's state is reported where it is."""

import json

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.runtime_toys import onnx_accumulator, onnx_classifier

from runtime.bench import measure, random_inputs, summarize
from runtime.bundles.manifest import Tensor
from runtime.measuring import compare
from runtime.measuring.compare import decode_alternating, thread_counts, time_alternating, try_threads
from runtime.measuring.power import cpu_name, readings
from targets.errors import EnvironmentLacks, InputError


def test_a_bundle_and_a_bare_model_are_timed(run_module, bundle):
    for model in (bundle, bundle / "model.onnx"):
        done = run_module("runtime.bench", model, "--seconds", "0.2", "--batch", "2", "--threads", "1", "--json")
        assert done.returncode == 0, done.stderr
        report = json.loads(done.stdout)
        latency = report["latency_ms"]
        assert 0 < latency["p50"] <= latency["p95"] <= latency["p99"]
        assert report["batch"] == 2 and report["threads"] == 1 and report["provider"] == "CPUExecutionProvider"
        assert report["runs"] >= 3 and report["peak_rss_mb"] > 10 and report["cpu"]
        assert report["samples_per_s"] > 0
    plain = run_module("runtime.bench", bundle, "--seconds", "0.1")
    assert plain.returncode == 0 and "latency_ms      p50 " in plain.stdout


def test_a_model_with_state_and_several_dynamic_dimensions_is_timed(run_module, tmp_path):
    onnx.save(onnx_accumulator(), tmp_path / "m.onnx")
    done = run_module("runtime.bench", tmp_path / "m.onnx", "--seconds", "0.1", "--batch", "3", "--json")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (["{model}", "--batch", "2"], 2, "fixed at 1; use --batch 1"),
        (["{model}", "--seconds", "0"], 2, "--seconds is 0.0"),
        (["{model}", "--seconds", "nan"], 2, "--seconds is nan"),
        (["{model}", "--threads", "99999999"], 2, "more than 1024 threads; see"),
        (["{free}", "--threads", "1", "--batch", "100000000000"], 3, "out of memory"),
        (["missing.onnx"], 2, "no bundle at missing.onnx"),
        (["{model}", "--public-key", "key.pem"], 2, "is a bare ONNX file, and --public-key is for bundles"),
        (["{model}", "--graph", "decoder"], 2, "is a bare ONNX file, and --graph is for bundles"),
        (["{model}", "--loops", "2"], 2, "is a bare ONNX file, and --loops is for bundles"),
        (["{broken}"], 3, "cannot load"),
        (["{model}", "--provider", "dml", "--strict-provider"], 3, "DmlExecutionProvider"),
    ],
)
def test_wrong_usage_is_one_line(run_module, tmp_path, args, code, message):
    onnx.save(onnx_classifier(batch=1), tmp_path / "model.onnx")
    onnx.save(onnx_classifier(), tmp_path / "free.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    places = {"free": tmp_path / "free.onnx", "model": tmp_path / "model.onnx", "broken": tmp_path / "broken.onnx"}
    done = run_module("runtime.bench", *[text.format(**places) for text in args])
    assert done.returncode == code and message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr and "usage:" not in done.stderr


def test_inputs_are_made_for_every_kind_of_dimension():
    tensors = [
        Tensor("ids", "int64", ("batch", "length")),
        Tensor("x", "float16", ("batch", "chunk", 5)),
        Tensor("past", "float32", (4, 2, 7)),
        Tensor("scalar", "float32", ()),
    ]
    inputs = random_inputs(tensors, 4, 9)
    assert {name: array.shape for name, array in inputs.items()} == {
        "ids": (4, 9), "x": (4, 1, 5), "past": (4, 2, 7), "scalar": ()
    }  # fmt: skip
    assert (inputs["ids"] == 1).all() and inputs["x"].dtype == np.float16 and inputs["x"].std() > 0.5


def test_the_summary_is_percentiles_and_rate():
    times = list(range(1, 101))
    summary = summarize(times, batch=4)
    assert summary["latency_ms"] == {"p50": 50.5, "p95": 95.05, "p99": 99.01}
    assert summary["samples_per_s"] == pytest.approx(4 * 100 / (sum(times) / 1000), abs=0.01)


def test_a_percentile_is_told_only_where_there_are_runs_enough_for_it():
    assert list(summarize([1.0] * 3, 1)["latency_ms"]) == ["p50"]
    assert list(summarize([1.0] * 99, 1)["latency_ms"]) == ["p50", "p95"]
    assert list(summarize([1.0] * 100, 1)["latency_ms"]) == ["p50", "p95", "p99"]


def test_energy_is_that_of_the_runs_without_the_warm_up(bundle, monkeypatch, capsys):
    from runtime import bench
    from runtime.measuring import energy

    order = []

    class Meter:
        def __init__(self):
            self.joules = {"cpu": 1.0}

        def __enter__(self):
            order.append("meter on")
            return self

        def __exit__(self, *_):
            order.append("meter off")

    monkeypatch.setattr(energy, "EnergyMeter", Meter)
    monkeypatch.setattr(bench, "warm_up", lambda call, seconds: order.append("warm-up"))
    monkeypatch.setattr(bench, "timed", lambda call, seconds: (order.append("runs"), [1.0])[1])
    monkeypatch.setattr("sys.argv", ["bench", str(bundle), "--threads", "1", "--provider", "cpu", "--json"])
    assert bench.main() == 0 and order == ["warm-up", "meter on", "runs", "meter off"]
    assert json.loads(capsys.readouterr().out)["energy_j"] == {"cpu": 1.0}


def test_the_clock_starts_after_a_warm_up_and_three_runs_are_the_least():
    class Slow:
        calls = 0

        def run(self, inputs):
            self.calls += 1
            return {}

    slow = Slow()
    times = measure(slow, {}, 1e-9)
    assert len(times) == 3 and slow.calls == 6


def test_models_take_turns_in_processes_of_their_own_and_ratios_are_against_the_first(tmp_path, monkeypatch):
    onnx.save(onnx_classifier(), tmp_path / "small.onnx")
    calls = []
    real = compare._bench

    def spy(path, *rest):
        calls.append(path.stem)
        return real(path, *rest)

    monkeypatch.setattr(compare, "_bench", spy)
    (tmp_path / "other.onnx").write_bytes((tmp_path / "small.onnx").read_bytes())
    result = time_alternating(
        {"a": tmp_path / "small.onnx", "b": tmp_path / "other.onnx"}, rounds=2, seconds=0.05, threads=1, batch=2
    )
    assert calls == ["small", "other", "other", "small"]
    assert result["threads"] == {"a": 1, "b": 1} and not result["trial_ms"]
    assert result["reference"] == "a" and result["speedup"]["a"] == 1.0
    for name in ("a", "b"):
        times = [row[name] for row in result["rounds"]]
        assert result["median_ms"][name] == pytest.approx(sum(times) / 2)
        ratios = [row["a"] / row[name] for row in result["rounds"]]
        assert result["speedup_rounds"][name] == pytest.approx(ratios)
        assert result["speedup"][name] == pytest.approx(sum(ratios) / 2)
    assert json.loads(json.dumps(result)) == result


@given(st.integers(1, 300))
def test_the_numbers_of_threads_tried_are_the_machines_and_every_power_of_two_below(most):
    powers = {2**place for place in range(10) if 2**place < most}
    assert thread_counts(most) == sorted({most} | powers, reverse=True)


def test_every_model_is_compared_with_the_threads_that_are_fastest_for_it(tmp_path, monkeypatch):
    """The clock is ours, so that it is known which number is fastest."""
    took = {("big", 4): 4.0, ("big", 2): 6.0, ("big", 1): 9.0, ("small", 4): 3.0, ("small", 2): 2.0, ("small", 1): 1.0}
    calls = []

    def bench(path, threads, options):
        calls.append((path.stem, threads))
        latency = took[path.stem, threads]
        return {"latency_ms": {"p50": latency}, "provider": "CPUExecutionProvider", "peak_rss_mb": 9}

    monkeypatch.setattr(compare, "_bench", bench)
    monkeypatch.setattr(compare, "usable_cpus", lambda: 4)
    files = {"big": tmp_path / "big.onnx", "small": tmp_path / "small.onnx"}
    result = time_alternating(files, rounds=1)
    assert calls == [*took, ("big", 4), ("small", 1)]
    assert result["threads"] == {"big": 4, "small": 1} and result["speedup"]["small"] == 4.0
    assert result["trial_ms"]["small"] == {"4": 3.0, "2": 2.0, "1": 1.0}
    rows = decode_alternating(files, (7,), rounds=1)
    assert [(row["name"], row["threads"], row["tokens_per_second"]) for row in rows] == [
        *(("big", 4, 250.0), ("small", 1, 1000.0)),
    ]


def test_threads_are_not_tried_where_the_cpu_does_not_compute(tmp_path, monkeypatch):
    done = {"latency_ms": {"p50": 1.0}, "provider": "TensorRT 10.3"}
    monkeypatch.setattr(compare, "_bench", lambda path, threads, options: done)
    assert try_threads(tmp_path, [], most=6) == {6: 1.0}


def test_decoding_is_measured_behind_every_context_with_the_bytes_of_the_state(tmp_path):
    onnx.save(onnx_accumulator(), tmp_path / "fixed.onnx")
    cache = onnx.helper.make_graph(
        [onnx.helper.make_node("Concat", ["past_x", "x"], ["present_x"], axis=1)],
        "cache",
        [
            onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", "chunk", 3]),
            onnx.helper.make_tensor_value_info("past_x", onnx.TensorProto.FLOAT, ["batch", "past", 3]),
        ],
        [onnx.helper.make_tensor_value_info("present_x", onnx.TensorProto.FLOAT, ["batch", "total", 3])],
    )
    onnx.save(
        onnx.helper.make_model(cache, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10),
        tmp_path / "cache.onnx",
    )
    files = {"fixed": tmp_path / "fixed.onnx", "cache": tmp_path / "cache.onnx"}
    rows = decode_alternating(files, (5, 50), rounds=1, seconds=0.05, threads=1)
    assert [(row["name"], row["context"], row["state_bytes"]) for row in rows] == [
        *(("fixed", 5, 8), ("cache", 5, 60), ("fixed", 50, 8), ("cache", 50, 600)),
    ]
    assert all(row["tokens_per_second"] > 0 and row["peak_bytes"] > 1e7 for row in rows)


def test_a_model_that_cannot_be_timed_is_named_with_its_own_error(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(EnvironmentLacks, match=r"cannot time .*broken.onnx: ONNX Runtime .* cannot load"):
        time_alternating({"a": tmp_path / "broken.onnx"}, rounds=1, seconds=0.05)
    with pytest.raises(InputError, match="no bundle at"):
        time_alternating({"a": tmp_path / "missing"}, rounds=1, seconds=0.05)
    with pytest.raises(InputError, match="at least one model"):
        time_alternating({}, rounds=1)


def test_a_jetsons_state_is_read_and_what_is_absent_is_left_out(tmp_path):
    assert readings(tmp_path) == {}
    files = {
        "var/lib/nvpmodel/status": "pmode:0002\n",
        "etc/nvpmodel.conf": "< POWER_MODEL ID=0 NAME=15W >\nCPU_ONLINE 1\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "schedutil\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1728000\n",
        "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "729600\n",
        "sys/class/devfreq/17000000.gpu/cur_freq": "1020000000\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "48531\n",
        "sys/class/thermal/thermal_zone1/type": "off-thermal\n",
        "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\x00",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert readings(tmp_path) == {
        "power_mode": "MAXN_SUPER (2)",
        "governor": "schedutil",
        "cpu_mhz": [1728, 729],
        "gpu_mhz": [1020],
        "temperature_c": {"cpu-thermal": 48.531},
    }
    assert cpu_name(tmp_path) == "NVIDIA Jetson Orin Nano Developer Kit"
    (tmp_path / "etc/nvpmodel.conf").unlink()
    assert readings(tmp_path)["power_mode"] == "2"


def test_a_decoder_is_timed_at_one_token_behind_a_past():
    tensors = [
        Tensor("input_ids", "int64", ("batch", "chunk")),
        Tensor("attention_mask", "int64", ("batch", "total")),
        Tensor("past_key_values.0.key", "float32", ("batch", 2, "past", 4)),
    ]
    shapes = {name: array.shape for name, array in random_inputs(tensors, 3, 7).items()}
    assert shapes == {"input_ids": (3, 1), "attention_mask": (3, 8), "past_key_values.0.key": (3, 2, 7, 4)}
