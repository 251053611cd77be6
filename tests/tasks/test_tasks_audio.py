"""Audio classification: what transformers computes, a gate that sees damage, a bundle that answers to WAV files."""

from __future__ import annotations

import json
import shutil
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from support.damage import answers_of, judged_when_hurt, questions_about
from support.jobs import asked, device, shipped
from support.rewriting import moved, rewritten
from support.sounds import LABELS, ast, filed, sound, wav

from compress import tasks
from compress.data.sounds import load_sounds, spectrogram_from_hf
from compress.heal import HealOptions
from compress.heal.sounds import SoundFeed
from compress.model.embeds.patch import PatchEmbedSpec
from compress.tasks import read_checkpoint
from compress.verification.kinds.classes import Predictions
from compress.verification.outcome import Status
from targets.errors import InputError

COUNT = 60


def section(folder: Path) -> dict[str, Any]:
    return spectrogram_from_hf(folder)


def changed(place: Path, file: str, **changes: Any) -> None:
    path = place / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


# What is read


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"frequency_stride": 8, "time_stride": 8, "num_mel_bins": 17},
        {"qkv_bias": False, "hidden_act": "relu", "layer_norm_eps": 1e-3},
        {"patch_size": 4, "frequency_stride": 3, "time_stride": 2, "max_length": 21},
    ],
)
@torch.no_grad()
def test_ast_gives_the_logits_of_transformers(tmp_path: Path, changes: dict[str, Any]) -> None:
    original, notes = ast(tmp_path, **changes), list[str]()
    model = read_checkpoint(tmp_path, section(tmp_path), notes.append)
    sizes = original.config.max_length, original.config.num_mel_bins
    x_BNK = torch.randn(3, *sizes, generator=torch.Generator().manual_seed(1))
    wanted = original(x_BNK).logits
    assert wanted.std() > 0.01 and notes == [] and model.structure.labels == LABELS
    torch.testing.assert_close(model({"input_values": x_BNK}), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("file", "changes", "fault"),
    [
        ("config.json", {"architectures": ["ASTModel"]}, r"of recordings only \.\.\.ForAudioClassification are read"),
        ("config.json", {"max_length": 40}, "prepared as 36 frames of 20 bins, but config.json has 40 of 20"),
        ("config.json", {"num_hidden_layers": 1}, "a layer that config.json leaves out"),
        ("config.json", {"problem_type": "multi_label_classification"}, "only for single_label_classification"),
        ("preprocessor_config.json", {"sampling_rate": 8_000}, "rate is 8000, allowed: 16000"),
        ("preprocessor_config.json", {"feature_extractor_type": "WhisperFeatureExtractor"}, "allowed: ASTFeature"),
        ("preprocessor_config.json", {"std": "high"}, "std is 'high'; allowed: a number"),
    ],
)
def test_another_model_is_refused_with_the_reason(
    tmp_path: Path, file: str, changes: dict[str, Any], fault: str
) -> None:
    ast(tmp_path)
    changed(tmp_path, file, **changes)
    with pytest.raises(InputError, match=fault):
        read_checkpoint(tmp_path, tasks.get("audio-classification").preprocessing(tmp_path, print))


def test_a_folder_that_says_nothing_of_preparation_gets_that_of_audioset(tmp_path: Path) -> None:
    ast(tmp_path)
    given, notes = section(tmp_path), list[str]()
    (tmp_path / "preprocessor_config.json").rename(tmp_path / "other.json")
    assert spectrogram_from_hf(tmp_path, notes.append) == given
    assert ["scaled by the mean of AudioSet" in note for note in notes] == [True]
    nested = {"feature_extractor": json.loads((tmp_path / "other.json").read_text()) | {"do_normalize": False}}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    assert section(tmp_path) == {**given, "mean": 0.0, "std": 1.0}


# What rewrites may do


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("ast")
    ast(place)
    return place


