"""Helpers that rewrites share: rebuild a model with other blocks, and look at attention heads as matrices.

D hidden size, H heads, K query/key size, V value size.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Literal, get_args

import torch
from torch import Tensor

from compress.model.block import Block, BlockSpec
from compress.model.mixers.softmax_attention import SoftmaxAttention, SoftmaxAttentionSpec
from compress.model.per_loop import PerLoopSpec
from compress.model.scores.merged import MergedScores
from compress.model.scores.projected import ProjectedScores, ProjectedScoresSpec
from compress.model.scores.symmetric import SymmetricScores
from compress.model.structure import Structure
from compress.model.transformer import Transformer
from compress.model.values.projected import ProjectedValues, ProjectedValuesSpec
from targets.errors import InputError


def rebuilt(model: Transformer, structure: Structure, block_origins: Mapping[int, int] | None = None) -> Transformer:
    """A new model of this structure with the old weights wherever name and shape agree, and NaN everywhere else, so
    that a weight that the rewrite forgets to set cannot go unseen. `block_origins`: new block -> old block."""
    result = Transformer(structure)
    device = next(model.parameters()).device
    old, new = model.state_dict(), {}
    for name, tensor in result.state_dict().items():
        source = old.get(_old_name(name, block_origins))
        matches = source is not None and source.shape == tensor.shape
        missing = torch.full_like(tensor, torch.nan if tensor.is_floating_point() else -1)
        new[name] = source.clone() if matches and source is not None else missing
    result.load_state_dict(new, assign=True)
    return result.to(device).eval()


def _old_name(name: str, block_origins: Mapping[int, int] | None) -> str:
    if block_origins is None or not name.startswith("blocks."):
        return name
    _, index, rest = name.split(".", 2)
    return f"blocks.{block_origins[int(index)]}.{rest}"


def with_blocks(model: Transformer, change: Callable[[BlockSpec], BlockSpec], blocks: list[int]) -> Transformer:
    """The model with the specs of these blocks changed; see `rebuilt` for its weights."""
    specs = list(model.structure.blocks)
    for index in blocks:
        specs[index] = change(specs[index])
    return rebuilt(model, model.structure.replace(blocks=tuple(specs)))


def grown(model: Transformer, change: Callable[[BlockSpec], BlockSpec], blocks: list[int]) -> Transformer:
    """The model with parts added to these blocks that start so that they change nothing, from a fixed seed."""
    specs = list(model.structure.blocks)
    for index in blocks:
        specs[index] = change(specs[index])
    device = next(model.parameters()).device
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        result = Transformer(model.structure.replace(blocks=tuple(specs)))
    result.load_state_dict({**result.state_dict(), **model.state_dict()})
    return result.to(device).eval()


#: What attention may have beside scores and values: a window, a bias for where tokens stand, a bias that reads queries
#: and keys too, capped logits, normed queries and keys (of each head, of all heads together).
Special = Literal["window", "bias", "content-bias", "cap", "norm", "whole-norm"]
EVERY: frozenset[Special] = frozenset(get_args(Special))
_WORDS: dict[Special, str] = {
    "window": "sees a window of the tokens",
    "bias": "adds a bias for where tokens stand",
    "content-bias": "adds a bias for where tokens stand that reads queries and keys",
    "cap": "caps its logits",
    "norm": "norms its queries and keys",
    "whole-norm": "norms its queries and keys over all heads",
}


def specials(mixer: SoftmaxAttentionSpec) -> list[Special]:
    """What this attention has beside scores and values."""
    norm = mixer.scores.norm if isinstance(mixer.scores, ProjectedScoresSpec) else None
    whole = isinstance(mixer.scores, ProjectedScoresSpec) and mixer.scores.whole
    has: dict[Special, bool] = {
        "window": mixer.window is not None,
        "bias": mixer.bias is not None and not mixer.bias.reads_content,
        "content-bias": mixer.bias is not None and mixer.bias.reads_content,
        "cap": mixer.cap is not None,
        "norm": norm is not None and not whole,
        "whole-norm": norm is not None and whole,
    }
    return [special for special, there in has.items() if there]


def attention_spec(spec: BlockSpec, rewrite: str, allows: Collection[Special] = ()) -> SoftmaxAttentionSpec:
    """The block's mixer spec if it is softmax attention with nothing special but what the rewrite `allows`. Raises
    InputError that says why the rewrite is refused."""
    if not isinstance(spec.mixer, SoftmaxAttentionSpec):
        kind = "no mixer" if spec.mixer is None else f"a {spec.mixer.kind!r} mixer"
        raise InputError(f"{rewrite} is refused: it works on softmax attention, and a chosen layer has {kind}")
    for special in specials(spec.mixer):
        if special not in allows:
            raise InputError(f"{rewrite} is refused for a layer whose attention {_WORDS[special]}")
    return spec.mixer


def attention(block: Block) -> SoftmaxAttention:
    """The block's mixer, known to be softmax attention from its spec."""
    assert isinstance(block.mixer, SoftmaxAttention)
    return block.mixer


