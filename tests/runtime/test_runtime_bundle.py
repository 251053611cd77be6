"""A bundle is verified before any of it is used; each fault is one clear line that names the file."""

import hashlib
import json
import os
import shutil
import stat
import zipfile

import pytest
from support.runtime_toys import pack

from runtime.bundles.bundle import open_files
from runtime.bundles.manifest import load_manifest
from runtime.session import open_bundle
from targets.errors import EnvironmentLacks, GateFailed, InputError

FILES = ["config.json", "extra/notes.txt", "golden.npz", "model.onnx"]


def test_a_whole_bundle_opens_and_its_manifest_is_typed(bundle):
    opened = open_files(bundle)
    assert opened.manifest.target.profile["batch"] == (1, 1, 8)
    assert opened.manifest.inputs[0].shape == ("batch", 3, 8, 8)
    assert sorted(opened.manifest.files) == FILES
    assert not opened.packed


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_byte_in_any_file_is_found_and_the_file_named(bundle, name):
    data = bytearray((bundle / name).read_bytes())
    for at in {0, len(data) // 2, len(data) - 1}:
        data[at] ^= 1
        (bundle / name).write_bytes(data)
        with pytest.raises(InputError, match=f"{name}: its SHA-256 differs"):
            open_files(bundle)
        data[at] ^= 1
    (bundle / name).write_bytes(data)
    open_files(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_longer_or_shorter_file_is_named(bundle, name):
    data = (bundle / name).read_bytes()
    (bundle / name).write_bytes(data + b"x")
    with pytest.raises(InputError, match=f"{name}: {len(data) + 1} bytes, manifest.json says {len(data)}"):
        open_files(bundle)
    (bundle / name).unlink()
    with pytest.raises(InputError, match=f"{name}: missing"):
        open_files(bundle)


def test_files_that_the_manifest_does_not_list_are_let_be_and_not_unpacked(bundle, tmp_path):
    (bundle / "stray.txt").write_text("hello")
    (bundle / "extra" / "stray.onnx").symlink_to("/dev/zero")
    assert sorted(open_files(bundle).manifest.files) == FILES
    (bundle / "extra" / "stray.onnx").unlink()
    opened = open_files(pack(bundle, tmp_path / "bundle.zip"))
    assert (opened.root / "extra/notes.txt").exists() and not (opened.root / "stray.txt").exists()


@pytest.mark.parametrize("schema", [3, 99])
def test_a_newer_schema_is_refused_with_what_to_do(maker, bundle, schema):
    maker.edit(bundle, schema=schema, files="of another form", state={"new": 1})
    with pytest.raises(InputError, match=rf"schema {schema} is newer than this edgepress reads \(2\); upgrade"):
        open_files(bundle)


@pytest.mark.parametrize("path", ["../secret", "/etc/passwd", "a/../../b", "a//b", "./a", "", "a\\b", "c:\\b", "a\0b"])
def test_a_path_that_leaves_the_bundle_is_refused(maker, bundle, path):
    (bundle.parent / "secret").write_text("x")
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    maker.edit(bundle, files={**files, path: {"sha256": "0" * 64, "bytes": 1}})
    with pytest.raises(InputError, match="leaves the bundle's folder"):
        open_files(bundle)


def test_a_symbolic_link_is_refused_even_to_the_right_content(bundle, tmp_path):
    shutil.move(bundle / "config.json", tmp_path / "config.json")
    (bundle / "config.json").symlink_to(tmp_path / "config.json")
    with pytest.raises(InputError, match=r"config.json: a symbolic link"):
        open_files(bundle)
    (bundle / "config.json").unlink()
    shutil.move(tmp_path / "config.json", bundle / "config.json")
    shutil.move(bundle / "extra", tmp_path / "extra")
    (bundle / "extra").symlink_to(tmp_path / "extra")
    with pytest.raises(InputError, match=r"extra/notes.txt: a symbolic link"):
        open_files(bundle)


def test_what_is_no_regular_file_is_refused_without_waiting_on_it(bundle):
    (bundle / "config.json").unlink()
    os.mkfifo(bundle / "config.json")
    with pytest.raises(InputError, match="not a regular file"):
        open_files(bundle)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task": 7}, "key 'task': given 7"),
        ({"verdict": "passed"}, "key 'verdict'.*nearest: 'pass'"),
        ({"inputs": []}, "inputs or outputs is empty"),
        ({"inputs": [{"name": "x", "dtype": "float32"}]}, r"key 'inputs\[0\].shape': missing"),
        ({"inputs": [{"name": "x", "dtype": "float33", "shape": []}]}, "nearest: 'float32'"),
        ({"outputs": [{"name": "y", "dtype": "float32", "shape": [1.5]}]}, r"outputs\[0\].shape\[0\]"),
        ({"labels": "cat"}, "key 'labels'"),
        ({"models": [{"path": "other.onnx", "runtime": "onnxruntime", "precision": "fp32"}]}, "lacks 'other.onnx'"),
        ({"target": {"name": "cpu-x86", "profile": {"batch": [2, 1, 8]}}}, "min <= opt <= max"),
        ({"files": {}}, "files lacks 'model.onnx'"),
        ({"schema": 0}, "key 'schema': given 0"),
        ({"schema": "1"}, "key 'schema': given '1'"),
        ({"preprocessing": {"kind": "image"}}, "preprocessing: key 'channels': missing"),
        ({"state": [{"past": "logits", "present": "logits", "dtype": "float32", "shape": []}] * 2}, "a name twice"),
    ],
)
def test_a_wrong_manifest_is_refused(maker, bundle, change, message):
    maker.edit(bundle, **change)
    with pytest.raises(InputError, match=message) as failure:
        open_files(bundle)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "7", "[" * 100_000, '{"schema": 1'])
