"""Llama and what is laid out like it: rotary positions, RMS norms, gated feed-forwards, query heads that may share keys
and values. What a layer is made of is read off its weights: packed maps, biases, norms of queries and keys, norms
before or behind its halves; the table of layouts says what the weights do not show.

D hidden size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from compress.families.checkpoint import Checkpoint
from compress.families.decoder import FULL, SLIDING, attention_of, every, layer_types
from compress.families.experts import expert_maps, experts_spec
from compress.families.family import reads, stacked
from compress.families.rope import rope_from, rope_of, rope_table
from compress.families.text import decoder_head, head_dim_of, prefix_of, refuse, structure_of
from compress.model.block import BlockSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffn import FfnSpec
from compress.model.ffns.gated_mlp import GatedMlpSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.heads.language_model import LanguageModelSpec
from compress.model.norms import NormSpec
from compress.model.rope import RopeSpec
from compress.model.structure import Structure
from targets.errors import InputError


def _all_slide(checkpoint: Checkpoint, layers: int) -> list[str]:
    return [SLIDING] * layers


def _none_slides(checkpoint: Checkpoint, layers: int) -> list[str]:
    return [FULL] * layers


def _from_a_layer_on(checkpoint: Checkpoint, layers: int) -> list[str]:
    """Qwen: the first `max_window_layers` layers see everything, if any sees a window."""
    first = checkpoint.integer("max_window_layers", 28, least=0)
    windowed = checkpoint.flag("use_sliding_window", False)
    return [SLIDING if windowed and index >= first else FULL for index in range(layers)]


def _without_rope(checkpoint: Checkpoint, layers: int) -> list[str]:
    """SmolLM3: layers without rotary positions see a window, if any does."""
    windowed = checkpoint.flag("use_sliding_window", False)
    return [SLIDING if windowed and not turns else FULL for turns in _turning(checkpoint, layers)]


def _by_pattern(checkpoint: Checkpoint, layers: int) -> list[str]:
    """Gemma 3: each sixth layer sees everything, or each of another number."""
    return every(checkpoint.integer("sliding_window_pattern", 6), layers)


def _every_second(checkpoint: Checkpoint, layers: int) -> list[str]:
    return every(2, layers)


def _each_fourth(checkpoint: Checkpoint, layers: int) -> list[str]:
    return every(4, layers)


def _turning(checkpoint: Checkpoint, layers: int) -> list[bool]:
    given = checkpoint.config.get("no_rope_layers")
    interval = checkpoint.integer("no_rope_layer_interval", 4)
    if given is None:
        return [(index + 1) % interval != 0 for index in range(layers)]
    if not isinstance(given, list) or len(given) != layers or any(one not in (0, 1) for one in given):
        raise InputError(f"{checkpoint.folder}/config.json: no_rope_layers must be 0 or 1 for each of {layers} layers")
    return [bool(one) for one in given]


@dataclass(frozen=True)
class Layout:
    """What a family's weights do not show. `eps`, `tied`, `window`: what the config means where it leaves them out.
    `kinds`: which layers slide where `layer_types` is left out. `plus`: what is added to the gains of norms. `scaled`:
    whether tokens are multiplied by sqrt(D). `activation`: the option that names it, and its value if left out.
    `multipliers`: whether it has Granite's. `nope`: whether some layers do not turn. `scalar`: whether logits are
    scaled by an option (and may look both ways). `caps`: of logits in attention and of the next token. `norm`: kind of
    its norms. `partial`: part of a head that turns where the config does not say. `normed`: whether the shares of the
    experts that are chosen always sum to 1."""

    eps: float = 1e-6
    tied: bool = False
    window: int | None = None
    kinds: Callable[[Checkpoint, int], list[str]] = _none_slides
    plus: float = 0.0
    scaled: bool = False
    activation: tuple[str, str] = ("hidden_act", "silu")
    multipliers: bool = False
    nope: bool = False
    scalar: bool = False
    caps: tuple[float | None, float | None] = (None, None)
    norm: NormSpec = field(default_factory=lambda: NormSpec(kind="rms"))
    normed: bool = False
    partial: float = 1.0


_GEMMA2 = Layout(
    plus=1.0,
    scaled=True,
    scalar=True,
    tied=True,
    window=4096,
    activation=("hidden_activation", "gelu_pytorch_tanh"),
    kinds=_every_second,
    caps=(50.0, 30.0),
)
_LAYOUTS = {
    "llama": Layout(),
    "mistral": Layout(window=4096, kinds=_all_slide),
    "ministral": Layout(window=4096, kinds=_all_slide),
    "qwen2": Layout(window=4096, kinds=_from_a_layer_on),
    "qwen3": Layout(window=4096, kinds=_from_a_layer_on),
    "qwen3_moe": Layout(window=4096, kinds=_from_a_layer_on),
    "mixtral": Layout(eps=1e-5, kinds=_all_slide, normed=True),
    "olmoe": Layout(eps=1e-5),
    "phi3": Layout(eps=1e-5, kinds=_all_slide),
    "smollm3": Layout(tied=True, kinds=_without_rope, nope=True),
    "granite": Layout(multipliers=True),
    "olmo": Layout(eps=1e-5, norm=NormSpec(affine=False)),
    "olmo2": Layout(eps=1e-5),
    "olmo3": Layout(eps=1e-5, window=4096, kinds=_each_fourth),
    "stablelm": Layout(eps=1e-5, norm=NormSpec(), partial=0.25),
    "starcoder2": Layout(tied=True, kinds=_all_slide, activation=("hidden_act", "gelu_pytorch_tanh"), norm=NormSpec()),
    "gemma": Layout(plus=1.0, scaled=True, tied=True, activation=("hidden_act", "gelu_pytorch_tanh")),
    "gemma2": _GEMMA2,
    "gemma3_text": replace(_GEMMA2, kinds=_by_pattern, caps=(None, None)),
}
#: What the families whose norms are not RMS norms call the number that keeps them from dividing by zero.
_EPS = {"starcoder2": "norm_epsilon", "stablelm": "layer_norm_eps"}


@reads(*_LAYOUTS, classes=("gemma3",))
def read_llama(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Granite's multipliers are folded into the weights behind them, all but that of the table, which a tied head
    reads too."""
    kind = str(checkpoint.config["model_type"])
    layout = _LAYOUTS[kind]
    for option in ("intermediate_size", "use_qkv_bias"):
        checkpoint.config.get(option)  # of dense layers, which mixtures of experts may lack; read off the weights
    refuse(checkpoint, clip_qkv=None, rope_interleaved=False, use_parallel_residual=False, qk_layernorm=False)
    body, integer = prefix_of(checkpoint, "model"), checkpoint.integer
    width, layers, vocabulary = integer("hidden_size"), integer("num_hidden_layers"), integer("vocab_size")
    table = f"{body}embed_tokens.weight"
    task, head, state = decoder_head(checkpoint, vocabulary, table, tied=layout.tied)
    norm = layout.norm.replace(eps=checkpoint.number(_EPS.get(kind, "rms_norm_eps"), layout.eps))
    state["embed.table"] = checkpoint.tensor(table)
    if norm.affine:
        state |= checkpoint.norm(f"{body}norm", "final_norm", layout.plus)
    for index in range(layers):
        state |= _layer(checkpoint, f"{body}layers.{index}.", f"blocks.{index}.", layout)
    scale = width**0.5 if layout.scaled else 1.0
    if layout.multipliers:
        scale = checkpoint.number("embedding_multiplier", 1.0)
        if isinstance(head, LanguageModelSpec):
            _multiply(state, "final_norm.weight.0", 1 / checkpoint.number("logits_scaling", 1.0))
        for name in [name for name in state if ".values.output." in name or ".ffn.down." in name]:
            _multiply(state, name, checkpoint.number("residual_multiplier", 1.0))
    if layout.scalar and isinstance(head, LanguageModelSpec):
        head = head.replace(cap=_cap(checkpoint, "final_logit_softcapping", layout.caps[1]))
    if not isinstance(head, LanguageModelSpec):
        for name in ("final_logit_softcapping", "logits_scaling"):
            checkpoint.config.get(name)  # of the next token's scores alone
    kinds = layer_types(checkpoint, layers, layout.kinds(checkpoint, layers))
    turning = _turning(checkpoint, layers) if layout.nope else [True] * layers
    structure = structure_of(
        checkpoint,
        task=task,
        head=head,
        hidden_size=width,
        embed=TokenEmbedSpec(vocab_size=vocabulary, scale=scale),
        blocks=tuple(
            _block(checkpoint, layout, norm, f"blocks.{index}.", state, kinds[index], turning[index])
            for index in range(layers)
        ),
        final_norm=norm,
    )
    return structure, state


