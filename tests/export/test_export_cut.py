"""An encoder-decoder is exported once and cut: its parts give the numbers of the whole, and a device translates."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from support.translators import CONFIG, END, PAD, VOCABULARY, saved_translator, sentences

import edgepress
from compress import tasks
from compress.model import Transformer
from compress.model.mixers.softmax_attention import SoftmaxAttention
from compress.rewrites import Calibration, parse_options, run_rewrite
from compress.tasks import read_checkpoint
from compress.tasks.text_to_text import TASK
from export import graph
from export.bundle import BundleContent, Form, write_bundle
from export.cpu_graph import optimize_for_cpu
from export.cut import cut
from export.numerics import check_against
from export.onnx_model import export_onnx
from export.precision.fp16 import to_fp16
from export.precision.int8_dynamic import to_int8_dynamic
from runtime import ort, states
from runtime.answers import Streamer, Wanted, answerer_of, text_to_text
from runtime.bundles.bundle import open_files
from runtime.bundles.manifest import DECODER, BundleTarget, ModelFile
from runtime.run import main as run
from runtime.session import open_session
from runtime.states import SOURCE_MASK
from runtime.streams.stream import Stream
from runtime.texts.search import likeliest
from runtime.texts.text import TARGET
from targets.errors import InputError


class Cut(NamedTuple):
    """The original, what was read of it, and the bundle of its parts."""

    original: Any
    model: Transformer
    bundle: Path
    source: dict[str, np.ndarray]
    target: np.ndarray


def whole_graph(model: Transformer, folder: Path) -> Path:
    """The one graph of a translator, held against torch, in a new folder."""
    inputs, module = TASK.graph_inputs(model.structure, 0), TASK.module(model)
    path = folder / "model.onnx"
    folder.mkdir()
    export_onnx(module, inputs.example, TASK.graph_outputs(model.structure), inputs.dynamic, path)
    check_against(module, path, inputs.cases)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Cut:
    folder = tmp_path_factory.mktemp("cut")
    original = saved_translator(folder)
    task = tasks.of_folder(folder)
    section = task.preprocessing(folder, print)
    model = read_checkpoint(folder, section)
    path = whole_graph(model, folder / "made")
    shutil.copyfile(path, folder / "whole.onnx")
    files = task.graphs(path)
    forms = [Form(ModelFile(file.name, "onnxruntime", "fp32", graph=name), file) for name, file in files.items()]
    ids, mask = np.array([[5, 6, 7, 8, END], [9, 10, END, PAD, PAD]]), np.array([[1] * 5, [1, 1, 1, 0, 0]])
    source, target = {"input_ids": ids, "attention_mask": mask}, np.array([[PAD, 11, 12], [PAD, 13, 14]])
    content = BundleContent(
        task=task.name,
        target=BundleTarget("cpu", "fp32", profile={"batch": (1, 1, 8)}),
        forms=forms,
        golden=task.golden_inputs(files, {**source, TARGET: target}),
        edgepress="0",
        verdict="pass",
        preprocessing=section,
        files={"tokenizer.json": folder / "tokenizer.json", "model.onnx.data": path.with_name("model.onnx.data")},
    )
    return Cut(original, model, write_bundle(folder / "bundle", content), source, target)


def test_the_parts_step_by_step_give_what_the_whole_gives_at_once(made: Cut) -> None:
    whole, encoder, decoder = (ort.load(made.bundle / f"{name}.onnx", 1) for name in ("model", "encoder", "decoder"))
    wanted = whole.run({**made.source, TARGET: made.target})["logits"]
    fixed = {SOURCE_MASK: made.source["attention_mask"], **encoder.run(made.source)}
    kinds = states.states_of(decoder.inputs)
    past, given = states.fresh(kinds, {"batch": 2}), []
    for token_B in made.target.T:
        found = decoder.run({**fixed, **past, "input_ids": token_B[:, None]})
        past = {one.past: found[one.present] for one in kinds}
        given.append(found["logits"])
    np.testing.assert_allclose(np.concatenate(given, axis=1), wanted, atol=1e-5)
    tensors = {name: torch.from_numpy(one) for name, one in {**made.source, TARGET: made.target}.items()}
    with torch.no_grad():
        np.testing.assert_allclose(made.original(**tensors).logits.numpy(), wanted, atol=1e-4)


@pytest.mark.parametrize("smaller", [to_int8_dynamic, to_fp16])
def test_a_graph_in_few_bits_is_cut_at_its_memory(made: Cut, tmp_path: Path, smaller: Any) -> None:
    smaller(made.bundle.parent / "whole.onnx", tmp_path / "model.onnx")
    parts = {name: ort.load(file, 1) for name, file in cut(tmp_path / "model.onnx").items()}
    wanted = parts["model"].run({**made.source, TARGET: made.target})["logits"]
    fixed = {SOURCE_MASK: made.source["attention_mask"], **parts["encoder"].run(made.source)}
    fresh = states.fresh(states.states_of(parts[DECODER].inputs), {"batch": 2})
    given = parts[DECODER].run({**fixed, **fresh, "input_ids": made.target})["logits"]
    np.testing.assert_allclose(given, wanted, atol=1e-5)


def test_a_decoder_on_a_cpu_has_one_node_for_each_attention(made: Cut, tmp_path: Path) -> None:
    done = optimize_for_cpu(made.bundle.parent / "whole.onnx", tmp_path / "model.onnx")
    kinds = [node.op_type for node in graph.load(tmp_path / "model.onnx").graph.node]
    assert done.fused == done.softmaxes == 5 and "Softmax" not in kinds
    assert (kinds.count("Attention"), kinds.count("MultiHeadAttention")) == (1, 4), "an encoder block, two of a decoder"
    parts = {name: ort.load(file, 1) for name, file in cut(tmp_path / "model.onnx").items()}
    wanted = ort.load(made.bundle / "model.onnx", 1).run({**made.source, TARGET: made.target})["logits"]
    fixed = {SOURCE_MASK: made.source["attention_mask"], **parts["encoder"].run(made.source)}
    kept = states.states_of(parts[DECODER].inputs)
    past, given = states.fresh(kept, {"batch": 2}), []
    for chunk in (made.target[:, :1], made.target[:, 1:]):
        found = parts[DECODER].run({**fixed, **past, "input_ids": chunk})
        past = {one.past: found[one.present] for one in kept}
        given.append(found["logits"])
    np.testing.assert_allclose(np.concatenate(given, axis=1), wanted, atol=1e-5)


def test_a_decoder_that_sees_a_window_alone_keeps_its_attention(made: Cut, tmp_path: Path) -> None:
    model = made.model.copy()
    for mixer in model.modules():
        if isinstance(mixer, SoftmaxAttention) and mixer.causal:
            mixer.spec = mixer.spec.model_copy(update={"window": 30})  # wider than what a mask is tried on
    done = optimize_for_cpu(whole_graph(model, tmp_path / "window"), tmp_path / "model.onnx")
    assert done.fused == done.softmaxes - 2, "all but the decoder's two attentions to itself"


def test_a_linear_cross_attention_hands_over_sums_of_one_size(made: Cut, tmp_path: Path) -> None:
    batch = {name: torch.from_numpy(one) for name, one in {**made.source, TARGET: made.target}.items()}
    calibration = Calibration(made.model, lambda: iter([batch]), lambda line: None)
    method = parse_options({"use": "linear-cross", "stack": "decoder", "feature": "t2r", "size": 6})
    linear = run_rewrite(*method, made.model, calibration, "decoder")
    parts = {name: ort.load(file, 1) for name, file in cut(whole_graph(linear, tmp_path / "linear")).items()}
    memory = parts["encoder"].run(made.source)
    assert {one.shape for one in memory.values()} == {(2, 2, 6, 9)}, "heads, features, sizes of values and one"
    assert not set(memory) & set(parts["model"].outputs) and set(memory) <= {one.name for one in parts[DECODER].inputs}
    fresh = states.fresh(states.states_of(parts[DECODER].inputs), {"batch": 2})
    fixed = {SOURCE_MASK: made.source["attention_mask"], **memory, **fresh, "input_ids": made.target}
    given = parts[DECODER].run({one.name: fixed[one.name] for one in parts[DECODER].inputs})["logits"]
    with torch.no_grad():
        np.testing.assert_allclose(given, linear(batch).numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "table", [{"use": "linear-attention", "feature": "t2r", "size": 6}, {"use": "hybrid", "window": 2}]
)
def test_a_decoder_without_caches_counts_its_tokens_and_takes_chunks_of_any_length(
    made: Cut, table: dict[str, Any], tmp_path: Path
) -> None:
    batch = {name: torch.from_numpy(one) for name, one in {**made.source, TARGET: made.target}.items()}
    calibration = Calibration(made.model, lambda: iter([batch]), lambda line: None)
    recurrent = run_rewrite(*parse_options(table), made.model, calibration, "decoder")
    parts = {name: ort.load(file, 1) for name, file in cut(whole_graph(recurrent, tmp_path / "recurrent")).items()}
    fixed = {SOURCE_MASK: made.source["attention_mask"], **parts["encoder"].run(made.source)}
    past = states.states_of(parts[DECODER].inputs)
    state = states.fresh(past, {"batch": 2})
    given = []
    for chunk in (made.target[:, :1], made.target[:, 1:]):
        fed = {**fixed, **state, "input_ids": chunk}
        outputs = parts[DECODER].run({one.name: fed[one.name] for one in parts[DECODER].inputs})
        state = {one.past: outputs[one.present] for one in past}
        given.append(outputs["logits"])
    with torch.no_grad():
        np.testing.assert_allclose(np.concatenate(given, axis=1), recurrent(batch).numpy(), atol=1e-5)


def test_a_weight_that_two_parts_read_is_stored_once_beside_them(made: Cut) -> None:
    table = made.model.embed.table.nbytes
    apart = (made.bundle / "model.onnx.data").stat().st_size
    assert table < apart < 4 * made.model.num_parameters() + 8 * table
    assert all(graph.load(made.bundle / f"{name}.onnx").graph.node for name in ("encoder", "decoder"))


def test_a_device_writes_what_transformers_writes(made: Cut, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = open_files(made.bundle).one(DECODER)
    answerer, session = answerer_of(bundle), open_session(bundle)
    texts = sentences(10)
    for beams in (1, 4):
        results = answerer.answer(session, texts, Wanted(beams=beams))
        for text, result in zip(texts, results, strict=True):
            assert isinstance(result, dict)
            ids = torch.tensor([[int(word[1:]) + 3 for word in text.split()] + [END]])
            settings = {"bad_words_ids": [[PAD]], "max_length": 24, "num_beams": beams, "do_sample": False}
            (wanted,) = made.original.generate(input_ids=ids, **settings).tolist()
            words = [f"w{token - 3}" for token in wanted if token > PAD]
            assert str(result["text"]).split() == words


def test_a_decoder_picks_the_likeliest_tokens_that_its_logits_say(made: Cut) -> None:
    session = open_session(open_files(made.bundle).one(DECODER))
    fixed = {SOURCE_MASK: made.source["attention_mask"], **ort.load(made.bundle / "encoder.onnx", 1).run(made.source)}
    picking, saying = Stream(session, 2, fixed), Stream(session, 2, fixed)
    for token_B in made.target.T:
        found, wanted = picking.likeliest(token_B, 5), likeliest(saying.step(token_B), 5)
        np.testing.assert_array_equal(found[1], wanted[1])
        np.testing.assert_allclose(found[0], wanted[0], atol=1e-5)
    everything = picking.likeliest(made.target[:, -1], 10_000)
    assert everything[1].shape == (2, VOCABULARY) and np.allclose(np.exp(everything[0]).sum(axis=1), 1)


def test_batches_side_by_side_are_written_as_each_alone(made: Cut, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_to_text, "ROWS", 8)
    bundle, texts = open_files(made.bundle).one(DECODER), sentences(2 * 8 + 3, seed=2)
    session = open_session(bundle, threads=2)
    together = answerer_of(bundle).answer(session, texts, Wanted(beams=1))
    alone = [answerer_of(bundle).answer(session, [text], Wanted(beams=1))[0] for text in texts]
    assert [one["text"] for one in together] == [one["text"] for one in alone]


def test_more_texts_than_the_bundles_batch_are_written_at_once_while_they_keep_little(
    made: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, texts = open_files(made.bundle).one(DECODER), sentences(30, seed=4)
    answerer, session = answerer_of(bundle), open_session(bundle, threads=1)
    begun: list[int] = []
    start = Stream.__init__

    def counted(self: Stream, model: Any, batch: int = 1, fixed: Any = None) -> None:
        begun.append(batch)
        start(self, model, batch, fixed)

    monkeypatch.setattr(Stream, "__init__", counted)
    at_once = answerer.answer(session, texts, Wanted(beams=1))
    monkeypatch.setattr(text_to_text, "KEPT", 1)
    assert answerer.answer(session, texts, Wanted(beams=1)) == at_once
    assert begun == [30, 8, 8, 8, 6], "the bundle's batch is 8"


def test_the_next_best_texts_are_given_and_no_more_than_beams(made: Cut) -> None:
    bundle = open_files(made.bundle).one(DECODER)
    answerer, session = answerer_of(bundle), open_session(bundle)
    (best,) = answerer.answer(session, ["w1 w2 w3"], Wanted(beams=4))
    (result,) = answerer.answer(session, ["w1 w2 w3"], Wanted(beams=4, top=3))
    assert isinstance(best, dict) and isinstance(result, dict)
    texts = [result, *result["others"]]
    assert texts[0]["text"] == best["text"] and len({one["text"] for one in texts}) == 3
    assert [one["score"] for one in texts] == sorted((one["score"] for one in texts), reverse=True)
    assert answerer.line(result).splitlines() == [one["text"] for one in texts]
    with pytest.raises(InputError, match="--top 5 needs as many beams; give --beams 5"):
        answerer.answer(session, ["w1"], Wanted(beams=4, top=5))


@pytest.mark.parametrize("words", ["w1 w2 w3", "w9"])
def test_a_text_comes_piece_by_piece_with_one_beam(made: Cut, words: str) -> None:
    bundle = open_files(made.bundle).one(DECODER)
    answerer, session = answerer_of(bundle), open_session(bundle)
    assert isinstance(answerer, Streamer)
    (wanted,) = answerer.answer(session, [words], Wanted(beams=1))
    pieces = list(answerer.pieces(session, words, Wanted(beams=1)))
    assert isinstance(wanted, dict) and len(pieces) > 1 and "".join(pieces) == wanted["text"]
    assert answerer.flows(Wanted(beams=1)) and not answerer.flows(Wanted(beams=4))


def test_the_library_translates_a_text(made: Cut) -> None:
    text, session = "w1 w2 w3", open_session(open_files(made.bundle).one(DECODER))
    (wanted,) = answerer_of(session.bundle).answer(session, [text], Wanted())
    assert edgepress.open(made.bundle)(text) == [{"input": text, **dict(wanted)}]


def test_the_command_translates_a_text(
    made: Cut, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["run", str(made.bundle), "w1 w2 w3", "--beams", "2", "--json"])
    assert run() == 0
    assert "text" in json.loads(capsys.readouterr().out)["results"][0]


def test_a_saved_state_of_another_source_is_refused(made: Cut) -> None:
    session = open_session(open_files(made.bundle).one(DECODER))
    encoder = ort.load(made.bundle / "encoder.onnx", 1)

    def stream(rows: slice) -> Stream:
        source = {name: one[rows] for name, one in made.source.items()}
        return Stream(session, 1, {SOURCE_MASK: source["attention_mask"], **encoder.run(source)})

    first, other = stream(slice(0, 1)), stream(slice(1, 2))
    first.step(PAD)
    saved = first.save()
    again = stream(slice(0, 1))
    again.load(saved)
    np.testing.assert_array_equal(again.step(11), first.step(11))
    with pytest.raises(InputError, match="another source"):
        other.load(saved)


def test_a_folder_that_does_not_say_how_a_text_begins_is_refused(tmp_path: Path) -> None:
    saved_translator(tmp_path)
    for name in ("config.json", "generation_config.json"):
        known = json.loads((tmp_path / name).read_text())
        known.pop("decoder_start_token_id", None)
        (tmp_path / name).write_text(json.dumps(known))
    with pytest.raises(InputError, match="which token its decoder begins with"):
        tasks.of_folder(tmp_path).preprocessing(tmp_path, print)
    assert CONFIG["decoder_start_token_id"] == PAD