def test_what_is_no_json_object_is_refused(bundle, text):
    (bundle / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"manifest.json: (not valid JSON|given a)"):
        load_manifest(bundle)


def test_keys_added_later_within_the_schema_are_ignored(maker, bundle):
    maker.edit(bundle, something_new={"a": 1})
    assert open_files(bundle).manifest.schema == 1


def test_a_target_given_by_name_alone_is_understood(maker, bundle):
    maker.edit(bundle, target="cpu-x86")
    assert open_files(bundle).manifest.target.name == "cpu-x86"


@pytest.mark.parametrize("prefix", ["", "bundle/"])
def test_a_zip_is_unpacked_once_and_opens_like_the_folder(bundle, tmp_path, prefix):
    path = pack(bundle, tmp_path / "b.zip", prefix)
    opened = open_files(path)
    assert opened.packed and opened.manifest == open_files(bundle).manifest
    assert (opened.root / "extra/notes.txt").read_text() == "hello"
    first = (opened.root / "model.onnx").stat().st_mtime_ns
    assert (open_files(path).root / "model.onnx").stat().st_mtime_ns == first
    assert [entry.name for entry in (tmp_path / "cache/bundles").iterdir()] == [opened.root.name]


def test_a_damaged_copy_in_the_cache_is_unpacked_anew(bundle, tmp_path):
    path = pack(bundle, tmp_path / "b.zip")
    root = open_files(path).root
    (root / "model.onnx").write_bytes(b"rot")
    assert open_files(path).root == root
    assert (root / "model.onnx").read_bytes() == (bundle / "model.onnx").read_bytes()


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "..\\evil", "c:evil"])
def test_a_zip_that_would_write_outside_is_refused_and_writes_nothing(bundle, tmp_path, name):
    path = pack(bundle, tmp_path / "b.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "evil")
    with pytest.raises(InputError, match="leaves the bundle's folder"):
        open_files(path)
    assert not list(tmp_path.rglob("*evil*"))
    assert not list((tmp_path / "cache/bundles").iterdir())


def test_a_zip_with_a_symbolic_link_is_refused(bundle, tmp_path):
    path = pack(bundle, tmp_path / "b.zip")
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(InputError, match="'link' is a symbolic link"):
        open_files(path)


def test_a_zip_whose_file_is_larger_than_the_manifest_says_is_stopped_early(maker, tmp_path):
    bundle = maker.write(files={"zeros.bin": bytes(5_000_000)})
    (bundle / "zeros.bin").write_bytes(bytes(50_000_000))
    path = pack(bundle, tmp_path / "b.zip")
    assert path.stat().st_size < 200_000
    with pytest.raises(InputError, match=r"zeros.bin unpacks to more than the 5000000 bytes"):
        open_files(path)
    assert not list((tmp_path / "cache/bundles").iterdir())


def test_a_zip_that_announces_more_than_fits_is_refused(maker, bundle, tmp_path):
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    maker.edit(bundle, files={**files, "huge.bin": {"sha256": "0" * 64, "bytes": 1 << 50}})
    with pytest.raises(InputError, match="more than the"):
        open_files(pack(bundle, tmp_path / "b.zip"))
    room = shutil.disk_usage(tmp_path).free + (1 << 33)
    if room < 64 << 30:
        maker.edit(bundle, files={**files, "huge.bin": {"sha256": "0" * 64, "bytes": room}})
        with pytest.raises(EnvironmentLacks, match="free some space"):
            open_files(pack(bundle, tmp_path / "b.zip"))


def test_a_zip_without_a_listed_file_or_with_one_twice_is_refused(bundle, tmp_path):
    (bundle / "config.json").unlink()
    path = pack(bundle, tmp_path / "b.zip")
    with pytest.raises(InputError, match=r"config.json is missing"):
        open_files(path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("model.onnx", "x")
    with pytest.raises(InputError, match=r"holds 'model.onnx' twice"):
        open_files(path)


def test_every_flipped_byte_of_a_zip_is_harmless(bundle, tmp_path):
    """Either the archive is refused or what it unpacks to is the bundle, byte for byte."""
    data = pack(bundle, tmp_path / "b.zip").read_bytes()
    wanted = {name: (bundle / name).read_bytes() for name in FILES}
    for at in range(0, len(data), 97):
        (tmp_path / "c.zip").write_bytes(data[:at] + bytes([data[at] ^ 0x41]) + data[at + 1 :])
        try:
            opened = open_files(tmp_path / "c.zip")
        except InputError:
            continue
        assert {name: (opened.root / name).read_bytes() for name in opened.manifest.files} == wanted


def test_a_zip_with_a_name_that_is_no_text_or_of_an_unusual_method_is_refused(bundle, tmp_path):
    data = pack(bundle, tmp_path / "b.zip").read_bytes()
    at = data.rindex(b"PK\x01\x02")
    (tmp_path / "c.zip").write_bytes(data[: at + 8] + b"\x00\x08" + data[at + 10 : at + 46] + b"\xff" + data[at + 47 :])
    with pytest.raises(InputError, match="damaged zip"):
        open_files(tmp_path / "c.zip")
    with zipfile.ZipFile(tmp_path / "d.zip", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("manifest.json", "{}")
    with pytest.raises(InputError, match="pack it again with deflate"):
        open_files(tmp_path / "d.zip")


@pytest.mark.parametrize("content", [None, b"", b"hello"])
def test_what_is_neither_folder_nor_zip_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "x").write_bytes(content)
    with pytest.raises(InputError, match=r"no bundle at|not a bundle"):
        open_files(tmp_path / "x")


def test_a_folder_without_a_manifest_is_no_bundle(tmp_path):
    with pytest.raises(InputError, match=r"is not a bundle: it has no manifest.json"):
        open_files(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"), [("bytes", -1), ("bytes", -(10**30)), ("sha256", "../x"), ("sha256", "A" * 64)]
)
def test_a_sealed_manifest_with_an_impossible_digest_is_refused_also_in_a_zip(maker, bundle, tmp_path, key, value):
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    files["config.json"][key] = value
    maker.edit(bundle, files=files)
    for path in (bundle, pack(bundle, tmp_path / "b.zip")):
        with pytest.raises(InputError, match=r"files\.config\.json': given .*, allowed: 0 or more"):
            open_files(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"schema": ' * 20_000, '{"schema": 1' + "0" * 5000 + "}"])
def test_a_manifest_that_json_itself_cannot_hold_is_refused(bundle, text):
    maker_line = hashlib.sha256(text.encode()).hexdigest()
    (bundle / "manifest.json").write_text(text)
    (bundle / "manifest.json.sha256").write_text(f"{maker_line}  manifest.json\n")
    with pytest.raises(InputError, match="not valid JSON"):
        open_files(bundle)


def test_a_bundle_that_failed_its_gate_is_refused_by_every_command_and_in_python(run_module, maker):
    failed = maker.write(verdict="fail")
    with pytest.raises(GateFailed, match="failed its accuracy gate"):
        open_bundle(failed)
    assert open_bundle(failed, allow_failed=True).model.path == "model.onnx"
    for command in (("selftest",), ("bench", "--seconds", "0.05"), ("build",)):
        done = run_module(f"runtime.{command[0]}", failed, *command[1:])
        assert done.returncode == 1 and "failed its accuracy gate; --allow-failed" in done.stderr
    for command in (("selftest",), ("bench", "--seconds", "0.05")):
        assert run_module(f"runtime.{command[0]}", failed, *command[1:], "--allow-failed").returncode == 0