def _multiply(state: dict[str, Tensor], name: str, factor: float) -> None:
    state[name] = state[name] * factor


def _cap(checkpoint: Checkpoint, name: str, default: float | None) -> float | None:
    return None if checkpoint.config.get(name, default) is None else checkpoint.number(name, default)


def _rope(checkpoint: Checkpoint, head_dim: int, kind: str) -> RopeSpec:
    """Gemma 3 has rotary positions for each kind of layer; those of OLMo 3 are scaled where a layer sees everything."""
    family, tables = checkpoint.config["model_type"], rope_table(checkpoint, "rope_parameters")
    if family == "olmo3":
        scaled = rope_table(checkpoint, "rope_scaling") if kind == FULL else {}
        own = {"rope_theta": checkpoint.number("rope_theta", 500000.0)} | scaled
        return rope_from(checkpoint, own | (tables.get(kind) or {}), head_dim)
    if family != "gemma3_text":
        return rope_of(checkpoint, head_dim, partial=_LAYOUTS[family].partial)
    if kind == SLIDING:
        local = {"rope_theta": checkpoint.number("rope_local_base_freq", 10000.0)}
        return rope_from(checkpoint, local | (tables.get(kind) or {}), head_dim)
    far = {"rope_theta": checkpoint.number("rope_theta", 1e6)} | rope_table(checkpoint, "rope_scaling")
    return rope_from(checkpoint, far | (tables.get(kind) or {}), head_dim)


