"""One step of training, eagerly or as a captured CUDA graph: loss, backward pass, clipping, AdamW, moving average."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

CLIP = 1.0
#: Steps before a capture, in which kernels are compiled and chosen.
WARMUP = 3


class Drawn(NamedTuple):
    """What a step takes from the host: small tensors, and which of several losses it is about."""

    tensors: Mapping[str, Tensor]
    variant: int = 0


Loss = Callable[[Drawn], Tensor]


class Training:
    """The state of a training run. `update(drawn, rate)` makes one step that lowers `loss`.

    With `capture`, on one CUDA device, each combination of shapes and variant is captured once and then replayed:
    small models are bound by the launches of their kernels. `loss` must then be free of synchronization, and whatever
    changes between steps has to come through `drawn` or be a tensor that is changed in place.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        loss: Loss,
        *,
        weight_decay: float = 0.0,
        average: float = 0.0,
        capture: bool = False,
    ) -> None:
        """`weight_decay` shrinks matrices alone, not gains and biases. `average`: decay of the moving average of the
        weights; 0 keeps none."""
        self.parameters: list[Tensor] = list(parameters)
        self.loss = loss
        device = self.parameters[0].device
        flat = [parameter for parameter in self.parameters if parameter.ndim < 2]
        matrices = [parameter for parameter in self.parameters if parameter.ndim >= 2]
        decays = ((matrices, weight_decay), (flat, 0.0)) if weight_decay else ((self.parameters, 0.0),)
        self.optimizer = torch.optim.AdamW(
            [{"params": part, "weight_decay": decay} for part, decay in decays if part],
            lr=torch.zeros((), device=device) if capture else 0.0,
            betas=(0.9, 0.95),
            fused=device.type == "cuda",  # one kernel in place of one a tensor
            capturable=capture,
        )
        self._decay = average
        self._average = [parameter.detach().clone() for parameter in self.parameters] if average else []
        self._share = torch.zeros((), device=device)  # of the new weights in the moving average
        self._graphs: dict[Any, _Graph] | None = {} if capture else None

    def update(self, drawn: Drawn, rate: float, step: int) -> Tensor:
        """The loss before the step, a number on the device. `step` counts from 0."""
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if self._decay:  # short at the beginning, so that the first weights do not stay in it for long
            self._share.fill_(1 - min(self._decay, (1 + step) / (10 + step)))
        if self._graphs is None:
            return self._step(self._on_device(drawn))
        key = drawn.variant, *((name, tensor.shape) for name, tensor in sorted(drawn.tensors.items()))
        if key not in self._graphs:
            self._graphs[key] = self._captured(drawn)
        return self._graphs[key].replay(drawn)

    def state(self) -> dict[str, Any]:
        """What `restore` takes."""
        return {"optimizer": self.optimizer.state_dict()["state"], "average": self._average}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a state, before the first step."""
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state["optimizer"], "param_groups": groups})
        _copy(self._average, state["average"])

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """The parameters are their moving average, if there is one."""
        if not self._average:
            yield
            return
        raw = [parameter.detach().clone() for parameter in self.parameters]
        _copy(self.parameters, self._average)
        try:
            yield
        finally:
            _copy(self.parameters, raw)

    def _on_device(self, drawn: Drawn) -> Drawn:
        device = self.parameters[0].device
        return drawn._replace(tensors={name: tensor.to(device) for name, tensor in drawn.tensors.items()})

    def _step(self, drawn: Drawn) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.loss(drawn)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.parameters, CLIP)
        self.optimizer.step()
        if self._average:
            with torch.no_grad():
                change = torch._foreach_sub(self.parameters, self._average)
                torch._foreach_mul_(change, self._share)
                torch._foreach_add_(self._average, change)
        return loss.detach()

    def _captured(self, drawn: Drawn) -> _Graph:
        """Warm up and capture; both change the weights, which are then put back."""
        assert self._graphs is not None
        inputs = self._on_device(drawn)
        before = {name: tensor.detach().clone() for name, tensor in self._changing().items()}
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARMUP):
                self._step(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        pool = next((known.graph.pool() for known in self._graphs.values()), None)
        with torch.cuda.graph(graph, pool=pool):
            loss = self._step(inputs)
        with torch.no_grad():
            for name, tensor in self._changing().items():
                # The first step makes the optimizer's state, which begins with zeros.
                tensor.copy_(before[name]) if name in before else tensor.zero_()
        return _Graph(graph, inputs.tensors, loss)

    def _changing(self) -> dict[Any, Tensor]:
        """All that a step changes."""
        state = self.optimizer.state
        moments = {
            (place, name): value
            for place, parameter in enumerate(self.parameters)
            for name, value in state.get(parameter, {}).items()
        }
        return {**dict(enumerate([*self.parameters, *self._average])), **moments}


class _Graph(NamedTuple):
    graph: torch.cuda.CUDAGraph
    inputs: Mapping[str, Tensor]
    loss: Tensor

    def replay(self, drawn: Drawn) -> Tensor:
        for name, tensor in drawn.tensors.items():
            self.inputs[name].copy_(tensor.pin_memory(), non_blocking=True)
        self.graph.replay()
        return self.loss


@torch.no_grad()
def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    for target, source in zip(targets, sources, strict=True):
        target.copy_(source)