def values_spec(spec: BlockSpec, rewrite: str, allows: Collection[Special] = ()) -> ProjectedValuesSpec:
    """The block's spec of projected values. Raises InputError that says why the rewrite is refused."""
    values = attention_spec(spec, rewrite, allows).values
    if not isinstance(values, ProjectedValuesSpec):
        raise InputError(f"{rewrite} is refused: it works on projected values, and a chosen layer has {values.kind!r}")
    return values


def refuse_positions(mixer: SoftmaxAttentionSpec, rewrite: str) -> None:
    """Raises InputError if queries and keys turn with their positions, so that no fixed matrix stands for them."""
    if isinstance(mixer.scores, ProjectedScoresSpec) and mixer.scores.rope is not None:
        raise InputError(
            f"{rewrite} is refused under rotary positions: between query and key stands a rotation by their "
            f"distance, so Wq Wk^T is not a single matrix"
        )


def single_loop(spec: BlockSpec, rewrite: str) -> None:
    """Raises InputError for a block that several loops share, or that has what tells loops apart: no single weight
    stands for it."""
    if spec.loops > 1:
        raise InputError(f"{rewrite} is refused for a block that is looped {spec.loops} times; apply it before tying")
    if spec.per_loop != PerLoopSpec():
        raise InputError(f"{rewrite} is refused for a block with deltas, signals or timestep gains")


def query_key_HKD(module: SoftmaxAttention) -> tuple[Tensor, Tensor, Tensor]:
    """Per head, in float64: query map (H,K,D) with the scale in it, key map (H,K,D), query bias (H,K) scaled too.

    The key bias is left out: it moves each row of logits by a constant, which softmax removes.
    """
    scores = module.scores
    assert isinstance(scores, ProjectedScores)
    spec = scores.spec
    shape = (spec.num_heads, spec.head_dim)
    query_HKD = scores.query.weight.double().reshape(*shape, -1) * spec.scale
    key_GKD = scores.key.weight.double().reshape(spec.num_kv_heads, spec.head_dim, -1)
    key_HKD = key_GKD.repeat_interleave(spec.num_heads // spec.num_kv_heads, dim=0)
    return query_HKD, key_HKD, scores.query.bias_or_zero().double().reshape(shape) * spec.scale


def logit_forms(module: SoftmaxAttention) -> tuple[Tensor, Tensor]:
    """M (H,D,D) and c (H,D) in float64 with logit_ij = x_i M_h x_j + c_h . x_j, up to constants of a row."""
    scores = module.scores
    if isinstance(scores, ProjectedScores):
        query_HKD, key_HKD, bias_HK = query_key_HKD(module)
        return query_HKD.transpose(1, 2) @ key_HKD, torch.einsum("hk,hkd->hd", bias_HK, key_HKD)
    if isinstance(scores, MergedScores):
        weight_HED = scores.query.weight.double().reshape(scores.num_heads, -1, scores.query.weight.shape[1])
        return weight_HED.transpose(1, 2), scores.query.bias_or_zero().double().reshape(scores.num_heads, -1)
    assert isinstance(scores, SymmetricScores)
    shape = (scores.spec.num_heads, scores.spec.head_dim)
    shared_HKD = scores.shared.weight.double().reshape(*shape, -1)
    signed_HKD = shared_HKD * scores.signs_HK.double()[..., None]
    return signed_HKD.transpose(1, 2) @ shared_HKD, torch.einsum("hk,hkd->hd", scores.offset[0].double(), shared_HKD)


def value_output_HDD(module: SoftmaxAttention) -> Tensor:
    """W_vo,h = Wv_h Wo_h (H,D,D) in float64 of projected values."""
    values = module.values
    assert isinstance(values, ProjectedValues)
    heads = values.output.weight.shape[1] * values.num_kv_heads // values.value.weight.shape[0]
    value_GVD = values.value.weight.double().reshape(values.num_kv_heads, -1, values.value.weight.shape[1])
    value_HVD = value_GVD.repeat_interleave(heads // values.num_kv_heads, dim=0)
    output_HDV = values.output.weight.double().reshape(-1, heads, value_HVD.shape[1]).transpose(0, 1)
    return value_HVD.transpose(1, 2) @ output_HDV.transpose(1, 2)
