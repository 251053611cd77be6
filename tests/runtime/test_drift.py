"""Drift is reported when there is one, and in at most one window of a thousand when there is none."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from scipy.stats import chi2, chi2_contingency

from runtime.bundles.manifest import Tensor
from runtime.field.drift import LEVEL, UNKNOWN, Monitor, Spread, Summary, chi_square_tail, looked_at, numbers_of
from targets.errors import InputError


def numbers(generator, count, shift=0.0):
    """What an image model's inputs look like: six numbers of pixels, one of which may move, certainty and class."""
    pixels = {f"pixels {at}": generator.standard_normal(count) + (shift if at == 2 else 0) for at in range(6)}
    return {
        **pixels,
        "confidence": generator.beta(8, 1, count),
        "class": generator.integers(0, 10, count).astype(float),
    }


def test_the_tail_of_chi_square_is_that_of_scipy():
    for freedom in range(1, 14):
        for statistic in (0.0, 0.3, 4.0, 25.0, 80.0):
            assert chi_square_tail(statistic, freedom) == pytest.approx(chi2.sf(statistic, freedom), rel=1e-9)
    assert chi_square_tail(5.0, 0) == 1.0


def test_the_test_of_a_window_is_that_of_scipy():
    spread = Spread((0.0, 1.0), (100, 250, 150))
    values = np.array([-1.0] * 30 + [0.5] * 20 + [2.0] * 50)
    wanted = chi2_contingency([[100, 250, 150], [30, 20, 50]]).pvalue
    assert spread.p_value(values) == pytest.approx(wanted)


def test_windows_without_drift_raise_hardly_any_alarm():
    generator = np.random.default_rng(0)
    summaries = [Summary.of(numbers(generator, 500)) for _ in range(10)]
    alarms = sum(bool(one.drifted(numbers(generator, 200))) for one in summaries for _ in range(60))
    assert alarms <= 4  # P(more than 4 of 600 at 0.001) = 0.0004


def test_a_shift_of_one_standard_deviation_of_one_number_is_told_by_its_name_in_the_next_window():
    generator = np.random.default_rng(1)
    for _ in range(10):
        assert "pixels 2" in Summary.of(numbers(generator, 500)).drifted(numbers(generator, 200, shift=1.0))


def test_a_monitor_learns_then_looks_at_one_window_after_the_other_whatever_the_batches():
    generator, monitor = np.random.default_rng(2), Monitor(learned=300, window=100)
    told = [monitor.see(numbers(generator, 10)) for _ in range(30)]
    assert monitor.summary is not None and not any(told)
    told = [monitor.see(numbers(generator, 10)) for _ in range(20)]
    assert [at for at, one in enumerate(told) if one is not None] == [9, 19] and monitor.alarms == 0
    told = [monitor.see(numbers(generator, 10, shift=2.0)) for _ in range(10)]
    assert set(told[-1]) == {"pixels 2"} and monitor.windows == 3 and monitor.alarms == 1


def test_a_number_that_never_varies_or_has_few_values_is_binned_by_what_is_there():
    generator = np.random.default_rng(3)
    summary = Summary.of({"same": np.ones(500), "coin": generator.integers(0, 2, 500).astype(float)})
    assert list(summary.spreads) == ["coin"] and summary.spreads["coin"].edges == (0.5,)
    assert sum(summary.spreads["coin"].counts) == 500
    assert summary.drifted({"coin": np.zeros(200)})
    rare = Summary.of({"rare": np.array([0.0] * 498 + [1.0, 2.0])})
    assert not rare.spreads  # two inputs tell nothing


def test_a_summary_is_the_same_after_it_was_saved_and_a_damaged_one_is_refused(tmp_path):
    summary = Summary.of(numbers(np.random.default_rng(4), 500))
    path = tmp_path / "inputs.json"
    for one in (summary, replace(summary, unknown=3)):
        one.save(path)
        assert Summary.load(path) == one
    for spoilt in (
        "{}",
        "[",
        '{"spreads": {"a": {"edges": [1, 0], "counts": [1, 1, 1]}}}',
        '{"spreads": {"a": {"edges": [1], "counts": [1]}}}',
        '{"spreads": {"a": {"edges": [NaN], "counts": [1, 1]}}}',
    ):
        path.write_text(spoilt)
        with pytest.raises(InputError, match=r"inputs.json"):
            Summary.load(path)


def test_the_numbers_of_images_and_texts_are_those_of_numpy():
    generator = np.random.default_rng(5)
    pixels, logits = generator.standard_normal((4, 3, 5, 6)).astype(np.float32), generator.standard_normal((4, 7))
    found = numbers_of({"pixel_values": pixels}, logits)
    for at in range(4):
        assert found["mean of pixel_values[1]"][at] == pytest.approx(pixels[at, 1].mean(), abs=1e-5)
        assert found["spread of pixel_values[2]"][at] == pytest.approx(pixels[at, 2].std(), abs=1e-5)
        odds = np.exp(logits[at])
        assert found["confidence"][at] == pytest.approx(odds.max() / odds.sum())
        assert found["class"][at] == logits[at].argmax()
        assert found["mean of the output"][at] == pytest.approx(logits[at].mean())
        assert found["spread of the output"][at] == pytest.approx(logits[at].std())
    mask, ids = np.array([[1, 1, 0], [1, 1, 1]]), np.array([[5, 7, 7], [7, 7, 5]])
    texts = numbers_of({"input_ids": ids, "attention_mask": mask}, None, unknown=7)
    assert list(texts["length"]) == [2, 3] and list(texts[UNKNOWN]) == pytest.approx([1 / 2, 2 / 3])
    assert set(numbers_of({"input_ids": ids, "attention_mask": mask}, None)) == {"length"}
    assert "length" not in numbers_of({"pixel_values": pixels, "attention_mask": mask}, None)
    maps = numbers_of({}, generator.standard_normal((4, 5, 6)).astype(np.float32))
    assert set(maps) == {"mean of the output", "spread of the output"}
    assert LEVEL == 0.001


