"""Every target file loads, agrees with the schema, and a wrong one is refused with a line that helps."""

import json
import re
import tomllib
from pathlib import Path

import pytest

import targets
from targets.errors import InputError
from targets.table import FOLDER, load_all, read_file

SCHEMA = json.loads((FOLDER / "schema.json").read_text())
FILES = sorted(Path(str(FOLDER)).glob("*.toml"))
TYPES = {"string": str, "integer": int, "boolean": bool, "array": list, "object": dict}


def schema_errors(schema, data, path="$"):
    """The part of JSON Schema that schema.json uses, checked by hand."""
    known = {"type", "properties", "required", "additionalProperties", "items", "minItems", "maxItems", "enum"}
    known |= {"pattern", "minimum", "$ref", "description", "title", "$schema", "$defs"}
    assert set(schema) <= known, f"schema uses a keyword that this check does not know: {set(schema) - known}"
    if "$ref" in schema:
        schema = SCHEMA["$defs"][schema["$ref"].removeprefix("#/$defs/")]
    if "enum" in schema and data not in schema["enum"]:
        return [f"{path}: not in enum"]
    if "type" in schema and type(data) is not TYPES[schema["type"]]:
        return [f"{path}: not {schema['type']}"]
    errors = []
    if isinstance(data, dict):
        errors += [f"{path}.{key}: required" for key in schema.get("required", []) if key not in data]
        for key, value in data.items():
            if key in schema["properties"]:
                errors += schema_errors(schema["properties"][key], value, f"{path}.{key}")
            elif schema.get("additionalProperties") is False:
                errors.append(f"{path}.{key}: unknown")
    if isinstance(data, list):
        if not schema.get("minItems", 0) <= len(data) <= schema.get("maxItems", 10**6):
            errors.append(f"{path}: length")
        for item in data:
            errors += schema_errors(schema["items"], item, f"{path}[]")
    if "pattern" in schema and not re.search(schema["pattern"], data):
        errors.append(f"{path}: pattern")
    if "minimum" in schema and data < schema["minimum"]:
        errors.append(f"{path}: minimum")
    return errors


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_target_file_satisfies_the_schema_and_loads(path):
    assert schema_errors(SCHEMA, tomllib.loads(path.read_text())) == []
    assert read_file(path).name == path.stem


def test_the_names_that_users_have_stay():
    assert targets.names() == sorted(path.stem for path in FILES)
    assert set(targets.names()) >= {
        "cpu-arm64", "cpu-x86", "cpu-x86-openvino", "gpu-ampere", "gpu-hopper", "jetson-agx-orin", "jetson-orin-nano",
        "jetson-orin-nx", "jetson-thor", "rtx-ada", "rtx-ampere", "rtx-blackwell",
    }  # fmt: skip
    aliases = {alias: target.name for target in load_all() for alias in target.aliases}
    assert len(aliases) == sum(len(target.aliases) for target in load_all())
    assert not aliases.keys() & set(targets.names())
    assert (
        aliases.items()
        >= {
            "cpu": "cpu-x86",
            "openvino": "cpu-x86-openvino",
            "raspberry-pi": "cpu-arm64",
            "jetson": "jetson-orin-nano",
            "rtx": "rtx-ada",
            "gpu-datacenter": "gpu-hopper",
        }.items()
    )
    assert targets.load("jetson") == targets.load("jetson-orin-nano")


def test_the_opset_of_a_target_is_the_one_that_its_oldest_software_reads():
    target = targets.load("jetson")
    assert {row.jetpack: row.max_opset for row in target.software} == {"6.1": 20, "6.2": 20, "7.2": 24}
    assert target.max_opset == 20


def test_every_fact_has_a_source_and_facts_from_memory_are_marked():
    for target in load_all():
        facts = [target.hardware, *target.software, *([target.power] if target.power else [])]
        for fact in facts:
            assert len(fact.source) > 8, target.name
            assert not (fact.verified and "memory" in fact.source.replace("memory:", "")), (target.name, fact.source)


def test_the_manifest_section_survives_json_and_carries_the_profile():
    section = targets.load("jetson").manifest_section("int8")
    assert json.loads(json.dumps(section)) == section
    assert section["precision"] == "int8"
    assert section["profile"]["batch"] == [1, 1, 8]


CASES = [  # (what to change in jetson-orin-nano.toml, what the error must hold, whether the schema sees it too)
    ('arch = "aarch64"', 'arch = "aarch65"', ["hardware.arch", "'aarch65'", "x86_64", "nearest: 'aarch64'"], True),
    ("threads = 6", 'threads = "6"', ["threads", "'6'", "a whole number"], True),
    ("threads = 6", "threads = true", ["threads", "True", "a whole number"], True),
    ("threads = 6", "threads = 0", ["threads", "1 or more"], True),
    ("threads = 6", "thread = 6", ["thread", "unknown", "nearest: 'threads'"], True),
    ("threads = 6\n", "", ["threads", "missing"], True),
    ("memory_gb = 8", "memory_gb = 0", ["hardware", "1 or more"], True),
    ('"8.7"', '"sm87"', ["hardware", "sm87", "like '8.7'"], True),
    ("batch = [1, 1, 8]", "batch = [1, 1]", ["profile.batch", "a list of 3"], True),
    ("batch = [1, 1, 8]", "batch = [4, 1, 8]", ["profile", "min <= opt <= max"], False),
    ('default_precision = "fp16"', 'default_precision = "fp15"', ["default_precision", "nearest: 'fp16'"], True),
    ('precisions = ["fp32", "fp16", "int8"]', 'precisions = ["fp32"]', ["default_precision", "fp32"], False),
    ('backends = ["tensorrt", "ort-tensorrt", "cuda", "cpu"]', "backends = []", ["backends", "at least one"], True),
    ('{ id = 3, name = "7W" }', "{ id = 3 }", ["power.modes[3].name", "missing"], True),
    ("[profile]", "profile = 3\n[other]", ["other", "unknown"], True),
    ("threads = 6", "threads = 6\nname = 'x'", ["'name'", "unknown"], True),
    ("[power]\nmodes = [", "[power]\nmodes = [\n    7,", ["power.modes[0]", "given 7", "a table"], True),
    ("[hardware]", "[hardware", ["not valid TOML"], None),
]


