"""shortlist: likely translations of a source's tokens are scored, all other words far below them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.translators import END, VOCABULARY, translator, translator_calibration
from torch import Tensor

from compress.model import Transformer
from compress.model.heads.shortlist import LOSS, Shortlist
from compress.rewrites import Calibration, parse_options, run_rewrite
from compress.rewrites.shortlist import ROUNDS
from runtime.states import ALLOWED
from runtime.texts.text import TARGET
from targets.errors import InputError

START = 2


def pairs_of(texts: list[tuple[list[int], list[int]]], model: Transformer) -> Calibration:
    """Calibration of one pair a batch."""

    def batches() -> Iterator[dict[str, Tensor]]:
        for source, target in texts:
            ids = torch.tensor([source])
            yield {"input_ids": ids, "attention_mask": torch.ones_like(ids), TARGET: torch.tensor([[START, *target]])}

    return Calibration(model, batches, note=lambda text: None)


def listed(model: Transformer, calibration: Calibration, **options: int) -> Transformer:
    return run_rewrite(*parse_options({"use": "shortlist", **options}), model, calibration, "decoder")


def head_of(model: Transformer) -> Shortlist:
    assert isinstance(model.head, Shortlist)
    return model.head


def brute_translations(texts: list[tuple[list[int], list[int]]]) -> dict[tuple[int, int], float]:
    """IBM Model 1 as its paper writes it, pair by pair."""
    likely = {(e, f): 1.0 for source, target in texts for e in source for f in target}
    for _ in range(ROUNDS):
        counts = dict.fromkeys(likely, 0.0)
        for source, target in texts:
            for f in target:
                total = sum(likely[e, f] for e in source)
                for e in source:
                    counts[e, f] += likely[e, f] / total
        whole: dict[int, float] = {}
        for (e, _), count in counts.items():
            whole[e] = whole.get(e, 0.0) + count
        likely = {(e, f): count / whole[e] for (e, f), count in counts.items()}
    return likely


@pytest.mark.parametrize("seed", range(4))
def test_the_words_of_a_token_are_those_of_model_1(seed: int) -> None:
    random, model = np.random.default_rng(seed), translator()
    texts = [
        (
            random.integers(3, 12, random.integers(1, 6)).tolist(),
            random.integers(12, 30, random.integers(1, 5)).tolist(),
        )
        for _ in range(30)
    ]
    head = head_of(listed(model, pairs_of(texts, model), width=3, always=4))
    likely = brute_translations(texts)
    for token in range(3, 12):
        own = (value for (e, f), value in likely.items() if e == token and f not in head.always_A)
        wanted = sorted(own, reverse=True)[:3]
        words = [word for word in head.words_VK[token].tolist() if word not in head.always_A]
        assert [likely[token, word] for word in words] == pytest.approx(wanted, abs=1e-9)


def test_words_that_stand_together_are_found_among_words_that_do_not() -> None:
    model, random = translator(), np.random.default_rng(0)
    sources = [random.permutation(np.arange(3, 15))[:4].tolist() for _ in range(60)]
    texts = [(source, [token + 12 for token in reversed(source)]) for source in sources]
    head = head_of(listed(model, pairs_of(texts, model), width=1, always=1))
    assert head.words_VK[3:15, 0].tolist() == list(range(15, 27)), "each token's own word"
    assert head.always_A.tolist() == [END]


def test_words_on_the_list_keep_their_logits_and_the_others_lose_alike() -> None:
    model = translator()
    calibration = translator_calibration(model)
    after = listed(model, calibration, width=2, always=5)
    inputs = next(calibration.batches())
    with torch.no_grad():
        before_BNV, after_BNV = model(inputs), after(inputs)
        allowed_BV = head_of(after).keep(inputs)[ALLOWED].bool()
    lost_BNV = before_BNV - after_BNV
    wanted_BNV = torch.where(allowed_BV[:, None], 0.0, LOSS).expand_as(lost_BNV)
    torch.testing.assert_close(lost_BNV, wanted_BNV, atol=1e-4, rtol=0)
    assert allowed_BV.sum(dim=1).max() <= 2 * 7 + 5 < VOCABULARY
    torch.testing.assert_close(after.train()(inputs), before_BNV, msg="healing sees all words")


def test_padding_of_a_source_adds_no_words() -> None:
    model = translator()
    head = head_of(listed(model, translator_calibration(model), width=3, always=2))
    ids = torch.tensor([[5, 6, END]])
    padded = {
        "input_ids": torch.cat([ids, torch.tensor([[9, 10]])], 1),
        "attention_mask": torch.tensor([[1, 1, 1, 0, 0]]),
    }
    alone = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    torch.testing.assert_close(head.keep(padded)[ALLOWED], head.keep(alone)[ALLOWED])


def test_all_inputs_that_may_be_learned_from_are_counted() -> None:
    model = translator()
    few = pairs_of([([5], [20])], model)
    many = replace(few, every=pairs_of([([5], [20]), ([6], [21])], model).batches)
    assert head_of(listed(model, few, width=1, always=1)).words_VK[6].tolist() == [END]
    assert head_of(listed(model, many, width=1, always=1)).words_VK[6].tolist() == [21]


def test_a_model_that_it_cannot_be_of_is_refused() -> None:
    model = translator()
    calibration = translator_calibration(model)
    once = listed(model, calibration, width=1, always=4)
    with pytest.raises(InputError, match="shortlist is refused: this model has a shortlist already"):
        listed(once, calibration, width=1, always=4)
    with pytest.raises(InputError, match="shortlist is refused: this model does not write texts for sources"):
        run_rewrite(*parse_options({"use": "shortlist"}), model, calibration, "encoder")
    with pytest.raises(InputError, match="no pair to learn translations from"):
        listed(model, pairs_of([([5], [])], model))