def test_outputs_with_a_number_for_each_token_are_not_looked_at():
    def outputs(*shape):
        return [Tensor("y", "float32", ("batch", *shape)), Tensor("z", "float32", ("batch", 3))]

    assert looked_at(outputs(10)) == looked_at(outputs(100, 4)) == "y"
    assert looked_at(outputs("length")) is None and looked_at(outputs("length", 300)) is None


def test_unknown_tokens_are_told_of_even_where_the_reference_had_none():
    generator = np.random.default_rng(7)
    clean = Summary.of({UNKNOWN: np.zeros(500), "length": generator.poisson(20, 500).astype(float)})
    assert clean.spreads[UNKNOWN].counts == (500, 0)
    strange = np.where(generator.random(200) < 0.1, 0.05, 0.0)
    assert set(clean.drifted({UNKNOWN: strange, "length": generator.poisson(20, 200).astype(float)})) == {UNKNOWN}
    alarms = 0
    for rate in (0.002, 0.01, 0.03):
        for _ in range(400):
            before, now = (generator.random(count) < rate for count in (500, 200))
            alarms += bool(Summary.of({UNKNOWN: before.astype(float)}).drifted({UNKNOWN: now.astype(float)}))
    assert alarms <= 6  # P(more than 6 of 1,200 at 0.001) = 0.0003


def save(folder, first, count, low, high):
    for at in range(first, first + count):
        generator = np.random.default_rng(at)
        shade = generator.integers(low, high)
        noise = generator.integers(0, 40, (8, 8, 3)) + shade
        Image.fromarray(noise.astype(np.uint8)).save(folder / f"{at:04}.png")


def test_the_command_learns_from_the_first_inputs_and_tells_of_darker_ones_later(run_module, bundle, tmp_path):
    (tmp_path / "day").mkdir()
    (tmp_path / "night").mkdir()
    save(tmp_path / "day", 0, 720, 100, 200)
    save(tmp_path / "night", 720, 200, 0, 30)
    summary, metrics = tmp_path / "inputs.json", tmp_path / "m.prom"
    learned = run_module("runtime.run", bundle, tmp_path / "day", "--drift", summary, "--metrics", metrics)
    assert learned.returncode == 0 and "was learned from 500" in learned.stderr and "warning" not in learned.stderr
    assert "edgepress_drift_windows 1\n" in metrics.read_text() and "edgepress_drift_now 0\n" in metrics.read_text()
    assert "mean of pixel_values[0]" in json.loads(summary.read_text())["spreads"]
    dark = run_module("runtime.run", bundle, "--source", tmp_path / "night", "--drift", summary, "--metrics", metrics)
    assert dark.returncode == 0 and "warning: the last 200 inputs look otherwise: mean of pixel_values" in dark.stderr
    assert "edgepress_drift_alarms 1\n" in metrics.read_text()


def test_the_summary_in_the_bundle_is_what_watching_and_counting_hold_inputs_against(run_module, maker, tmp_path):
    from runtime.images.classify import prepare_one
    from runtime.session import open_bundle

    for name, low, high in (("day", 100, 200), ("night", 0, 30)):
        (tmp_path / name).mkdir()
        save(tmp_path / name, 1000 if name == "day" else 0, 200, low, high)
    session = open_bundle(maker.write("plain"), "cpu")
    seen = np.stack([prepare_one(session, str(path)) for path in sorted((tmp_path / "day").iterdir())])
    summary = Summary.of(numbers_of({"pixel_values": seen}, None))
    summary.save(tmp_path / "looks.json")
    bundle = maker.write(files={"inputs.json": (tmp_path / "looks.json").read_bytes()})
    metrics, out = tmp_path / "m.prom", tmp_path / "r.jsonl"
    told = "warning: the last 200 inputs look otherwise: mean of pixel_values"
    watching = ("--watch", tmp_path / "night", "--out", out, "--once")
    assert told in run_module("runtime.run", bundle, *watching).stderr
    assert told in run_module("runtime.run", bundle, tmp_path / "night", "--metrics", metrics).stderr
    assert "edgepress_drift_alarms 1\n" in metrics.read_text()
    assert "warning" not in run_module("runtime.run", bundle, tmp_path / "day", "--metrics", metrics).stderr
    assert "warning" not in run_module("runtime.run", bundle, tmp_path / "night").stderr
    assert (bundle / "inputs.json").read_bytes() == (tmp_path / "looks.json").read_bytes()
