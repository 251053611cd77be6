"""Numbers of loops that a bundle offers, and the early exit: against a plain loop over the inputs."""

import json
from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image
from support.runtime_toys import BIAS, KERNEL, oracle

from runtime.bundles.bundle import open_files
from runtime.exit import Exiting, is_sure, open_exiting
from runtime.field.drift import Summary, numbers_of
from runtime.session import open_session
from targets.errors import InputError

MODELS = [
    {"path": "model.onnx", "runtime": "onnxruntime", "precision": "fp32", "note": "", "loops": 4},
    {"path": "model.loops-2.onnx", "runtime": "onnxruntime", "precision": "fp32", "note": "", "loops": 2},
    {"path": "model.loops-6.onnx", "runtime": "onnxruntime", "precision": "fp32", "note": "", "loops": 6},
]
FACTORS = {2: 0.5, 6: 2.0}


@dataclass
class Fixed:
    """Answers each input, a number, with its row of a table."""

    table: np.ndarray
    asked: int = 0
    provider, inputs, outputs = "CPU", (), ()

    def run(self, inputs):
        self.asked += len(inputs["x"])
        return {"logits": self.table[inputs["x"]], "twice": self.table[inputs["x"]] * 2}


@settings(max_examples=40, deadline=None)
@given(
    stages=st.integers(1, 4),
    samples=st.integers(1, 9),
    classes=st.integers(2, 5),
    probability=st.floats(0.2, 0.99),
    seed=st.integers(0, 999),
)
def test_each_input_gets_the_first_answer_that_is_sure(stages, samples, classes, probability, seed):
    tables = np.random.default_rng(seed).standard_normal((stages, samples, classes)) * 3
    backends = [Fixed(table) for table in tables]
    exiting = Exiting([(2 * place + 1, one) for place, one in enumerate(backends)], "logits", probability)
    given_ = exiting.run({"x": np.arange(samples)})
    left = []
    for sample in range(samples):
        for place in range(stages):
            powers = np.exp(tables[place, sample] - tables[place, sample].max())
            if place == stages - 1 or powers.max() / powers.sum() >= probability:
                break
        left.append(place)
        assert np.array_equal(given_["logits"][sample], tables[place, sample])
        assert np.array_equal(given_["twice"][sample], 2 * tables[place, sample])
    assert [one.asked for one in backends] == [sum(at >= place for at in left) for place in range(stages)]
    assert exiting.left == {2 * place + 1: left.count(place) for place in range(max(left) + 1)}


def test_sure_is_a_probability_and_the_bound_counts_as_sure():
    logits = np.log(np.array([[0.9, 0.1], [0.6, 0.4], [0.5, 0.5]]))
    assert is_sure(logits, 0.6 - 1e-9).tolist() == [True, True, False]


def scaled(pixels_BCHW, factor):
    """The toy's classifier with its kernel times a factor."""
    return BIAS + factor * (oracle(pixels_BCHW) - BIAS)


@pytest.fixture
def looped(maker):
    """A bundle whose other numbers of loops are the toy with its kernel scaled."""
    folder = maker.write("looped", models=MODELS, exit={"probability": 0.6})
    with np.load(folder / "golden.npz") as archive:
        arrays = dict(archive)
    for loops, factor in FACTORS.items():
        model = onnx.load(folder / "model.onnx")
        kernel = next(one for one in model.graph.initializer if one.name == "kernel")
        kernel.CopyFrom(numpy_helper.from_array(KERNEL * np.float32(factor), "kernel"))
        onnx.save(model, folder / f"model.loops-{loops}.onnx")
        outputs = scaled(arrays["input_pixel_values"], factor).astype(np.float32)
        arrays |= {f"output{loops}_logits": outputs, f"atol{loops}_logits": np.float32(1e-4)}
    np.savez(folder / "golden.npz", **arrays)
    maker.seal(folder)
    return folder


def test_a_number_of_loops_is_chosen_and_has_golden_outputs_of_its_own(run_module, looped):
    for loops, path in ((None, "model.onnx"), (2, "model.loops-2.onnx"), (4, "model.onnx"), (6, "model.loops-6.onnx")):
        chosen = [] if loops is None else ["--loops", str(loops)]
        done = run_module("runtime.selftest", looped, "--json", *chosen)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["model"] == path


def test_a_number_of_loops_that_is_not_offered_is_one_clear_error(looped, bundle):
    with pytest.raises(InputError, match="cannot run 5 loops; it offers 2, 4, 6"):
        open_session(open_files(looped), loops=5)
    with pytest.raises(InputError, match="it has one number of loops only"):
        open_session(open_files(bundle), loops=2)
    with pytest.raises(InputError, match="has no early exit"):
        open_exiting(open_files(bundle))


@pytest.mark.parametrize("probability", [0, 1, 1.5, "often"])
def test_an_exit_at_what_is_no_probability_is_refused(maker, probability):
    folder = maker.write(exit={"probability": probability})
    with pytest.raises(InputError, match="probability"):
        open_files(folder)


def test_run_exits_early_and_says_after_how_many_loops(run_module, looped, tmp_path):
    pixels = np.random.default_rng(3).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    for place, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{place}.png")
    done = run_module("runtime.run", looped, *sorted(tmp_path.glob("*.png")), "--exit", "--json")
    assert done.returncode == 0, done.stderr
    prepared = (pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5
    few, whole = scaled(prepared, FACTORS[2]), oracle(prepared)
    few, whole = ((powers := np.exp(one)).max(-1) / powers.sum(-1) for one in (few, whole))
    sure = few >= 0.6
    assert 0 < sum(sure) < 6, "the toy should leave at both places"
    given_ = [one["top"][0]["probability"] for one in json.loads(done.stdout)["results"]]
    assert given_ == pytest.approx(np.where(sure, few, whole), abs=1e-5)
    assert f"{sum(sure)} inputs left after 2 loops, {6 - sum(sure)} after 4" in done.stderr
    assert run_module("runtime.run", looped, tmp_path / "0.png", "--exit", "--loops", "2").returncode == 2


def test_fewer_loops_give_other_outputs_and_that_is_no_drift(run_module, maker, looped, tmp_path):
    pixels = np.random.default_rng(4).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    (tmp_path / "in").mkdir()
    for place, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / "in" / f"{place:03}.png")
    prepared = ((pixels.transpose(0, 3, 1, 2) / 255 - 0.5) / 0.5).astype(np.float32)
    seen = numbers_of({"pixel_values": prepared}, oracle(prepared).astype(np.float32))
    Summary.of(seen).save(looped / "inputs.json")
    maker.seal(looped)
    few = numbers_of({"pixel_values": prepared}, scaled(prepared, FACTORS[6]).astype(np.float32))
    assert "spread of the output" in Summary.of(seen).drifted(few)
    for options in ([], ["--loops", "6"]):
        metrics = tmp_path / "m.prom"
        done = run_module("runtime.run", looped, tmp_path / "in", "--metrics", metrics, *options)
        assert done.returncode == 0 and "warning" not in done.stderr, done.stderr
        assert "edgepress_drift_windows 1\n" in metrics.read_text()
