"""Closed-form fits of one shared block to several layers: its weights, and what each loop has of its own.

I inputs and O outputs of a map, R rank. Weights here are I x O (y = u W + b), in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compress.model.block import Block, Site
from compress.model.norms import Norm
from compress.model.per_loop import LevelSignal, OutputGain
from compress.model.projection import Projection
from compress.model.sequence import Tokens
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration, Moments, truncated

#: Gains stay within these bounds of what they were.
GAIN_BOUNDS = (0.1, 10.0)


@dataclass(frozen=True)
class LayerMap:
    """One linear map of a layer and the moments of its input u: E[u], and of u the covariance, or E[u u^T] for a map
    without a bias, which cannot make up for a shifted mean."""

    weight_IO: Tensor
    bias_O: Tensor | None
    mean_I: Tensor
    moment_II: Tensor


#: The maps of a layer by their names in its block.
LayerMaps = Mapping[str, LayerMap]


def projections(block: nn.Module) -> Iterator[tuple[str, Projection]]:
    """All projections of a block or half a block, with their names."""
    return ((name, module) for name, module in block.named_modules() if isinstance(module, Projection))


def layer_maps(model: Transformer, calibration: Calibration, blocks: Sequence[int]) -> dict[int, LayerMaps]:
    """The maps of these blocks, with moments over what they see in one pass over the calibration inputs."""
    moments = {(block, name): Moments() for block in blocks for name, _ in projections(model.block(block))}
    model = model.copy()  # hooks are put on a copy

    given: list[Tokens] = []  # what the half that is running sees; of a block's mixer only the first may be asked

    def observe(step: int, site: Site, tokens: Tokens) -> None:
        if site in ("mixer.in", "ffn.in"):
            given[:] = [tokens]

    def watch(key: tuple[int, str], module: Projection) -> None:
        def add(_: nn.Module, seen: tuple[Tensor, ...]) -> None:
            real_BN = _real(seen[0], given[0])
            moments[key].add(seen[0], seen[0][..., :1], real_BN)

        module.register_forward_pre_hook(add)

    for block in blocks:
        for name, module in projections(model.block(block)):
            watch((block, name), module)
    for inputs in calibration.batches():
        model(inputs, observe)
    return {
        block: {name: _layer_map(module, moments[block, name]) for name, module in projections(model.block(block))}
        for block in blocks
    }


def _real(x_BNI: Tensor, given: Tokens) -> Tensor | None:
    """True at the real tokens of what a map of the half reads: a source's, or the first of the half's own."""
    memory = given.context.memory
    if memory is not None and memory.x_BSD is x_BNI:
        return None if memory.mask_BS is None else memory.mask_BS.bool()
    return None if given.real_BN is None else given.real_BN[:, : x_BNI.shape[1]]


def _layer_map(module: Projection, moments: Moments) -> LayerMap:
    bias_O = module.bias[0].double() if len(module.bias) else None
    moment_II = moments.second_II if bias_O is None else moments.covariance_II
    return LayerMap(module.weight.double().T, bias_O, moments.mean_x_I, moment_II)


def shared_weight(maps: Sequence[LayerMap]) -> Tensor:
    """W* = (sum C_l)^-1 sum C_l W_l (I,O), which minimizes sum_l E|u_l (W* - W_l)|^2; ridge 1e-6."""
    total_II = torch.stack([one.moment_II for one in maps]).sum(0)
    target_IO = torch.stack([one.moment_II @ one.weight_IO for one in maps]).sum(0)
    # The ridge draws towards the mean, so that directions which no layer uses stay those of the mean.
    ridge = 1e-6 * total_II.diagonal().mean()
    mean_IO = torch.stack([one.weight_IO for one in maps]).mean(0)
    return torch.linalg.solve(total_II + ridge * torch.eye(len(total_II)).to(total_II), target_IO + ridge * mean_IO)


def fit_loop(block: Block, loop: int, maps: LayerMaps) -> float:
    """Fit what this loop of the block has of its own to the maps of a layer, in place: gains, signals, deltas, biases.

    The shared weights must be there already. Returns the fraction of the variance of the maps' outputs that is lost,
    the mean over the maps.
    """
    losses: list[float] = []
    for half, module in (("mixer", block.mixer), ("ffn", block.ffn)):
        if module is None:
            continue
        own = {name: one for name, one in maps.items() if name.startswith(f"{half}.")}
        losses += _fit_half(block, half, module, loop, own)  # type: ignore[arg-type]
    return sum(losses) / len(losses) if losses else 0.0


def _fit_half(
    block: Block, half: Literal["mixer", "ffn"], module: nn.Module, loop: int, maps: LayerMaps
) -> list[float]:
    norm: Norm | None = block.mixer_norm if half == "mixer" else block.ffn_norm
    gain: OutputGain | None = block.mixer_gain if half == "mixer" else block.ffn_gain
    signal: LevelSignal | None = block.ffn_signal if half == "ffn" else None
    named = {f"{half}.{name}": one for name, one in projections(module)}
    reading = {id(one) for one in (module.readers() or [])}  # type: ignore[operator]
    readers = {name: one for name, one in named.items() if id(one) in reading}
    writers = [name for name in named if name not in readers]
    change_II: Tensor | None = None  # what is put in front of the readers: u becomes u T
    if gain is not None and norm is not None and readers:
        scale_I = _input_gain([(maps[name], _weight(one)) for name, one in readers.items()])
        norm.weight[loop].mul_(scale_I)
        if len(norm.bias):
            norm.bias[loop].mul_(scale_I)
        change_II = torch.diag(scale_I)
    if signal is not None and readers:
        seen = [_seen_through(maps[name], change_II) for name in readers]
        signal_II = _set_signal(signal, loop, seen, [_weight(one) for one in readers.values()])
        change_II = signal_II if change_II is None else change_II @ signal_II
    output_O: Tensor | None = None  # what comes behind the only writer
    if gain is not None and len(writers) == 1:
        output_O = _output_gain(maps[writers[0]], _weight(named[writers[0]]))
        gain.value[loop].copy_(output_O)
    return [
        _fit_map(one, loop, maps[name], change_II if name in readers else None, None if name in readers else output_O)
        for name, one in named.items()
    ]


def _weight(projection: Projection) -> Tensor:
    return projection.weight.double().T


def _seen_through(layer: LayerMap, change_II: Tensor | None) -> LayerMap:
    """The same map in terms of u T: T^-1 W, with the moments of u T."""
    if change_II is None:
        return layer
    return LayerMap(
        weight_IO=torch.linalg.solve(change_II, layer.weight_IO),
        bias_O=layer.bias_O,
        mean_I=layer.mean_I @ change_II,
        moment_II=change_II.T @ layer.moment_II @ change_II,
    )


def _fit_map(
    projection: Projection, loop: int, layer: LayerMap, change_II: Tensor | None, output_O: Tensor | None
) -> float:
    """Delta and bias of one map; returns the fraction of its output's variance that is lost."""
    wanted = _seen_through(layer, change_II)
    scale_O: Tensor | float = 1.0 if output_O is None else output_O
    rest_IO = wanted.weight_IO / scale_O - _weight(projection)
    if len(projection.delta_down):
        down_IR, up_RO = truncated(wanted.moment_II, rest_IO, projection.delta_down[loop].shape[0])
        projection.delta_down[loop].copy_(down_IR.T)
        projection.delta_up[loop].copy_(up_RO.T)
        rest_IO = rest_IO - down_IR @ up_RO
    if wanted.bias_O is not None:
        projection.bias[loop].copy_(wanted.bias_O / scale_O + wanted.mean_I @ rest_IO)
    lost = _energy(wanted.moment_II, rest_IO * scale_O)
    return float(lost / _energy(wanted.moment_II, wanted.weight_IO).clamp(min=1e-30))


