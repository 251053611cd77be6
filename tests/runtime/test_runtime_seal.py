"""No byte of a bundle can change unnoticed; with a key, not even by someone who renews every digest."""

import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.runtime_toys import REPO, pack

from export import sign
from runtime.bundles import bundle as bundles
from runtime.bundles.bundle import open_files
from targets.errors import InputError

EVERY = ["manifest.json", "manifest.json.sha256", "config.json", "extra/notes.txt", "golden.npz", "model.onnx"]


@pytest.fixture
def key(tmp_path):
    """A private key and, beside it, its public one."""
    sign.new_key(tmp_path / "key.pem")
    return tmp_path / "key.pem"


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(EVERY), at=st.integers(0, 2**31), flip=st.integers(1, 255))
def test_one_flipped_byte_anywhere_in_any_file_is_caught(bundle, name, at, flip):
    whole = (bundle / name).read_bytes()
    data = bytearray(whole)
    data[at % len(data)] ^= flip
    (bundle / name).write_bytes(data)
    try:
        with pytest.raises(InputError) as caught:
            open_files(bundle)
        assert "manifest.json" in str(caught.value) or name in str(caught.value)
    finally:
        (bundle / name).write_bytes(whole)


@pytest.mark.parametrize("name", EVERY)
def test_a_missing_file_is_named(bundle, name):
    (bundle / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: missing|has no manifest.json"):
        open_files(bundle)


def test_the_seal_is_what_sha256sum_checks(bundle):
    done = subprocess.run(["sha256sum", "-c", "manifest.json.sha256"], cwd=bundle, capture_output=True, text=True)
    assert done.stdout == "manifest.json: OK\n"


def test_a_signed_bundle_opens_with_its_key_as_folder_and_as_zip(bundle, key, tmp_path, run_module):
    assert sign.sign(bundle, key) == bundle / "manifest.json.sig"
    public = tmp_path / "key.public.pem"
    assert open_files(bundle, public).manifest == open_files(bundle).manifest
    assert open_files(pack(bundle, tmp_path / "b.zip"), public).packed
    first = (bundle / "manifest.json.sig").read_bytes()
    sign.sign(bundle, key)
    assert (bundle / "manifest.json.sig").read_bytes() == first, "equal content and key give equal bytes"
    assert run_module("runtime.selftest", bundle, "--public-key", public).returncode == 0


def test_a_zip_that_its_key_did_not_sign_is_refused_before_it_is_unpacked(bundle, key, tmp_path, monkeypatch):
    sign.sign(bundle, key)
    (bundle / "manifest.json.sig").write_bytes(bytes(64))
    unpacked = []
    real = bundles._copy
    monkeypatch.setattr(
        bundles, "_copy", lambda archive, entry, *rest: (unpacked.append(entry.filename), real(archive, entry, *rest))
    )
    with pytest.raises(InputError, match="its signature is not by the owner"):
        open_files(pack(bundle, tmp_path / "b.zip"), tmp_path / "key.public.pem")
    assert unpacked and all(name.startswith("manifest.json") for name in unpacked)


def test_a_bundle_that_was_changed_and_sealed_anew_is_caught_by_its_signature(maker, bundle, key, tmp_path):
    sign.sign(bundle, key)
    (bundle / "config.json").write_text('{"forged": true}')
    maker.seal(bundle)
    open_files(bundle)
    with pytest.raises(InputError, match=r"its signature is not by the owner of .*key.public.pem; do not trust it"):
        open_files(bundle, tmp_path / "key.public.pem")


def test_what_is_used_is_the_manifest_whose_signature_was_checked(maker, bundle, key, tmp_path, monkeypatch):
    sign.sign(bundle, key)
    signed, forged = open_files(bundle).manifest, maker.write("forged", labels=["v", "w", "x", "y", "z"])
    real = bundles.check_signature

    def forge_after(*args):
        real(*args)
        for path in forged.rglob("*"):
            if path.is_file():
                (bundle / path.relative_to(forged)).write_bytes(path.read_bytes())

    monkeypatch.setattr(bundles, "check_signature", forge_after)
    assert open_files(bundle, tmp_path / "key.public.pem").manifest == signed != open_files(bundle).manifest


def test_another_key_no_signature_and_a_damaged_one_are_refused(bundle, key, tmp_path):
    with pytest.raises(InputError, match="is not signed"):
        open_files(bundle, tmp_path / "key.public.pem")
    sign.sign(bundle, key)
    sign.new_key(tmp_path / "other.pem")
    with pytest.raises(InputError, match="do not trust it"):
        open_files(bundle, tmp_path / "other.public.pem")
    signature = bytearray((bundle / "manifest.json.sig").read_bytes())
    for damaged in (signature[:-1], bytes(64), signature + b"x", b""):
        (bundle / "manifest.json.sig").write_bytes(damaged)
        with pytest.raises(InputError, match="do not trust it"):
            open_files(bundle, tmp_path / "key.public.pem")


def test_another_key_leaves_the_copy_in_the_cache_to_those_who_use_it(bundle, key, tmp_path):
    sign.sign(bundle, key)
    sign.new_key(tmp_path / "other.pem")
    path = pack(bundle, tmp_path / "b.zip")
    model = open_files(path, tmp_path / "key.public.pem").root / "model.onnx"
    before = model.stat().st_ino
    with pytest.raises(InputError, match="do not trust it"):
        open_files(path, tmp_path / "other.public.pem")
    assert model.stat().st_ino == before


def test_a_rollback_asks_for_the_signature_of_what_comes_back(run_module, maker, key, tmp_path):
    store, asked = tmp_path / "store", ["--public-key", tmp_path / "key.public.pem", "--provider", "cpu"]
    signed, unsigned = maker.write("signed"), maker.write("unsigned", labels=["v", "w", "x", "y", "z"])
    sign.sign(signed, key)
    for bundle in (unsigned, signed):
        assert run_module("runtime.deploy", store, bundle, "--provider", "cpu").returncode == 0
    done = run_module("runtime.deploy", store, "--rollback", *asked)
    assert done.returncode == 2 and "is not signed, and --public-key asks for it" in done.stderr
    assert (store / "current").resolve().joinpath("manifest.json.sig").is_file()
    assert run_module("runtime.deploy", store, "--rollback", "--provider", "cpu").returncode == 0


def test_keys_are_private_and_never_overwritten(key, tmp_path, bundle):
    assert key.stat().st_mode & 0o777 == 0o600
    with pytest.raises(InputError, match="a key is never overwritten"):
        sign.new_key(key)
    with pytest.raises(InputError, match="not a public key in PEM form"):
        open_files(bundle, key)
    with pytest.raises(InputError, match="not an unencrypted private key"):
        sign.sign(bundle, tmp_path / "key.public.pem")
    with pytest.raises(InputError, match="cannot be read"):
        sign.sign(bundle, tmp_path / "none.pem")


@pytest.mark.parametrize("args", [[], ["B"], ["--key", "k"], ["B", "--key", "k", "--new-key", "n"]])
def test_wrong_usage_is_one_line(run_module, args):
    done = run_module("export.sign", *args)
    assert done.returncode == 2 and done.stderr.startswith("error: give BUNDLE and --key FILE")


def test_the_command_makes_a_key_and_signs(run_module, bundle, tmp_path):
    assert run_module("export.sign", "--new-key", tmp_path / "k.pem").stdout.strip() == str(tmp_path / "k.public.pem")
    done = run_module("export.sign", bundle, "--key", tmp_path / "k.pem")
    assert done.returncode == 0, done.stderr
    open_files(bundle, tmp_path / "k.public.pem")


def test_without_a_key_nothing_of_cryptography_is_loaded(bundle):
    code = (
        f"import sys; from runtime.bundles.bundle import open_files; open_files({str(bundle)!r}); print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPO, check=True)
    assert not [name for name in done.stdout.split() if name.startswith("cryptography")]
