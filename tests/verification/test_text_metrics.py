"""Metrics of texts against scipy and plain loops, and what a gate makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy, spearmanr

from compress.verification import baseline
from compress.verification.drift import compare
from compress.verification.files import load
from compress.verification.gate import parse
from compress.verification.metrics import METRICS
from compress.verification.outcome import Status
from compress.verification.predictions import EmbeddedPairs, Embeddings, NextTokens, Samples
from compress.verify import Options, evaluate
from targets.errors import InputError


def pairs(count: int, noise: float, seed: int = 0) -> EmbeddedPairs:
    """Pairs whose cosine follows the gold score, with noise."""
    draw = np.random.default_rng(0)
    gold = draw.uniform(0, 5, count)
    angle = np.arccos(gold / 5) + noise * np.random.default_rng(seed).standard_normal(count)
    first = np.tile([1.0, 0.0, 0.0], (count, 1))
    second = np.stack([np.cos(angle), np.sin(angle), np.zeros(count)], axis=1)
    return EmbeddedPairs(np.stack([first, second], axis=1).astype(np.float32), gold)


def tokens(samples: int, longest: int, vocabulary: int, seed: int, shift: float = 0.0) -> NextTokens:
    """Random sequences; `shift` moves the losses and the distributions."""
    same, draw = np.random.default_rng(0), np.random.default_rng(seed)
    lengths = same.integers(1, longest + 1, samples)
    best = np.where(np.arange(longest) < lengths[:, None], draw.integers(0, 3, (samples, longest)), -1)
    scores = same.standard_normal((samples, 2, vocabulary)) + shift * draw.standard_normal((samples, 2, vocabulary))
    log_probs = scores - np.log(np.exp(scores).sum(axis=2, keepdims=True))
    nll = lengths * (2 + shift * draw.random(samples))
    return NextTokens(nll, lengths, 4 * lengths, best.astype(np.int32), log_probs.astype(np.float16))


@settings(max_examples=25, deadline=None)
@given(count=st.integers(3, 40), noise=st.floats(0, 2), seed=st.integers(0, 99))
def test_spearman_of_embedded_pairs_is_that_of_scipy_on_cosines(count: int, noise: float, seed: int) -> None:
    samples = pairs(count, noise, seed)
    first, second = samples.vectors[:, 0].astype(float), samples.vectors[:, 1].astype(float)
    cosine = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(first, second, strict=True)]
    wanted = spearmanr(np.round(cosine, 12), samples.gold).statistic
    assert METRICS["spearman"].value(samples) == pytest.approx(100 * wanted, abs=0.5)
    np.testing.assert_allclose(samples.scores, cosine, atol=1e-12)


def test_cosine_to_the_reference_is_a_mean_over_the_texts_of_a_sample() -> None:
    draw = np.random.default_rng(0)
    mine, theirs = (Embeddings(draw.standard_normal((7, 2, 5)).astype(np.float32)) for _ in range(2))
    wanted = np.mean(
        [
            mine.vectors[s, t].astype(float) @ theirs.vectors[s, t].astype(float)
            / np.linalg.norm(mine.vectors[s, t].astype(float))
            / np.linalg.norm(theirs.vectors[s, t].astype(float))
            for s in range(7)
            for t in range(2)
        ]
    )  # fmt: skip
    assert METRICS["cosine"].value(mine, theirs) == pytest.approx(wanted)
    assert METRICS["cosine"].value(mine, mine) == pytest.approx(1)
    assert [metric.name for metric in mine.metrics] == ["cosine"]


@settings(max_examples=25, deadline=None)
@given(samples=st.integers(1, 12), longest=st.integers(1, 9), seed=st.integers(1, 99))
def test_token_metrics_are_those_of_a_plain_loop(samples: int, longest: int, seed: int) -> None:
    reference, candidate = tokens(samples, longest, 11, 0), tokens(samples, longest, 11, seed, shift=0.4)
    same = total = 0
    for mine, theirs in zip(reference.best, candidate.best, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            same, total = same + int(a == b and a >= 0), total + int(a >= 0)
    assert METRICS["token_agreement"].value(reference, candidate) == pytest.approx(100 * same / total)
    divergences = [
        entropy(np.exp(p.astype(float)), np.exp(q.astype(float)))
        for p, q in zip(reference.log_probs.reshape(-1, 11), candidate.log_probs.reshape(-1, 11), strict=True)
    ]
    assert METRICS["token_kl"].value(reference, candidate) == pytest.approx(np.mean(divergences), abs=1e-5)
    wanted = np.exp(candidate.nll.sum() / candidate.tokens.sum())
    assert METRICS["perplexity"].value(candidate) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("reference", "candidate", "check", "status"),
    [
        (pairs(400, 0.1), pairs(400, 0.1, seed=1), {"metric": "spearman", "max_drop": 3}, Status.PASS),
        (pairs(400, 0.1), pairs(400, 0.8, seed=1), {"metric": "spearman", "max_drop": 3}, Status.FAIL),
        (pairs(20, 0.1), pairs(20, 0.1), {"metric": "spearman", "max_drop": 3}, Status.ERROR),
        (tokens(99, 9, 5, 0), tokens(99, 9, 5, 0, 0.01), {"metric": "perplexity", "max_relative_drop": 1}, Status.PASS),
        (tokens(99, 9, 5, 0), tokens(99, 9, 5, 0, 0.2), {"metric": "perplexity", "max_relative_drop": 1}, Status.FAIL),
    ],
)
def test_gates_judge_the_worse_end_of_a_paired_interval(
    reference: Samples, candidate: Samples, check: dict[str, object], status: Status
) -> None:
    drift = compare(reference, candidate, parse({"check": [check]}))
    assert drift.status is status
    if status is not Status.ERROR:
        result = drift.gate.checks[0]
        assert result.low is not None and result.high is not None and result.value is not None
        assert result.low <= result.value <= result.high
        assert {metric.name for metric in candidate.metrics} == {metric.name for metric in drift.metrics}


def test_an_equal_model_rises_by_nothing_not_by_minus_nothing() -> None:
    drift = compare(
        tokens(99, 9, 5, 0), tokens(99, 9, 5, 0), parse({"check": [{"metric": "perplexity", "max_drop": 1}]})
    )
    assert "rise 0, at worst 0.03" in drift.gate.checks[0].message


def test_unscored_embeddings_never_pass_a_gate_on_spearman() -> None:
    samples = Embeddings(np.ones((80, 1, 3), np.float32))
    drift = compare(samples, samples, parse({"check": [{"metric": "spearman", "max_drop": 1}]}))
    assert drift.status is Status.ERROR
    assert (
        "needs pair scores, embedded pairs, ranked scores or text scores, the sides hold embeddings"
        in drift.gate.message
    )


@pytest.mark.parametrize("samples", [pairs(9, 0.2), tokens(9, 4, 6, 0), Embeddings(np.ones((3, 1, 2), np.float32))])
def test_files_give_the_samples_back_and_a_baseline_keeps_every_drop(samples: Samples, tmp_path: Path) -> None:
    samples.save(tmp_path / "answers.npz")
    again = load(tmp_path / "answers.npz")
    assert type(again) is type(samples)
    assert all(np.array_equal(value, again.arrays()[name]) for name, value in samples.arrays().items())
    gate = parse({"min_samples": 2, "check": [{"metric": samples.metrics[0].name, "min_value": 0}]})
    drift = compare(samples, samples, gate)
    if type(samples) is Embeddings:
        with pytest.raises(InputError, match="no metric of their own"):
            baseline.update(tmp_path / "results.json", samples, drift)
        return
    baseline.update(tmp_path / "results.json", samples, drift)
    name = "spearman" if isinstance(samples, EmbeddedPairs) else "perplexity"
    drops = parse({"min_samples": 2, "check": [{"metric": name, "max_drop": 99.0}]})
    result = baseline.check(baseline.load(tmp_path / "results.json"), samples, drops)
    assert result.status is Status.PASS
    assert "drop 0.00 points, at worst" in result.message or "rise 0, at worst" in result.message


TEXTS = [
    ("the cat sat on the mat", "the cat sat on a mat"),
    ("a dog ran over the green field", "a dog ran across the green field"),
    ("two men are talking", "two men talk to each other"),
]


def outputs(folder: Path, name: str, texts: list[tuple[str, str]]) -> Path:
    lines = [json.dumps({"output": output, "reference": reference}) for output, reference in texts]
    (folder / name).write_text("\n".join(lines) + "\n")
    return folder / name


def test_bleu_is_that_of_sacrebleu_and_its_drop_is_gated(tmp_path: Path) -> None:
    from sacrebleu.metrics import BLEU

    good = [TEXTS[index % 3] for index in range(60)]
    bad = [(output.replace("the", "that"), reference) for output, reference in good]
    for name, texts in (("good.jsonl", good), ("bad.jsonl", bad), ("few.jsonl", TEXTS[2:])):
        wanted = BLEU().corpus_score([text for text, _ in texts], [[text for _, text in texts]]).score
        assert METRICS["bleu"].value(load(outputs(tmp_path, name, texts))) == pytest.approx(wanted, abs=1e-9)
    first, second = (str(tmp_path / name) for name in ("good.jsonl", "bad.jsonl"))
    assert evaluate(Options(first, second, max_drop=1.0)).drift.status is Status.FAIL
    assert evaluate(Options(second, first, max_drop=1.0)).drift.status is Status.PASS
    other = outputs(tmp_path, "other.jsonl", [(output, "something else") for output, _ in good])
    drift = evaluate(Options(first, str(other))).drift
    assert drift.status is Status.ERROR and "did not see the same data" in drift.gate.message


def test_a_mark_of_the_byte_order_is_read_and_nothing_is_said_of_single_sentences(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'\xef\xbb\xbf{"output": "a cat sat", "reference": "a cat sat"}\n')
    assert len(load(tmp_path / "a.jsonl")) == 1
    assert not caplog.records


@pytest.mark.parametrize(
    "line",
    [
        "[1]",
        '{"output": "a"}',
        '{"output": "a", "reference": ""}',
        '{"output": "\\ud800", "reference": "a"}',
        "{",
        "[" * 100_000,
        "\xff",
    ],
    ids=lambda line: line[:20],
)
def test_lines_that_hold_no_pair_of_texts_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"output": "a", "reference": "b"}\n' + line.encode("latin-1"))
    with pytest.raises(InputError, match=r"a\.jsonl, line 2"):
        load(tmp_path / "a.jsonl")


def test_arrays_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"give \[pairs, 2, width\]"):
        EmbeddedPairs(np.ones((3, 1, 2), np.float32), np.ones(3))
    with pytest.raises(InputError, match="one row per sequence"):
        NextTokens(np.ones(2), np.ones(2, int), np.ones(2, int), np.ones((3, 1), np.int32), np.ones((2, 1, 4), "f2"))
