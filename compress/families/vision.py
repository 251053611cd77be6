"""What the families of vision transformers share: patches and their positions, layers by the names of a family, and
blocks by what the weights hold.

D hidden size, P patches, S prefix tokens, X and Y columns and rows of patches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from compress.families.checkpoint import Checkpoint
from compress.families.decoder import attention_of
from compress.families.family import stacked
from compress.model.activations import ActivationName
from compress.model.block import BlockSpec
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.ffn import FfnSpec
from compress.model.ffns.gated_mlp import GatedMlpSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.norms import NormSpec
from compress.model.rope import AnyRope
from targets.errors import InputError

Map = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Names:
    """How a family calls the parts of a layer. `scales`: of what the halves give, where it has them; `packed`: query,
    key and value in one matrix, in place of `query`, `key` and `value`; `gated`: the two maps of a gated feed-forward,
    gate and up in one matrix, where it has that."""

    norms: tuple[str, str]
    output: str
    ffn: tuple[str, str]
    query: str = ""
    key: str = ""
    value: str = ""
    packed: str = ""
    scales: tuple[str, str] = ("", "")
    gated: tuple[str, str] = ("", "")


#: Both towers of CLIP and of SigLIP.
TOWER = Names(
    norms=("layer_norm1", "layer_norm2"),
    query="self_attn.q_proj",
    key="self_attn.k_proj",
    value="self_attn.v_proj",
    output="self_attn.out_proj",
    ffn=("mlp.fc1", "mlp.fc2"),
)


def layer(checkpoint: Checkpoint, source: str, target: str, names: Names, gated: bool = False) -> dict[str, Tensor]:
    """The weights of a layer, whose feed-forward may be gated. Layer scale is folded into the maps before it."""

    def last(name: str, scale: str) -> Map:
        return scaled(checkpoint, f"{source}{name}", f"{source}{scale}")

    query, key, value = _heads(checkpoint, source, names)
    if gated:
        gate, up = parts(checkpoint, f"{source}{names.gated[0]}", 2)
        ffn = {"gate": gate, "up": up, "down": last(names.gated[1], names.scales[1])}
    else:
        ffn = {"up": checkpoint.linear(f"{source}{names.ffn[0]}"), "down": last(names.ffn[1], names.scales[1])}
    return {
        **stacked(f"{target}mixer.scores", {"query": query, "key": key}),
        **stacked(f"{target}mixer.values", {"value": value, "output": last(names.output, names.scales[0])}),
        **stacked(f"{target}ffn", ffn),
        **checkpoint.norm(f"{source}{names.norms[0]}", f"{target}mixer_norm"),
        **checkpoint.norm(f"{source}{names.norms[1]}", f"{target}ffn_norm"),
    }


def scaled(checkpoint: Checkpoint, name: str, scale: str) -> Map:
    """A linear map, times the layer scale `scale` where the checkpoint has one."""
    weight_OI, bias_O = checkpoint.linear(name)
    if scale not in checkpoint:
        return weight_OI, bias_O
    gain_O = checkpoint.tensor(scale, weight_OI.shape[:1])
    return weight_OI * gain_O[:, None], None if bias_O is None else bias_O * gain_O


def _heads(checkpoint: Checkpoint, source: str, names: Names) -> list[Map]:
    if names.packed and f"{source}{names.packed}.weight" in checkpoint:
        return parts(checkpoint, f"{source}{names.packed}", 3)
    return [checkpoint.linear(f"{source}{name}") for name in (names.query, names.key, names.value)]


def parts(checkpoint: Checkpoint, name: str, count: int) -> list[Map]:
    """`count` maps out of a packed one. Raises InputError if its rows do not divide."""
    weight, bias = checkpoint.linear(name)
    if len(weight) % count:
        raise InputError(f"{checkpoint.folder}: {name}.weight has {len(weight)} rows, which do not make {count} maps")
    biases = [None] * count if bias is None else list(bias.chunk(count))
    return list(zip(weight.chunk(count), biases, strict=True))


def block(
    checkpoint: Checkpoint,
    state: Mapping[str, Tensor],
    name: str,
    *,
    heads: int,
    norm: NormSpec,
    activation: ActivationName,
    size: int | None = None,
    gate: ActivationName = "silu",
    rope: AnyRope | None = None,
) -> BlockSpec:
    """The pre-norm block whose weights stand in `state` under `name`. `size`: of the feed-forward, where the
    config says it; `gate`: activation of a gated one."""
    width = state[f"{name}mixer.scores.query.weight"].shape[0]
    if width % heads:
        raise InputError(f"{checkpoint.folder}/config.json: hidden_size {width} is not a multiple of {heads} heads")
    size, biased = size or state[f"{name}ffn.down.weight"].shape[1], f"{name}ffn.up.bias.0" in state
    ffn: FfnSpec = MlpSpec(intermediate_size=size, activation=activation, bias=biased)
    if f"{name}ffn.gate.weight" in state:
        last = f"{name}ffn.down.bias.0" in state
        inner = norm if f"{name}ffn.norm.weight.0" in state else None
        ffn = GatedMlpSpec(intermediate_size=size, activation=gate, bias=biased, output_bias=last, norm=inner)
    mixer = attention_of(dict(state), f"{name}mixer", heads=heads, head_dim=width // heads, causal=False, rope=rope)
    return BlockSpec(mixer=mixer, mixer_norm=norm, ffn=ffn, ffn_norm=norm)


def task_of(checkpoint: Checkpoint) -> str:
    """Name of the task that the checkpoint is for."""
    return checkpoint.purpose.task


def gives_vectors(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is for a task that asks for a vector, so that it needs no classifier."""
    return checkpoint.purpose.head == "vector"


