"""Recordings: WAV files of every form, other rates, and the features that transformers makes."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import numpy as np
import pytest
import scipy.io.wavfile
import scipy.signal
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from support.sounds import FLOAT, PCM, sound, wav

from runtime.sounds.reading import Recording, decode_recording, read_recording
from runtime.sounds.resample import resampled
from runtime.sounds.spectrogram import prepare
from targets.errors import InputError

SECTION = {"kind": "spectrogram", "rate": 16_000, "bins": 128, "frames": 60, "mean": -4.2677393, "std": 2 * 4.5689974}


# Files


@pytest.mark.parametrize(
    ("bits", "coding", "step"),
    [
        (8, PCM, 2**-7),
        (16, PCM, 2**-15),
        (24, PCM, 2**-23),
        (32, PCM, 2**-24),
        (32, FLOAT, 2**-24),
        (64, FLOAT, 2**-24),
    ],
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_samples_of_every_form_are_those_that_were_stored(bits: int, coding: int, step: float, wrapped: bool) -> None:
    samples_TC = np.random.default_rng(0).uniform(-1, 0.99, (400, 3))
    found = decode_recording(wav(samples_TC, 44_100, bits=bits, coding=coding, wrapped=wrapped), "a.wav")
    assert found.rate == 44_100 and found.samples.dtype == np.float32 and found.nbytes == 1600
    np.testing.assert_allclose(found.samples, samples_TC.mean(axis=1), atol=step)


def test_scipy_reads_the_same_of_a_file_that_scipy_wrote(tmp_path: Path) -> None:
    whole = np.random.default_rng(1).integers(-(2**15), 2**15, 999, dtype=np.int16)
    scipy.io.wavfile.write(tmp_path / "a.wav", 8_000, whole)
    found = read_recording(tmp_path / "a.wav")
    assert found.rate == 8_000
    assert np.array_equal(found.samples, whole.astype(np.float32) / 2**15)


def test_other_chunks_and_lengths_that_a_pipe_cannot_know_are_no_fault() -> None:
    plain = wav(sound(0))
    start = plain.index(b"data")
    listed = plain[:start] + b"LIST\x03\0\0\0abc\0" + plain[start:]
    piped = plain[: start + 4] + b"\xff\xff\xff\xff" + plain[start + 8 :]
    wanted = decode_recording(plain, "a.wav").samples
    for data in (listed, piped):
        assert np.array_equal(decode_recording(data, "a.wav").samples, wanted)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda data: b"OggS" + data[4:], "not a WAV file; convert it"),
        (lambda data: data[:-100], "100 bytes are missing; copy it again"),
        (lambda data: data[: data.index(b"data")], "it has no samples; copy it again"),
        (lambda data: data[:12], "it has no header"),
        (lambda data: data[:20] + struct.pack("<H", 7) + data[22:], "coded as mu-law; save it as PCM"),
        (lambda data: data[:20] + struct.pack("<H", 99) + data[22:], "coded as form 99"),
        (lambda data: data[:22] + struct.pack("<H", 0) + data[24:], "0 channels of 16 bits in 2 bytes"),
        (lambda data: data[:24] + struct.pack("<I", 0) + data[28:], "0 samples a second; allowed: 1000 to 1000000"),
        (lambda data: data[: data.index(b"data") + 4] + struct.pack("<I", 1) + b"a", "holds no samples"),
    ],
)
def test_damaged_and_other_files_are_refused_in_one_line_with_the_reason(change, fault: str) -> None:
    with pytest.raises(InputError, match=f"^a.wav: .*{fault}") as refused:
        decode_recording(change(wav(sound(0))), "a.wav")
    assert "\n" not in str(refused.value)


def test_numbers_that_are_none_are_refused() -> None:
    with pytest.raises(InputError, match="samples that are NaN or infinite"):
        decode_recording(wav(np.array([0.0, np.nan]), bits=32, coding=FLOAT), "a.wav")


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 700), at=st.integers(0, 60), byte=st.integers(0, 255))
def test_no_byte_of_a_file_makes_more_of_it_than_a_recording_or_one_line(cut: int, at: int, byte: int) -> None:
    data = bytearray(wav(sound(0, seconds=0.02))[:cut])
    if at < len(data):
        data[at] = byte
    try:
        assert np.isfinite(decode_recording(bytes(data), "a.wav").samples).all()
    except InputError as error:
        assert "\n" not in str(error)


# Rates


@settings(max_examples=40, deadline=None)
@given(
    rate=st.sampled_from([8_000, 11_025, 22_050, 32_000, 44_100, 48_000, 96_000, 15_999, 16_001]),
    count=st.integers(1, 3_000),
    seed=st.integers(0, 99),
)
def test_another_rate_is_what_scipy_makes_of_it(rate: int, count: int, seed: int) -> None:
    samples_T = np.random.default_rng(seed).standard_normal(count).astype(np.float32)
    shared = int(np.gcd(rate, 16_000))
    wanted = scipy.signal.resample_poly(samples_T.astype(np.float64), 16_000 // shared, rate // shared)
    found = resampled(samples_T, rate, 16_000)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_a_tone_keeps_its_pitch_and_height_at_another_rate() -> None:
    found = resampled(np.sin(2 * np.pi * 440 * np.arange(44_100) / 44_100).astype(np.float32), 44_100, 16_000)
    wanted = np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)
    np.testing.assert_allclose(found[200:-200], wanted[200:-200], atol=2e-3)


# Features


@pytest.mark.parametrize(("bins", "frames"), [(128, 60), (32, 20), (20, 200)])
@pytest.mark.parametrize("place", [0, 1, 2])
def test_features_are_those_of_transformers(place: int, bins: int, frames: int) -> None:
    extractor = transformers.ASTFeatureExtractor(num_mel_bins=bins, max_length=frames)
    samples_T = sound(place, seconds=0.5).astype(np.float32)
    wanted = extractor(samples_T, sampling_rate=16_000, return_tensors="np")["input_values"]
    found = prepare([Recording(samples_T, 16_000)], {**SECTION, "bins": bins, "frames": frames})
    assert found.dtype == np.float32 and found.shape == (1, frames, bins)
    np.testing.assert_allclose(found, wanted, atol=2e-5)


def test_silence_has_features_and_too_little_of_it_is_refused() -> None:
    assert np.isfinite(prepare([Recording(np.zeros(400, np.float32), 16_000)], SECTION)).all()
    with pytest.raises(InputError, match="recording of 24 ms; allowed: 25 ms or more"):
        prepare([Recording(np.zeros(399, np.float32), 16_000)], SECTION)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"rate": 8_000}, "rate is 8000, allowed: 16000"),
        ({"std": 0.0}, "std not 0"),
        ({"bins": 0}, "allowed: 1 to 256 bins"),
        ({"dither": 1.0}, "dither"),
    ],
)
def test_a_section_that_does_not_fit_is_refused(change: dict[str, float], fault: str) -> None:
    with pytest.raises(InputError, match=fault):
        prepare([], {**SECTION, **change})


def test_a_file_in_memory_is_read_as_one_on_the_disk(tmp_path: Path) -> None:
    data = io.BytesIO(wav(sound(1))).getvalue()
    (tmp_path / "a.wav").write_bytes(data)
    assert np.array_equal(read_recording(tmp_path / "a.wav").samples, decode_recording(data, "a").samples)
