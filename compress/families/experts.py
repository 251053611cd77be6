"""Feed-forwards that are mixtures of experts, as Mixtral, Qwen3-MoE and OLMoE keep them.

E experts, D hidden size, F size of an expert.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.model.activations import ActivationName
from compress.model.ffns.experts import ExpertsSpec

#: Where a layer has its experts, and what it calls their maps: gate, up, down.
_NAMES = {"mlp": ("gate_proj", "up_proj", "down_proj"), "block_sparse_moe": ("w1", "w3", "w2")}
#: Options that the weights show, and what only training reads.
_SHOWN = ("num_experts", "num_local_experts", "moe_intermediate_size", "decoder_sparse_step", "mlp_only_layers")
_TRAINING = ("router_jitter_noise",)


def expert_maps(checkpoint: Checkpoint, layer: str) -> dict[str, tuple[Tensor, None]] | None:
    """The router of a layer, and the maps of its experts side by side; None for a layer without experts. Each expert
    may be stored on its own, or all in one tensor, gate and up together. Raises InputError."""
    place = next((place for place in _NAMES if f"{layer}{place}.gate.weight" in checkpoint), None)
    if place is None:
        return None
    router_ED, source = checkpoint.matrix(f"{layer}{place}.gate.weight"), f"{layer}{place}.experts."
    if f"{source}gate_up_proj" in checkpoint:
        gate_EFD, up_EFD = checkpoint.tensor(f"{source}gate_up_proj").chunk(2, dim=1)
        down_EDF = checkpoint.tensor(f"{source}down_proj")
    else:
        gate_EFD, up_EFD, down_EDF = (
            torch.stack([checkpoint.matrix(f"{source}{index}.{name}.weight") for index in range(len(router_ED))])
            for name in _NAMES[place]
        )
    return {
        "router": (router_ED, None),
        "gate": (gate_EFD.flatten(0, 1), None),
        "up": (up_EFD.flatten(0, 1), None),
        "down": (down_EDF.transpose(0, 1).flatten(1), None),
    }


def experts_spec(
    checkpoint: Checkpoint, state: Mapping[str, Tensor], name: str, activation: ActivationName, *, normed: bool
) -> ExpertsSpec:
    """The experts whose weights stand in `state` under `name`. `normed`: whether the shares of those that are chosen
    sum to 1 whatever the config says."""
    for option in (*_SHOWN, *_TRAINING):
        checkpoint.config.get(option)
    count = len(state[f"{name}.router.weight"])
    return ExpertsSpec(
        count=count,
        chosen=checkpoint.integer("num_experts_per_tok"),
        intermediate_size=len(state[f"{name}.gate.weight"]) // count,
        activation=activation,
        normed=checkpoint.flag("norm_topk_prob", False) or normed,
    )
