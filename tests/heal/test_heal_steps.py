"""One step of training: what AdamW and the moving average do, restored as it was, and the same when captured."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.heal.training import Drawn, Training

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="a CUDA graph needs a CUDA device")


def run(
    steps: int, device: str = "cpu", state: dict[str, Any] | None = None, first: int = 0, **options: Any
) -> tuple[Training, list[Tensor]]:
    """A linear map that learns another one, from batches of two sizes and with two losses in turn."""
    draw = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(3, 4, generator=draw).to(device))
    bias = nn.Parameter(torch.ones(3, device=device))
    gain = nn.Parameter(torch.ones(3, device=device))
    true = torch.randn(3, 4, generator=draw).to(device)

    def loss(drawn: Drawn) -> Tensor:
        x = drawn.tensors["x"]
        y = nn.functional.linear(x, weight, bias) * (gain if drawn.variant else 1.0)
        return (y - x @ true.T).square().mean()

    training = Training([weight, bias, gain], loss, **options)
    if state is not None:
        with torch.no_grad():
            for parameter, saved in zip(training.parameters, state["parameters"], strict=True):
                parameter.copy_(saved)
        training.restore(state["training"])
    for step in range(first, steps):
        x = torch.randn(4 + step % 2, 4, generator=torch.Generator().manual_seed(step))
        training.update(Drawn({"x": x}, step // 2 % 2), 0.1 / (1 + step), step)
    return training, [parameter.detach().clone() for parameter in training.parameters]


def test_weight_decay_shrinks_matrices_alone() -> None:
    _, (weight, bias, gain) = run(1)
    _, (shrunk, same_bias, same_gain) = run(1, weight_decay=0.5)
    start = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(weight - shrunk, 0.1 * 0.5 * start)
    assert torch.equal(bias, same_bias)
    assert torch.equal(gain, same_gain)


def test_the_average_is_that_of_the_weights_after_each_step() -> None:
    start = [parameter for _, parameters in [run(0)] for parameter in parameters]
    expected = start
    for step in range(12):
        decay = min(0.6, (1 + step) / (10 + step))
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, run(step + 1)[1], strict=True)]
    training, raw = run(12, average=0.6)
    with training.averaged():
        torch.testing.assert_close([parameter.detach() for parameter in training.parameters], expected)
    torch.testing.assert_close([parameter.detach() for parameter in training.parameters], raw)
    torch.testing.assert_close(raw, run(12)[1])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=needs_cuda)])
@pytest.mark.parametrize("at", [1, 2, 5])
def test_a_restored_training_goes_on_bit_for_bit(device: str, at: int) -> None:
    options: dict[str, Any] = {"average": 0.9, "weight_decay": 0.05, "capture": device == "cuda"}
    whole, expected = run(8, device, **options)
    stopped, parameters = run(at, device, **options)
    state = {"training": stopped.state(), "parameters": parameters}
    resumed, result = run(8, device, state=state, first=at, **options)
    assert all(torch.equal(one, other) for one, other in zip(result, expected, strict=True))
    with whole.averaged(), resumed.averaged():
        assert all(map(torch.equal, whole.parameters, resumed.parameters))


@needs_cuda
def test_captured_steps_are_the_steps_that_run_one_by_one() -> None:
    options = {"average": 0.9, "weight_decay": 0.05}
    _, expected = run(12, "cuda", **options)
    _, captured = run(12, "cuda", capture=True, **options)
    torch.testing.assert_close(captured, expected)