@pytest.mark.parametrize(("old", "new", "wanted", "schema_sees_it"), CASES)
def test_a_wrong_file_is_refused_by_file_key_given_allowed_and_nearest(tmp_path, old, new, wanted, schema_sees_it):
    text = (FOLDER / "jetson-orin-nano.toml").read_text()
    assert old in text
    path = tmp_path / "mine.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError) as failure:
        read_file(path)
    message = str(failure.value)
    assert message.startswith("mine.toml: ") and "\n" not in message
    for part in wanted:
        assert part in message
    if schema_sees_it is not None:
        assert bool(schema_errors(SCHEMA, tomllib.loads(path.read_text()))) == schema_sees_it


@pytest.mark.parametrize(
    ("target", "runtimes", "backends"),
    [
        ("jetson-orin-nano", '["tensorrt", "onnxruntime"]', ("tensorrt", "ort-tensorrt", "rtx", "cuda", "cpu")),
        ("gpu-hopper", '["onnxruntime"]', ("ort-tensorrt", "rtx", "cuda", "cpu")),
        ("cpu-arm64", '["onnxruntime"]', ("cpu",)),
    ],
)
def test_a_file_with_runtimes_from_before_backends_were_files_still_loads(tmp_path, target, runtimes, backends):
    text = re.sub(r"(?m)^backends = .*$", f"runtimes = {runtimes}", (Path(str(FOLDER)) / f"{target}.toml").read_text())
    (tmp_path / "old.toml").write_text(text)
    assert read_file(tmp_path / "old.toml").backends == backends


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('runtimes = ["tflite"]', "key 'runtimes': given 'tflite', allowed: at least one of tensorrt, onnxruntime"),
        ("runtimes = []", r"key 'runtimes': given \[\]"),
        ("runtimes = 3", "key 'runtimes': given 3"),
        ('runtimes = ["onnxruntime"]\nbackends = ["cpu"]', "the old name of 'backends', which is there too"),
        ('backends = ["Cpu!"]', "backends has 'Cpu!'"),
        ('backends = ["cpu", "cpu"]', "each once"),
    ],
)
def test_backends_that_cannot_be_meant_are_refused(tmp_path, line, message):
    text = (Path(str(FOLDER)) / "cpu-x86.toml").read_text()
    (tmp_path / "mine.toml").write_text(re.sub(r"(?m)^backends = .*$", line, text))
    with pytest.raises(InputError, match=message):
        read_file(tmp_path / "mine.toml")


def test_every_backend_that_a_target_lists_is_a_file():
    from runtime import backends

    assert {name for target in load_all() for name in target.backends} <= set(backends.names())


def test_an_unknown_target_is_refused_with_the_nearest_name():
    with pytest.raises(InputError, match=r"unknown target 'jetsn'.*nearest: 'jetson'"):
        targets.load("jetsn")


@pytest.mark.parametrize("name", ["../targets/cpu-x86", "/etc/passwd", "", "."])
def test_a_name_is_never_a_path(name):
    with pytest.raises(InputError, match="unknown target"):
        targets.load(name)


def test_adding_a_device_is_adding_one_file_and_a_second_claim_on_a_name_is_refused(tmp_path):
    text = (FOLDER / "cpu-x86.toml").read_text()
    (tmp_path / "one.toml").write_text(text)
    assert targets.load("cpu", tmp_path).name == "one"
    (tmp_path / "two.toml").write_text(text)
    with pytest.raises(InputError, match="one and two both claim the name 'cpu'"):
        load_all(tmp_path)


def test_the_package_ships_its_tables():
    settings = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
    patterns = [pattern for item in settings["tool"]["setuptools"]["package-data"].values() for pattern in item]
    assert "*.toml" in patterns and "*.json" in patterns


def test_engine_shapes_stop_at_what_the_model_takes():
    profile = targets.load("rtx").profile
    assert profile.spans()["length"] == [1, 128, 1024] and profile.spans()["past"] == [0, 128, 1024]
    assert profile.spans()["total"] == [1, 129, 1536]
    short = profile.spans(longest=64)
    assert short["batch"] == profile.spans()["batch"]
    assert {name: span for name, span in short.items() if name != "batch"} == {
        "length": [1, 64, 64], "chunk": [1, 1, 64], "past": [0, 64, 64], "total": [1, 64, 64]
    }  # fmt: skip
