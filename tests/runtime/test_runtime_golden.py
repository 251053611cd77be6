"""The self-test replays the golden inputs and fails on every kind of difference."""

import json

import numpy as np
import pytest
from support.runtime_toys import oracle

from runtime.bundles.bundle import open_files
from runtime.bundles.golden import Golden, check_golden, load_golden
from targets.errors import InputError


def golden_arrays(samples=3):
    pixels = np.random.default_rng(1).standard_normal((samples, 3, 8, 8)).astype(np.float32)
    return {
        "input_pixel_values": pixels,
        "output_logits": oracle(pixels).astype(np.float32),
        "atol_logits": np.float32(1e-4),
    }


def replace_golden(maker, bundle, arrays):
    np.savez(bundle / "golden.npz", **arrays)
    maker.seal(bundle)


def test_a_good_bundle_passes_and_its_errors_are_shown(run_module, bundle):
    done = run_module("runtime.selftest", bundle)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok  logits: max error ") and "allowed 0.0001" in done.stdout
    report = json.loads(run_module("runtime.selftest", bundle, "--json", "--provider", "cpu").stdout)
    assert report["passed"] and report["provider"] == "CPUExecutionProvider"
    assert 0 <= report["outputs"][0]["max_error"] <= 1e-4


def test_more_golden_samples_than_the_largest_batch_are_run_in_pieces(run_module, maker, bundle):
    replace_golden(maker, bundle, golden_arrays(samples=19))
    assert run_module("runtime.selftest", bundle).returncode == 0


@pytest.mark.parametrize("json_option", [[], ["--json"]])
def test_one_output_off_by_more_than_its_tolerance_fails(run_module, maker, bundle, json_option):
    arrays = golden_arrays()
    arrays["output_logits"][2, 4] += 2e-4
    replace_golden(maker, bundle, arrays)
    done = run_module("runtime.selftest", bundle, *json_option)
    assert done.returncode == 1
    assert "logits differs from the golden output on CPUExecutionProvider" in done.stderr
    assert ('"passed": false' if json_option else "FAILED  logits: max error 0.0002") in done.stdout


@pytest.mark.parametrize(
    "broken",
    [
        {"logits": np.array([[1.0, np.nan]])},
        {"logits": np.array([[1.0, np.inf]])},
        {"logits": np.array([[1.0]])},
        {"logits": np.array([1.0, 2.0])},
        {},
    ],
)
def test_what_cannot_be_compared_is_never_a_pass(broken):
    golden = Golden({"x": np.zeros((1, 1))}, {"logits": np.array([[1.0, 2.0]])}, {"logits": 1e9})
    (result,) = check_golden(lambda inputs: broken, golden)
    assert not result and result.max_error == float("inf")


def test_a_tolerance_that_is_not_a_number_is_never_a_pass():
    golden = Golden({"x": np.zeros((1, 1))}, {"logits": np.ones((1, 1))}, {"logits": float("nan")})
    assert not any(check_golden(lambda inputs: {"logits": np.ones((1, 1))}, golden))


@pytest.mark.parametrize(
    ("drop", "add", "message"),
    [
        ("atol_logits", {}, "do not match one to one"),
        ("output_logits", {}, "do not match one to one"),
        (None, {"atol_other": 1.0}, "do not match one to one"),
        (None, {"extra": 1.0}, "unknown array 'extra'"),
        ("input_pixel_values", {}, "input 'pixel_values' is missing"),
    ],
)
def test_incomplete_golden_data_is_refused(run_module, maker, bundle, drop, add, message):
    arrays = {name: value for name, value in golden_arrays().items() if name != drop}
    replace_golden(maker, bundle, {**arrays, **add})
    done = run_module("runtime.selftest", bundle)
    assert done.returncode == 2 and message in done.stderr


@pytest.mark.parametrize("place", ["method", "flags"])
def test_golden_data_that_are_no_archive_inside_are_refused(maker, bundle, place):
    path = bundle / "golden.npz"
    data = bytearray(path.read_bytes())
    entry = data.index(b"PK\x01\x02")
    at = {"method": entry + 10, "flags": entry + 8}[place]
    data[at] = {"method": 99, "flags": 1}[place]
    path.write_bytes(data)
    maker.seal(bundle)
    with pytest.raises(InputError, match="not a readable npz"):
        load_golden(open_files(bundle))


def test_a_bundle_without_golden_data_cannot_be_checked(maker, bundle):
    (bundle / "golden.npz").unlink()
    maker.seal(bundle)
    with pytest.raises(InputError, match="cannot be checked"):
        load_golden(open_files(bundle))
    (bundle / "golden.npz").write_bytes(b"PK")
    maker.seal(bundle)
    with pytest.raises(InputError, match="not a readable npz"):
        load_golden(open_files(bundle))
