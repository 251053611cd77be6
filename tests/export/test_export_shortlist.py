"""A decoder with a shortlist scores the words at hand as the whole does, whatever stands beside a source."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from support.translators import END, PAD, VOCABULARY, saved_translator, sentences, translator_calibration

from compress import tasks
from compress.model import Transformer
from compress.rewrites import parse_options, run_rewrite
from compress.tasks import read_checkpoint
from compress.tasks.feeding import fitted
from compress.tasks.text_to_text import TASK
from export.bundle import BundleContent, Form, write_bundle
from export.numerics import check_against
from export.onnx_model import export_onnx, read_info
from export.precision.int8_dynamic import to_int8_dynamic
from runtime import ort, states
from runtime.answers import Wanted, answerer_of
from runtime.bundles.bundle import open_files
from runtime.bundles.manifest import DECODER, BundleTarget, ModelFile
from runtime.session import open_session
from runtime.states import SOURCE_MASK, WORDS
from runtime.streams.stream import Stream
from runtime.texts.text import TARGET


class Listed(NamedTuple):
    """A model with a shortlist, its folder and its bundle."""

    model: Transformer
    folder: Path
    bundle: Path


SOURCE = {
    "input_ids": np.array([[5, 6, 7, 8, END], [9, 10, END, PAD, PAD]]),
    "attention_mask": np.array([[1] * 5, [1, 1, 1, 0, 0]]),
}
TARGETS = np.array([[PAD, 11, 12], [PAD, 13, 14]])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Listed:
    folder = tmp_path_factory.mktemp("listed")
    saved_translator(folder)
    task = tasks.of_folder(folder)
    section = task.preprocessing(folder, print)
    original = read_checkpoint(folder, section)
    table = {"use": "shortlist", "width": 2, "always": 4}
    model = run_rewrite(*parse_options(table), original, translator_calibration(original), "decoder")
    inputs, module, path = TASK.graph_inputs(model.structure, 0), TASK.module(model), folder / "model.onnx"
    export_onnx(module, inputs.example, TASK.graph_outputs(model.structure), inputs.dynamic, path)
    check_against(module, path, inputs.cases)
    shutil.copyfile(path, folder / "whole.onnx")
    files = task.graphs(path)
    content = BundleContent(
        task=task.name,
        target=BundleTarget("cpu", "fp32", profile={"batch": (1, 1, 8)}),
        forms=[Form(ModelFile(file.name, "onnxruntime", "fp32", graph=name), file) for name, file in files.items()],
        golden=task.golden_inputs(files, {**SOURCE, TARGET: TARGETS}),
        edgepress="0",
        verdict="pass",
        preprocessing=section,
        files={"tokenizer.json": folder / "tokenizer.json", "model.onnx.data": folder / "model.onnx.data"},
    )
    return Listed(model, folder, write_bundle(folder / "bundle", content))


@pytest.mark.parametrize("bits", [32, 8])
def test_a_decoder_scores_the_words_at_hand_as_the_whole_scores_all(made: Listed, tmp_path: Path, bits: int) -> None:
    shutil.copyfile(made.folder / "whole.onnx", tmp_path / "model.onnx")
    if bits == 8:
        to_int8_dynamic(made.folder / "whole.onnx", tmp_path / "model.onnx")
    parts = {name: ort.load(file, 1) for name, file in TASK.graphs(tmp_path / "model.onnx").items()}
    wanted_BNV = parts["model"].run({**SOURCE, TARGET: TARGETS})["logits"]
    memory = parts["encoder"].run(SOURCE)
    fresh = states.fresh(states.states_of(parts[DECODER].inputs), {"batch": 2})
    fixed = {SOURCE_MASK: SOURCE["attention_mask"], **memory}
    found = parts[DECODER].run({**fixed, **fresh, "input_ids": TARGETS})
    words_U = found[WORDS]
    np.testing.assert_array_equal(words_U, np.flatnonzero(memory[states.ALLOWED].any(axis=0)))
    assert 4 <= len(words_U) < VOCABULARY and wanted_BNV.shape[-1] == VOCABULARY
    np.testing.assert_allclose(found["logits"], wanted_BNV[..., words_U], atol=1e-4)
    powers_BNV = np.exp(wanted_BNV.astype(np.float64))
    left_out = 1 - powers_BNV[..., words_U].sum(-1) / powers_BNV.sum(-1)
    assert left_out.max() < 1e-6, "what is not computed weighs nothing"


def test_the_graph_before_it_is_cut_can_be_given_all_words(made: Listed) -> None:
    info = read_info(made.folder / "whole.onnx")
    inputs = {**SOURCE, TARGET: TARGETS, **states.every_word(info.outputs)}
    whole = ort.load(made.folder / "whole.onnx", 1)
    all_BNV = whole.run(fitted("whole.onnx", inputs, info.inputs))["logits"]
    wanted_BNV = ort.load(made.folder / "model.onnx", 1).run({**SOURCE, TARGET: TARGETS})["logits"]
    np.testing.assert_allclose(all_BNV, wanted_BNV, atol=1e-5)
    assert states.every_word(info.inputs) == {}


def test_the_likeliest_words_are_named_by_their_ids(made: Listed) -> None:
    session = open_session(open_files(made.bundle).one(DECODER))
    fixed = {SOURCE_MASK: SOURCE["attention_mask"], **ort.load(made.bundle / "encoder.onnx", 1).run(SOURCE)}
    picking, saying = Stream(session, 2, fixed), Stream(session, 2, fixed)
    values_BC, tokens_BC = picking.likeliest(TARGETS[:, 0], 3)
    logits_BU = saying.step(TARGETS[:, 0])
    words_U = np.flatnonzero(fixed[states.ALLOWED].any(axis=0))
    np.testing.assert_array_equal(tokens_BC, words_U[np.argsort(-logits_BU, axis=1, kind="stable")[:, :3]])
    assert picking.likeliest(TARGETS[:, 1], 10_000)[1].shape == (2, len(words_U)), "there are no more than these"
    allowed_BC = np.take_along_axis(fixed[states.ALLOWED], tokens_BC, axis=1)
    assert allowed_BC.all() and np.isfinite(values_BC).all()


@pytest.mark.parametrize("beams", [1, 3])
def test_a_text_does_not_depend_on_the_sources_beside_it(made: Listed, beams: int) -> None:
    bundle, texts = open_files(made.bundle).one(DECODER), sentences(8, seed=3)
    session = open_session(bundle, threads=1)
    together = answerer_of(bundle).answer(session, texts, Wanted(beams=beams, tokens=12))
    alone = [answerer_of(bundle).answer(session, [text], Wanted(beams=beams, tokens=12))[0] for text in texts]
    for one, other in zip(together, alone, strict=True):
        assert isinstance(one, dict) and isinstance(other, dict)
        assert one["text"] == other["text"] and one["score"] == pytest.approx(other["score"], abs=1e-3)