def _scale(checkpoint: Checkpoint, layout: Layout, head_dim: int) -> float:
    if layout.multipliers:
        return checkpoint.number("attention_multiplier", 1.0)
    if layout.scalar:
        return checkpoint.number("query_pre_attn_scalar", 256) ** -0.5
    return head_dim**-0.5


def _window(checkpoint: Checkpoint, layout: Layout, kind: str, causal: bool) -> int | None:
    """A window as long as the longest text is none; one that looks both ways is halved."""
    given = checkpoint.config.get("sliding_window", layout.window)
    longest = checkpoint.config.get("max_position_embeddings")
    if kind != SLIDING or not given:
        return None
    window = checkpoint.integer("sliding_window", layout.window)
    if not causal:
        return max(1, window // 2)
    return None if isinstance(longest, int) and window >= longest else window


def _block(
    checkpoint: Checkpoint, layout: Layout, norm: NormSpec, name: str, state: dict[str, Tensor], kind: str, turns: bool
) -> BlockSpec:
    heads = checkpoint.integer("num_attention_heads")
    given = checkpoint.config.get("head_dim") or (256 if layout.plus else None)
    width = checkpoint.integer("hidden_size")
    head_dim = checkpoint.integer("head_dim", given) if given else head_dim_of(checkpoint, width, heads)
    causal = not (layout.scalar and checkpoint.flag("use_bidirectional_attention", False))
    mixer = attention_of(
        state,
        f"{name}mixer",
        heads=heads,
        kv_heads=checkpoint.integer("num_key_value_heads", heads),
        head_dim=head_dim,
        scale=_scale(checkpoint, layout, head_dim),
        rope=_rope(checkpoint, head_dim, kind) if turns else None,
        window=_window(checkpoint, layout, kind, causal),
        causal=causal,
        cap=_cap(checkpoint, "attn_logit_softcapping", layout.caps[0]) if layout.scalar else None,
        norm=NormSpec(kind="rms", eps=norm.eps),
    )

    def normed(part: str) -> NormSpec | None:
        return norm if not norm.affine or f"{name}{part}.weight.0" in state else None

    return BlockSpec(
        mixer=mixer,
        mixer_norm=normed("mixer_norm"),
        ffn=_ffn(checkpoint, layout, name, state),
        ffn_norm=normed("ffn_norm"),
        mixer_out_norm=normed("mixer_out_norm") if norm.affine else None,
        ffn_out_norm=normed("ffn_out_norm") if norm.affine else None,
    )


def _ffn(checkpoint: Checkpoint, layout: Layout, name: str, state: dict[str, Tensor]) -> FfnSpec:
    activation = checkpoint.option(*layout.activation)
    if checkpoint.config["model_type"] == "gemma" and activation == "gelu":
        activation = "gelu_pytorch_tanh"  # what the first releases of Gemma meant
    if f"{name}ffn.router.weight" in state:
        return experts_spec(checkpoint, state, f"{name}ffn", activation, normed=layout.normed)
    size = checkpoint.integer("intermediate_size")
    if f"{name}ffn.gate.weight" not in state:
        return MlpSpec(intermediate_size=size, activation=activation, bias=f"{name}ffn.up.bias.0" in state)
    return GatedMlpSpec(
        intermediate_size=size,
        activation=activation,
        bias=f"{name}ffn.up.bias.0" in state,
        output_bias=f"{name}ffn.down.bias.0" in state,
    )


def _layer(checkpoint: Checkpoint, source: str, target: str, layout: Layout) -> dict[str, Tensor]:
    linear, attention, mlp = checkpoint.linear, f"{source}self_attn.", f"{source}mlp."
    if f"{attention}qkv_proj.weight" in checkpoint:
        query, key, value = _packed_heads(checkpoint, f"{attention}qkv_proj")
    else:
        query, key, value = (linear(f"{attention}{name}_proj") for name in "qkv")
    state = {
        **stacked(f"{target}mixer.scores", {"query": query, "key": key}),
        **stacked(f"{target}mixer.values", {"value": value, "output": linear(f"{attention}o_proj")}),
        **stacked(f"{target}ffn", expert_maps(checkpoint, source) or _feed_forward(checkpoint, mlp)),
    }
    for name in ("query", "key"):
        if f"{attention}{name[0]}_norm.weight" in checkpoint:
            state |= checkpoint.norm(f"{attention}{name[0]}_norm", f"{target}mixer.scores.{name}_norm", layout.plus)
    for norm, place in _norms(checkpoint, source, layout).items():
        state |= checkpoint.norm(f"{source}{norm}", f"{target}{place}", layout.plus)
    return state


def _norms(checkpoint: Checkpoint, source: str, layout: Layout) -> dict[str, str]:
    """Which norm of the checkpoint stands where."""
    if not layout.norm.affine:
        return {}
    before = "mixer_norm" if f"{source}input_layernorm.weight" in checkpoint else None
    if f"{source}post_feedforward_layernorm.weight" not in checkpoint:
        return {"input_layernorm": "mixer_norm", "post_attention_layernorm": "ffn_norm"}
    behind = {"post_attention_layernorm": "mixer_out_norm", "post_feedforward_layernorm": "ffn_out_norm"}
    if before is None:
        return behind
    return {"input_layernorm": "mixer_norm", "pre_feedforward_layernorm": "ffn_norm", **behind}


def _packed_heads(checkpoint: Checkpoint, name: str) -> list[tuple[Tensor, Tensor | None]]:
    """Query, key and value maps of one matrix, side by side."""
    weight, bias = checkpoint.linear(name)
    heads = checkpoint.integer("num_attention_heads")
    groups = checkpoint.integer("num_key_value_heads", heads)
    given = checkpoint.config.get("head_dim")
    size = (
        checkpoint.integer("head_dim") if given else head_dim_of(checkpoint, checkpoint.integer("hidden_size"), heads)
    )
    widths = [heads * size, groups * size, groups * size]
    return split_rows(checkpoint, name, weight, bias, widths)


def split_rows(
    checkpoint: Checkpoint, name: str, weight: Tensor, bias: Tensor | None, widths: list[int]
) -> list[tuple[Tensor, Tensor | None]]:
    """A packed map as the maps that it holds. Raises InputError if it has other rows than these."""
    if len(weight) != sum(widths):
        raise InputError(f"{checkpoint.folder}: {name}.weight has {len(weight)} rows, but its config says {widths}")
    biases = [None] * len(widths) if bias is None else list(torch.split(bias, widths))
    return list(zip(torch.split(weight, widths), biases, strict=True))


def _feed_forward(checkpoint: Checkpoint, mlp: str) -> dict[str, tuple[Tensor, Tensor | None]]:
    linear = checkpoint.linear
    if f"{mlp}gate_up_proj.weight" in checkpoint:
        weight, bias = linear(f"{mlp}gate_up_proj")
        size = checkpoint.integer("intermediate_size")
        gate, up = split_rows(checkpoint, f"{mlp}gate_up_proj", weight, bias, [size, size])
        return {"gate": gate, "up": up, "down": linear(f"{mlp}down_proj")}
    if f"{mlp}c_fc.weight" in checkpoint:
        return {"up": linear(f"{mlp}c_fc"), "down": linear(f"{mlp}c_proj")}
    return {name: linear(f"{mlp}{name}_proj") for name in ("gate", "up", "down")}
