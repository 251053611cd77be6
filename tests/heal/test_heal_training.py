"""Healing brings a damaged model back towards its original, and stops when it should.

B batch, N tokens, D hidden size, C classes.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from support.healing import damaged, feed, healed, tiny, vit_mnist

from compress.heal import HealOptions
from compress.heal.heal import heal as _heal  # noqa: F401
from compress.heal.heal import transfer_runs
from compress.heal.loop import _rate
from compress.heal.losses import changed_steps, distillation_loss, relative_error
from compress.heal.objective import CLASSIFICATION, kl_divergence
from compress.model import Transformer
from compress.model.reducers.first import First
from compress.model.sequence import Context, Tokens
from compress.model.structure import output_targets
from compress.model.values.gated_mean import GatedMeanSpec
from targets.errors import InputError


class Log:
    """The reports of a run."""

    def __init__(self) -> None:
        self.reports: list[tuple[float, float, str, dict[str, float]]] = []

    def __call__(self, done: float, total: float, note: str = "", **numbers: float) -> None:
        self.reports.append((done, total, note, numbers))

    def losses(self, note: str) -> list[float]:
        return [numbers["loss"] for _, _, said, numbers in self.reports if said == note]


def unchanged(model: Transformer, other: Transformer, prefix: str = "") -> bool:
    state = other.state_dict()
    return all(torch.equal(x, state[name]) for name, x in model.state_dict().items() if name.startswith(prefix))


def test_a_trained_model_that_lost_half_of_its_blocks_comes_back(tmp_path: Path) -> None:
    model, log = damaged(vit_mnist(), "drop-blocks", layers=[1, 2, 3]), Log()
    options = {"transfer_steps": 10, "steps": 30, "eval_every": 10, "batch_size": 16}
    result = healed(model, vit_mnist(), tmp_path, images=512, progress=log, **options)
    assert result.drift_after < 0.6 * result.drift_before
    for note in ("transfer", "distil"):
        losses = log.losses(note)
        assert np.mean(losses[-5:]) < np.mean(losses[:5])
    assert [done for done, *_ in log.reports] == list(range(1, 41))
    assert {total for _, total, *_ in log.reports} == {40}
    assert result.steps == 30
    assert not result.model.training


@torch.no_grad()
def test_drift_is_the_mean_divergence_on_the_held_out_images_and_mixtures_of_them(tmp_path: Path) -> None:
    original = tiny()
    model = damaged(original, "drop-mlp")
    result = healed(model, original, tmp_path)
    images = torch.cat([part["pixel_values"] for part in feed(32, skip=3).plain(10)])
    others = torch.cat([images[16:], images[:16]])
    shares = torch.tensor([(i * (5**0.5 - 1) / 2) % 1 for i in range(32)])[:, None, None, None]
    inputs = {"pixel_values": torch.cat([images, (1 - shares) * images + shares * others])}
    theirs_BC, mine_BC = (softmax(each(inputs).numpy(), axis=1) for each in (original, model))
    assert result.drift_before == pytest.approx(float(entropy(theirs_BC, mine_BC, axis=1).mean()), rel=1e-4)


def test_without_steps_nothing_changes(tmp_path: Path) -> None:
    original = tiny()
    model = damaged(original, "drop-mlp")
    result = healed(model, original, tmp_path)
    assert unchanged(result.model, model)
    assert (result.drift_after, result.steps) == (result.drift_before, 0)
    assert not list(tmp_path.iterdir())


def test_neither_the_model_nor_its_original_is_changed(tmp_path: Path) -> None:
    original = tiny()
    model = damaged(original, "drop-mlp", layers=[0])
    with torch.no_grad():
        model.head.output.weight.neg_()
    before = original.copy(), model.copy()
    result = healed(model, original, tmp_path, transfer_steps=2, steps=6, lr=1e-2)
    assert unchanged(original, before[0]) and unchanged(model, before[1])
    assert not unchanged(result.model, model)
    assert model.training == before[1].training
    assert all(parameter.requires_grad for parameter in original.parameters())


def test_transfer_trains_the_changed_blocks_alone(tmp_path: Path) -> None:
    original, log = tiny(layers=3), Log()
    model = damaged(original, "drop-mlp", layers=[1])
    result = healed(model, original, tmp_path, transfer_steps=20, transfer_lr=1e-2, progress=log)
    assert unchanged(result.model, model, "blocks.0.") and unchanged(result.model, model, "blocks.2.")
    assert unchanged(result.model, model, "embed.") and unchanged(result.model, model, "head.")
    assert not unchanged(result.model, model, "blocks.1.")
    losses = log.losses("transfer")
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_layers_of_a_span_are_trained_from_each_other_s_outputs(tmp_path: Path) -> None:
    assert transfer_runs([0, 1, 4, 5, 7], 1) == [range(0, 1), range(1, 2), range(4, 5), range(5, 6), range(7, 8)]
    assert transfer_runs([0, 2, 4, 5], 3) == [range(0, 3), range(4, 6)]
    original = tiny(layers=3)
    model = damaged(original, "drop-mlp", layers=[0, 2])
    alone, joint = (
        healed(model, original, tmp_path / str(span), transfer_steps=30, transfer_span=span, transfer_lr=1e-2)
        for span in (1, 3)
    )
    assert unchanged(joint.model, model, "blocks.1.") and not unchanged(joint.model, alone.model, "blocks.2.")
    assert joint.drift_after < joint.drift_before


def test_transfer_has_nothing_to_do_where_no_block_changed(tmp_path: Path) -> None:
    original, log = tiny(), Log()
    result = healed(original, original, tmp_path, transfer_steps=5, progress=log)
    assert unchanged(result.model, original)
    assert log.reports == []
    assert result.drift_before == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("use", "options"),
    [
        ("trim-last-block", {}),
        ("drop-blocks", {"layers": [1]}),
        ("low-rank-heads", {"rank": 2, "value_rank": 2}),
        ("drop-value", {"anneal": True}),
        ("affine-mlp", {"layers": [0]}),
    ],
)
def test_whatever_was_rewritten_can_be_healed(tmp_path: Path, use: str, options: dict[str, Any]) -> None:
    original, log = tiny(layers=3), Log()
    model = damaged(original, use, **options)
    result = healed(model, original, tmp_path, transfer_steps=5, steps=20, eval_every=5, lr=3e-3, progress=log)
    assert len(log.losses("transfer")) == 5
    assert result.drift_after <= result.drift_before


def test_blocks_that_share_weights_are_healed_together(tmp_path: Path) -> None:
    model, original = tiny(layers=1, loops=3), tiny(layers=3)
    schedule = original.structure.schedule
    assert [step.origin for step in model.structure.schedule] == [step.origin for step in schedule]
    result = healed(model, original, tmp_path, transfer_steps=10, steps=20, eval_every=5, lr=3e-3)
    assert result.drift_after < result.drift_before
    assert result.model.num_parameters() == model.num_parameters()


def test_healing_stops_early_when_drift_no_longer_falls(tmp_path: Path) -> None:
    original, log = tiny(), Log()
    model = damaged(original, "drop-mlp")
    # At a rate this low no weight moves, so only the first evaluation is a best one.
    result = healed(model, original, tmp_path, steps=50, lr=1e-30, eval_every=2, patience=3, progress=log)
    assert result.steps == 2 * (1 + 3)
    assert len(log.reports) == 3 * 8  # it begins again at two lower rates
    assert result.drift_after == pytest.approx(result.drift_before)
    assert unchanged(result.model, model)


def test_where_no_step_helps_healing_begins_again_at_a_fifth_of_the_rate(tmp_path: Path) -> None:
    original, said, log = tiny(), list[str](), Log()
    model = damaged(original, "drop-mlp")
    options = {"steps": 10, "eval_every": 5, "hidden": 0.0}
    result = healed(model, original, tmp_path / "high", lr=0.1, log=said.append, progress=log, **options)
    assert said == ["no step came closer to the original at the rate 1.0e-01; again at 2.0e-02"]
    assert [done for done, *_ in log.reports] == list(range(1, 21))
    right = healed(model, original, tmp_path / "right", lr=0.1 * 0.2, log=said.append, **options)
    assert result.drift_after == right.drift_after < result.drift_before
    assert unchanged(result.model, right.model)


def test_the_best_state_wins_not_the_last(tmp_path: Path) -> None:
    original, log = tiny(), Log()
    model = damaged(original, "drop-mlp", layers=[1])
    # A rate this high does harm: the best evaluation is not the last.
    options = {"steps": 12, "eval_every": 1, "lr": 0.2, "patience": 12, "kl": 1.0, "hidden": 0.0}
    result = healed(model, original, tmp_path, progress=log, **options)
    bests = [numbers["drift"] for *_, numbers in log.reports if "drift" in numbers]
    assert result.drift_after <= min(bests)
    assert len(set(bests)) < len(bests)
    assert result.steps == 12


def test_healing_that_does_harm_is_taken_back(tmp_path: Path) -> None:
    original = tiny()
    model = damaged(original, "trim-last-block")  # nothing to heal: any step leads away
    result = healed(model, original, tmp_path, transfer_steps=3, steps=3, lr=1e-2)
    assert result.drift_after == result.drift_before
    assert unchanged(result.model, model)


def test_an_annealed_rewrite_ends_without_the_old_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = tiny()
    model = damaged(original, "drop-projection", layers=[1], anneal=True)
    at_once = damaged(original, "drop-projection", layers=[1])
    shares: list[float] = []
    module = importlib.import_module("compress.heal.heal")
    set_share = module.set_share

    def spied(model: Transformer, share: float) -> None:
        shares.append(share)
        set_share(model, share)

    monkeypatch.setattr(module, "set_share", spied)
    result = healed(model, original, tmp_path, steps=8, anneal=0.5, eval_every=2)
    assert result.model.structure == at_once.structure
    assert result.model.state_dict().keys() == at_once.state_dict().keys()
    assert result.drift_before == healed(at_once, original, tmp_path / "at once").drift_before
    # Drift is that of the new part alone; in between it fades in over the first half of the steps, and four steps and
    # three evaluations follow.
    assert shares[:13] == [1.0, 1.0, 0.0, 0.25, 0.5, 0.75] + 7 * [1.0]
    mixer = result.model.structure.blocks[1].mixer
    assert getattr(mixer, "values") == GatedMeanSpec(projection=False)  # noqa: B009


@pytest.mark.parametrize(("options", "line"), [
    ({"steps": 20, "lr": 1e12}, "healing diverged at step"),
    ({"steps": 20, "lr": 1e12, "eval_every": 1}, "healing diverged"),
    ({"steps": 1, "lr": 1e30}, "healing diverged: the model's answers are not finite"),
    ({"transfer_steps": 20, "transfer_lr": 1e18}, "healing diverged"),
])  # fmt: skip
def test_healing_that_diverges_ends_in_one_line(tmp_path: Path, options: dict[str, Any], line: str) -> None:
    original = tiny()
    with pytest.raises(InputError) as caught:
        healed(damaged(original, "drop-mlp"), original, tmp_path, **options)
    assert line in str(caught.value)
    assert "lower heal.lr" in str(caught.value)
    assert "\n" not in str(caught.value)


def first(x_BND: torch.Tensor) -> Tokens:
    """What is left where only the first tokens leave a block."""
    return Tokens(x_BND, Context().reduced(First(x_BND.shape[1])))


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_divergence_is_that_of_scipy_times_the_squared_temperature(temperature: float) -> None:
    logits_BC, target_BC = 3 * random(6, 4), 3 * random(6, 4, seed=1)
    p_BC, q_BC = (softmax(x.double().numpy() / temperature, axis=1) for x in (logits_BC, target_BC))
    expected = temperature**2 * entropy(q_BC, p_BC, axis=1).mean()
    assert kl_divergence(logits_BC, target_BC, temperature).item() == pytest.approx(float(expected), rel=1e-5)


def test_relative_error_is_over_the_variance_of_the_target_on_the_tokens_that_stayed() -> None:
    x_BND, target_BND = random(2, 3, 4), 5 + 2 * random(2, 7, 4, seed=1)
    kept = target_BND[:, :3].double().numpy()
    expected = ((x_BND.numpy() - kept) ** 2).mean() / kept.var(ddof=1)
    assert relative_error(first(x_BND), Tokens(target_BND, Context())).item() == pytest.approx(expected, rel=1e-5)


def test_relative_error_does_not_see_masked_tokens() -> None:
    x_BND, target_BND = random(2, 5, 4), 5 + 2 * random(2, 5, 4, seed=1)
    mask_BN = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    kept = mask_BN.bool()
    real = Tokens(x_BND[kept][None], Context()), Tokens(target_BND[kept][None], Context())
    expected = relative_error(*real).item()
    target_BND[0, 3:] = 1e6
    assert relative_error(
        Tokens(x_BND, Context(mask_BN)), Tokens(target_BND, Context(mask_BN))
    ).item() == pytest.approx(expected, rel=1e-5)


def test_the_loss_is_the_weighted_sum_that_the_options_state() -> None:
    answer = random(6, 4), [Tokens(random(6, 3, 5), Context()), first(random(6, 1, 5, seed=2))]
    target = random(6, 4, seed=3), [Tokens(random(6, 3, 5, seed=seed), Context()) for seed in (4, 5)]
    shares_BC = softmax(random(6, 4, seed=6).double().numpy(), axis=1)
    options = HealOptions(kl=0.7, hidden=0.3, task=0.2, temperature=3.0)
    hidden = np.mean([relative_error(mine, theirs).item() for mine, theirs in zip(answer[1], target[1], strict=True)])
    task = -(shares_BC * log_softmax(answer[0].double().numpy(), axis=1)).sum(axis=1).mean()
    expected = 0.7 * kl_divergence(answer[0], target[0], 3.0).item() + 0.3 * hidden + 0.2 * task
    loss = distillation_loss(CLASSIFICATION, options, answer, target, {}, torch.from_numpy(shares_BC).float())
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_changed_steps_are_those_built_otherwise_and_those_before_a_gap() -> None:
    original = tiny(layers=4)

    def changed(model: Transformer) -> list[int]:
        return changed_steps(model, original, output_targets(model.structure, original.structure))

    assert changed(original) == []
    assert changed(damaged(original, "drop-mlp", layers=[1, 3])) == [1, 3]
    assert changed(damaged(original, "drop-blocks", layers=[2])) == [1]
    assert changed(damaged(original, "drop-blocks", layers=[0])) == []
    assert changed(damaged(damaged(original, "drop-blocks", layers=[1]), "trim-last-block")) == [0, 2]


@pytest.mark.parametrize("steps", [1, 2, 7, 100, 1000])
def test_the_rate_warms_up_and_falls_along_a_cosine(steps: int) -> None:
    rates = [_rate(step, steps) for step in range(steps)]
    warmup = max(1, round(0.05 * steps))
    assert max(rates) == 1.0
    assert rates[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    falling = rates[warmup:]
    assert falling == sorted(falling, reverse=True)
    assert steps < 100 or falling[-1] < 1e-3
    assert all(rate > 0 for rate in rates)


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"step": 3}, "unknown key 'step'; did you mean 'steps'?"),
        ({"steps": -1}, "greater than or equal to 0"),
        ({"lr": 0}, "greater than 0"),
        ({"anneal": 1.5}, "less than or equal to 1"),
        ({"batch_size": 0}, "greater than 0"),
    ],
)
def test_options_are_read_strictly(given: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        HealOptions.model_validate(given)