def _energy(moment_II: Tensor, weight_IO: Tensor) -> Tensor:
    """E|u W|^2."""
    return ((moment_II @ weight_IO) * weight_IO).sum()


def _input_gain(pairs: Sequence[tuple[LayerMap, Tensor]]) -> Tensor:
    """t (I,) with the least sum over the maps of E|u diag(t) W* - u W|^2 / E|u W|^2; ridge 1e-6 towards one."""
    size = len(pairs[0][0].mean_I)
    gram_II = pairs[0][0].moment_II.new_zeros(size, size)
    cross_I = gram_II.new_zeros(size)
    for layer, shared_IO in pairs:
        energy = _energy(layer.moment_II, layer.weight_IO).clamp(min=1e-30)
        gram_II += layer.moment_II * (shared_IO @ shared_IO.T) / energy
        cross_I += ((layer.moment_II @ layer.weight_IO) * shared_IO).sum(1) / energy
    ridge = 1e-6 * gram_II.diagonal().mean()
    return torch.linalg.solve(gram_II + ridge * torch.eye(size).to(gram_II), cross_I + ridge).clamp(*GAIN_BOUNDS)


def _output_gain(layer: LayerMap, shared_IO: Tensor) -> Tensor:
    """a (O,) with the least E|(u W*) a - u W|^2."""
    seen_IO = layer.moment_II @ shared_IO
    cross_O, gram_O = (seen_IO * layer.weight_IO).sum(0), (seen_IO * shared_IO).sum(0)
    return (cross_O / gram_O.clamp(min=1e-30)).clamp(*GAIN_BOUNDS)


def _set_signal(signal: LevelSignal, loop: int, layers: Sequence[LayerMap], shared: Sequence[Tensor]) -> Tensor:
    """Set M of x + x M to the least E|u (I + M) W* - u W|^2, all maps that read it side by side; returns I + M.

    With W* = U s V^T, that is M = C^-1/2 X diag(1/s) U^T, X the truncated SVD of C^1/2 (W - W*) V.
    """
    shared_IO = torch.cat(list(shared), dim=1)
    rest_IO = torch.cat([layer.weight_IO for layer in layers], dim=1) - shared_IO
    u, s, vh = torch.linalg.svd(shared_IO, full_matrices=False)
    kept = s > 1e-6 * s[0]
    down_IR, up_RI = truncated(layers[0].moment_II, rest_IO @ vh[kept].T, signal.down[loop].shape[0])
    up_RI = (up_RI / s[kept]) @ u[:, kept].T
    signal.down[loop].copy_(down_IR.T)
    signal.up[loop].copy_(up_RI.T)
    return torch.eye(len(u)).to(u) + down_IR @ up_RI