def test_exact_rewrites_keep_the_logits(folder: Path) -> None:
    model = read_checkpoint(folder, section(folder))
    for use in ("fold-norm", "drop-key-bias", "fold-value-bias", "merge-qk", "trim-last-block"):
        assert moved(model, rewritten(model, use)) <= 1e-4
    trimmed = rewritten(model, "trim-last-block").structure.blocks[-1].reducer
    assert trimmed is not None and trimmed.count == 2  # type: ignore[attr-defined]


def test_patches_that_overlap_are_counted_as_they_lie(folder: Path) -> None:
    embed = read_checkpoint(folder, section(folder)).structure.embed
    assert isinstance(embed, PatchEmbedSpec)
    assert embed.grid == (3, 6) and embed.tokens == 20 and embed.input == "input_values"


def test_healing_shifts_recordings_in_time_alone(folder: Path, data: Path) -> None:
    feed = SoundFeed(load_sounds(str(data)), section(folder), 0, torch.device("cpu"))
    options = HealOptions(batch_size=8, flip=True)
    drawn = feed.draw(0, options)
    inputs, labels_BK = feed.batch(drawn)
    plain = torch.cat([one["input_values"] for one in feed.plain(16)])[drawn["indices"]]
    assert labels_BK.shape == (8, 3) and len({int(one) for one in drawn["shifts"][0]}) > 1
    for moved_NK, plain_NK, by in zip(inputs["input_values"], plain, drawn["shifts"][0], strict=True):
        kept = slice(max(0, -int(by)), len(plain_NK) - max(0, int(by)))
        torch.testing.assert_close(moved_NK[kept], plain_NK[max(0, int(by)) : len(plain_NK) + min(0, int(by))])
    mixed, _ = feed.batch(feed.draw(0, options.replace(mixup=True)))
    assert mixed["input_values"].shape == plain.shape
    assert sum(len(one["input_values"]) for one in feed.judging(16)) == 2 * COUNT


# From the data to the device


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filed(tmp_path_factory.mktemp("sounds"), COUNT)


def test_folders_and_zips_of_classes_are_cut_and_matched_as_images_are(data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "sounds.zip", "w") as archive:
        for path in sorted(data.rglob("*.wav")):
            archive.write(path, path.relative_to(data))
    both = [load_sounds(str(place)) for place in (data, tmp_path / "sounds.zip")]
    assert both[0].names == both[1].names and both[0].class_names == ("click", "hiss", "hum")
    for one, other in zip(*(dataset.raw(range(5)) for dataset in both), strict=True):
        assert np.array_equal(one.samples, other.samples)
    halves = [load_sounds(str(data), part=part) for part in ("evaluation", "healing")]  # type: ignore[arg-type]
    assert sum(map(len, halves)) == COUNT and not set(halves[0].fingerprints()) & set(halves[1].fingerprints())
    assert np.array_equal(both[0].for_labels(LABELS).labels, 2 - both[0].labels)
    assert len(load_sounds(str(data), limit=9)) == 9


def test_a_copy_of_a_recording_in_another_form_is_not_healed_on(tmp_path: Path) -> None:
    for place in range(6):
        for part, options in (("train", {"bits": 24}), ("test", {"bits": 16})):
            if part == "test" or place < 4:
                path = tmp_path / part / LABELS[place % 3] / f"{place}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(wav(np.rint(sound(place) * 2**15) / 2**15, **options))
    (tmp_path / "train" / "hum" / "new.wav").write_bytes(wav(sound(9)))
    healing = load_sounds(str(tmp_path), part="healing")
    assert healing.names == ("train/hum/new.wav",)
    assert "4 training recordings left out: the evaluation set has them too" in healing.notes


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("zoo:mnist-test", "no recordings at zoo:mnist-test; give a folder of class folders with WAV files"),
        ("{tmp}/none", "no recordings at"),
        ("{tmp}/a.npz", "is not a data set of recordings"),
        ("{tmp}", r"holds no recordings, but 1 .npz \(looked for .wav .wave\)"),
    ],
)
def test_data_that_are_no_recordings_are_refused(tmp_path: Path, spec: str, fault: str) -> None:
    (tmp_path / "a.npz").write_bytes(b"PK")
    with pytest.raises(InputError, match=fault):
        load_sounds(spec.format(tmp=tmp_path))


