"""Costs of small models: measured on the device, and read back strictly."""

import json

import onnx
import pytest
from support.runtime_toys import onnx_classifier

from runtime.costs import Costs, Plan, measured, read_plan
from runtime.files import sha256_of
from targets.errors import EnvironmentLacks, InputError


@pytest.fixture
def probes(tmp_path):
    folder = tmp_path / "probes"
    folder.mkdir()
    onnx.save(onnx_classifier(), folder / "a.onnx")
    document = {
        "target": "cpu-x86",
        "precision": "fp32",
        "backends": ["tensorrt", "cpu"],
        "threads": 1,
        "length": 8,
        "files": {"half": "a.onnx"},
    }
    (folder / "probes.json").write_text(json.dumps(document))
    return folder


def test_a_folder_of_probes_is_measured_by_its_names(run_module, probes, tmp_path):
    out = tmp_path / "costs.json"
    done = run_module("runtime.costs", probes, "--out", out)
    assert done.returncode == 0, done.stderr
    costs = Costs.read(out)
    assert (costs.target, costs.precision, costs.backend) == ("cpu-x86", "fp32", "cpu")
    row = costs.rows["half"]
    assert row.sha256 == sha256_of(probes / "a.onnx") and row.ms.keys() == {"1"} and row.ms["1"] > 0
    assert json.loads(costs.to_json()) == json.loads(out.read_text())


def test_of_a_bundle_the_files_that_ship_are_measured(bundle):
    plan = read_plan(bundle)
    assert plan.files == {"model.onnx": bundle / "model.onnx"} and plan.threads >= 1


def test_a_folder_that_is_neither_or_lacks_a_file_is_refused(probes, tmp_path):
    with pytest.raises(InputError, match=r"is not a bundle and holds no probes\.json"):
        read_plan(tmp_path)
    (probes / "a.onnx").unlink()
    with pytest.raises(InputError, match=r"lacks a\.onnx; copy the whole folder again"):
        read_plan(probes)


def test_files_that_nothing_here_runs_are_told_with_the_reason(probes):
    plan = read_plan(probes)
    engines = Plan(plan.target, plan.precision, ("tensorrt",), 1, 8, plan.files)
    with pytest.raises(EnvironmentLacks, match="tensorrt: its engines are built from a bundle"):
        measured(engines, lambda done, total, name: None)


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        ("{", "is not JSON"),
        ('{"schema": 2}', "has schema 2; measure again"),
        ('{"schema": 1, "rows": {}}', "holds no costs that python -m runtime.costs wrote"),
        ('{"schema": 1, "rows": {"a": {"sha256": "0", "ms": {"1": -1}}}}', "holds no costs"),
    ],
)
def test_costs_that_are_none_are_refused(tmp_path, content, cause):
    path = tmp_path / "costs.json"
    path.write_text(content)
    with pytest.raises(InputError, match=cause):
        Costs.read(path)