def has_classes(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint is for a task that asks for a classifier, or for one number."""
    return checkpoint.purpose.head in ("classes", "score")


def pair(checkpoint: Checkpoint, name: str) -> tuple[int, int]:
    """Height and width that the config gives as one number or two."""
    value = checkpoint.option(name)
    if not isinstance(value, list):
        return (checkpoint.integer(name),) * 2
    if len(value) != 2 or any(type(side) is not int or side < 1 for side in value):
        raise InputError(f"{checkpoint.folder}/config.json: {name} must be one or two positive numbers, not {value!r}")
    return value[0], value[1]


@dataclass(frozen=True)
class Patches:
    """How images become patches: the sizes of the image at hand, of those that the model was trained on, and of a
    patch."""

    image: tuple[int, int]
    trained: tuple[int, int]
    size: tuple[int, int]

    @property
    def grids(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of patches, as trained and now."""
        (old_y, old_x), (new_y, new_x), (rows, columns) = self.trained, self.image, self.size
        return (old_y // rows, old_x // columns), (new_y // rows, new_x // columns)


def patches_of(checkpoint: Checkpoint) -> Patches:
    """Sizes by the config, and by how images are prepared. Raises InputError where they do not fit."""
    patch, trained = pair(checkpoint, "patch_size"), pair(checkpoint, "image_size")
    rows, columns = checkpoint.preprocessing.get("size") or trained
    size = int(rows), int(columns)
    if size[0] % patch[0] or size[1] % patch[1]:
        raise InputError(f"{checkpoint.folder}: images of {size} do not divide into patches of {patch}")
    return Patches(size, trained, patch)


def embedding(
    checkpoint: Checkpoint,
    patches: Patches,
    projection: str,
    prefix_1SD: Tensor,
    position_1ND: Tensor | None,
    norm: NormSpec | None = None,
    antialias: bool = False,
    mode: str = "bicubic",
) -> tuple[PatchEmbedSpec, dict[str, Tensor]]:
    """The embedding and its weights. `projection`: name of the convolution; `position`: of the prefix and of the
    patches of the trained image, interpolated once to the image at hand, with `antialias` and
    by `mode` as the original does it."""
    weight = checkpoint.tensor(f"{projection}.weight")
    spec = PatchEmbedSpec(
        channels=checkpoint.integer("num_channels", 3),
        image_size=patches.image,
        patch_size=patches.size,
        prefix_tokens=prefix_1SD.shape[1],
        patch_bias=f"{projection}.bias" in checkpoint,
        positions=position_1ND is not None,
        norm=norm,
    )
    state = {"embed.patch.weight": weight, "embed.prefix": prefix_1SD}
    if spec.patch_bias:
        state["embed.patch.bias"] = checkpoint.tensor(f"{projection}.bias")
    if position_1ND is not None:
        state["embed.position"] = resampled(position_1ND, prefix_1SD.shape[1], *patches.grids, antialias, mode)
    return spec, state


def resampled(
    position_1ND: Tensor,
    prefix: int,
    old: tuple[int, int],
    new: tuple[int, int],
    antialias: bool,
    mode: str = "bicubic",
) -> Tensor:
    """Position embeddings of another grid of patches, interpolated; the prefix keeps its own."""
    if old == new:
        return position_1ND
    patches_1PD = position_1ND[:, prefix:]
    grid_1DYX = patches_1PD.reshape(1, *old, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(grid_1DYX, size=new, mode=mode, align_corners=False, antialias=antialias)
    return torch.cat([position_1ND[:, :prefix], resized.flatten(2).transpose(1, 2)], dim=1)