def test_data_whose_recordings_are_all_equal_leave_none_to_heal_on(tmp_path: Path) -> None:
    for place in range(3):
        path = tmp_path / "hum" / f"{place}.wav"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(wav(sound(0)))
    with pytest.raises(InputError, match="has 0 recordings for healing but at least 1 are needed; give more"):
        load_sounds(str(tmp_path), part="healing")


def test_damaged_recordings_are_counted_and_skipped_where_that_is_wished(tmp_path: Path) -> None:
    filed(tmp_path, 9)
    (tmp_path / "hum" / "0.wav").write_bytes(b"RIFF")
    with pytest.raises(InputError, match=r"1 of 9 recordings cannot be read: hum/0.wav \(the first: not a WAV file"):
        load_sounds(str(tmp_path)).raw()
    assert len(load_sounds(str(tmp_path), skip_corrupt=True)) == 8


@pytest.fixture(scope="module")
def settled(folder: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model that gives every class to some of the recordings, and these in folders of what it hears, so that there is
    something to lose."""
    place = tmp_path_factory.mktemp("settled")
    logits = answers_of(folder, data).arrays()["logits"]
    shutil.copytree(folder, place / "model")
    state = load_file(folder / "model.safetensors")
    state["classifier.dense.bias"] -= torch.from_numpy(logits.mean(axis=0))
    save_file(state, place / "model" / "model.safetensors", {"format": "pt"})
    names, heard = questions_about(folder, data).names, (logits - logits.mean(axis=0)).argmax(axis=1)
    for name, label in zip(names, heard, strict=True):
        path = place / "sounds" / LABELS[label] / Path(name).name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((data / name).read_bytes())
    return place / "model", place / "sounds"


def test_a_damaged_classifier_does_not_pass_and_one_hardly_changed_does(
    settled: tuple[Path, Path], tmp_path: Path
) -> None:
    judged = partial(judged_when_hurt, *settled, tmp_path, task="audio-classification", metric="top1")
    assert judged(size=1e-6) == (Status.PASS, 100, 100)
    verdict, reference, top1 = judged(size=2.0)
    assert verdict is Status.FAIL and reference == 100 and top1 < 80


def test_a_run_ships_a_bundle_that_answers_to_wav_files(settled: tuple[Path, Path], tmp_path: Path) -> None:
    model, sounds = settled
    bundle = shipped(model, sounds, tmp_path, "gate.min_samples=10")
    manifest = json.loads((bundle / "manifest.json").read_text())
    assert [(one["name"], one["shape"]) for one in manifest["inputs"]] == [("input_values", ["batch", 36, 20])]
    assert manifest["preprocessing"]["kind"] == "spectrogram" and tuple(manifest["labels"]) == LABELS
    questions = questions_about(model, sounds)
    found = questions.answers(questions.sides[0])
    assert isinstance(found, Predictions)
    files = sorted(sounds.rglob("*.wav"))[::20]
    for file, result in zip(files, asked(bundle, *map(str, files), "--top", "3"), strict=True):
        logits = found.logits[list(questions.names).index(file.relative_to(sounds).as_posix())].astype(float)
        wanted = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        for guess in result["top"]:
            assert guess["label"] == LABELS[guess["index"]]
            assert guess["probability"] == pytest.approx(wanted[guess["index"]], abs=1e-4)
    (tmp_path / "odd.wav").write_bytes(wav(sound(0, seconds=0.01)))
    refused = device(bundle, str(tmp_path / "odd.wav"))
    assert refused.returncode == 2 and "odd.wav: recording of 10 ms; allowed: 25 ms or more" in refused.stderr
