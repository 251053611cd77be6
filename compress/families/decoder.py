"""What the families of decoders share: which layers see a window, attention by what the weights hold, packed layers."""

from __future__ import annotations

from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.family import stacked
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from compress.model.rope import AnyRope
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.values.projected import ProjectedValuesSpec
from targets.errors import InputError

SLIDING, FULL = "sliding_attention", "full_attention"


def layer_types(
    checkpoint: Checkpoint, layers: int, default: list[str], known: tuple[str, str] = (SLIDING, FULL)
) -> list[str]:
    """For each layer what the config calls its attention. Raises InputError for kinds that are not known."""
    given = checkpoint.config.get("layer_types")
    kinds = default if given is None else given
    if not isinstance(kinds, list) or len(kinds) != layers or any(kind not in known for kind in kinds):
        raise InputError(
            f"{checkpoint.folder}/config.json: layer_types must be {' or '.join(known)} for each of {layers} "
            f"layers, not {str(kinds)[:80]}"
        )
    return kinds


def every(count: int, layers: int, other: str = SLIDING) -> list[str]:
    """Each `count`-th layer sees everything, the others a window or what else `other` says."""
    return [other if (index + 1) % count else FULL for index in range(layers)]


def attention_of(
    state: dict[str, Tensor],
    name: str,
    *,
    heads: int,
    head_dim: int,
    kv_heads: int | None = None,
    scale: float | None = None,
    rope: AnyRope | None = None,
    window: int | None = None,
    causal: bool = True,
    cap: float | None = None,
    norm: NormSpec | None = None,
) -> SoftmaxAttentionSpec:
    """The attention whose weights stand in `state` under `name`, which say what has biases. `kv_heads`: as many as
    `heads` where it is None; `scale`: head_dim**-0.5 where it is None; `norm`: of queries and keys, where they have
    gains for it."""
    kv_heads = heads if kv_heads is None else kv_heads
    gains = state.get(f"{name}.scores.query_norm.weight.0")
    normed = gains is not None or (norm is not None and not norm.affine)
    scores = ProjectedScoresSpec(
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        scale=head_dim**-0.5 if scale is None else scale,
        query_bias=f"{name}.scores.query.bias.0" in state,
        key_bias=f"{name}.scores.key.bias.0" in state,
        rope=rope,
        norm=norm if normed else None,
        whole=gains is not None and len(gains) != head_dim,
    )
    values = ProjectedValuesSpec(
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        value_bias=f"{name}.values.value.bias.0" in state,
        output_bias=f"{name}.values.output.bias.0" in state,
    )
    return SoftmaxAttentionSpec(scores=scores, values=values, causal=causal, window=window, cap=cap)


def _interleaved(checkpoint: Checkpoint, name: str, heads: int) -> list[tuple[Tensor, Tensor | None]]:
    """Query, key and value maps of a matrix in which each head has its own three, one after the other. Raises
    InputError if its rows do not divide into that."""
    weight, bias = checkpoint.linear(name)
    if len(weight) % (3 * heads):
        raise InputError(f"{checkpoint.folder}: {name}.weight has {len(weight)} rows, which {heads} heads do not share")

    def parts(tensor: Tensor) -> list[Tensor]:
        return [one.flatten(0, 1) for one in tensor.reshape(heads, 3, -1, *tensor.shape[1:]).unbind(1)]

    biases = [None] * 3 if bias is None else parts(bias)
    return list(zip(parts(weight), biases, strict=True))


def interleaved_layer(
    checkpoint: Checkpoint, source: str, attention: str, target: str, heads: int
) -> dict[str, Tensor]:
    """State entries of the block `target` from a layer of BLOOM or GPT-NeoX, which differ in what they call their
    `attention`."""
    linear, own = checkpoint.linear, f"{source}{attention}."
    query, key, value = _interleaved(checkpoint, f"{own}query_key_value", heads)
    ffn = {"up": linear(f"{source}mlp.dense_h_to_4h"), "down": linear(f"{source}mlp.dense_4h_to_h")}
    return {
        **stacked(f"{target}mixer.scores", {"query": query, "key": key}),
        **stacked(f"{target}mixer.values", {"value": value, "output": linear(f"{own}dense")}),
        **stacked(f"{target}ffn", ffn),
        **checkpoint.norm(f"{source}input_layernorm", f"{target}mixer_norm"),
        **checkpoint.norm(f"{source}post_attention_layernorm", f"{target}ffn_norm"),
    }
