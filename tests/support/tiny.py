"""Small random models and inputs for the tests.

B batch, N tokens, D hidden size, H heads, G key/value heads, K head size.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from compress.model import Step, Structure, Transformer
from compress.model.attention import ScoresSpec, ValuesSpec
from compress.model.block import BlockSpec
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffn import FfnSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.model.heads.embedding import ImageEmbeddingSpec
from compress.model.heads.text_tower import TextTowerSpec
from compress.model.heads.two_towers import TwoTowersSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from compress.model.pooling import Pool
from compress.model.rope import RopeSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.values.projected import ProjectedValuesSpec

HIDDEN = 12


def block_spec(
    heads: int = 2,
    kv_heads: int | None = None,
    head_dim: int = 5,
    value_dim: int | None = None,
    query_bias: bool = True,
    key_bias: bool = True,
    value_bias: bool = True,
    rope: bool = False,
    causal: bool = False,
    scores: ScoresSpec | None = None,
    values: ValuesSpec | None = None,
    ffn: FfnSpec | None = None,
    norm: NormSpec | None = None,
    **rest: Any,
) -> BlockSpec:
    """A block with softmax attention and an MLP; every part can be another one."""
    scores = scores or ProjectedScoresSpec(
        num_heads=heads,
        num_kv_heads=kv_heads or heads,
        head_dim=head_dim,
        scale=head_dim**-0.5,
        query_bias=query_bias,
        key_bias=key_bias,
        rope=RopeSpec() if rope else None,
    )
    values = values or ProjectedValuesSpec(
        num_kv_heads=kv_heads or heads, head_dim=value_dim or head_dim, value_bias=value_bias
    )
    norm = norm or NormSpec()
    return BlockSpec(
        mixer=SoftmaxAttentionSpec(scores=scores, values=values, causal=causal),
        mixer_norm=norm,
        ffn=ffn or MlpSpec(intermediate_size=14),
        ffn_norm=norm,
        **rest,
    )


def structure_of(
    *blocks: BlockSpec, hidden_size: int = HIDDEN, pools: tuple[Pool, ...] = ("cls",), **rest: Any
) -> Structure:
    """These blocks in their order, each loop after the other, between an image of two channels and three classes; 5
    tokens, or 6 with a distillation token."""
    runs = [(index, loop) for index, block in enumerate(blocks) for loop in range(block.loops)]
    embed = PatchEmbedSpec(
        channels=2, image_size=(6, 6), patch_size=(3, 3), prefix_tokens=2 if "distillation" in pools else 1
    )
    return Structure(
        **{
            "task": "image-classification",
            "hidden_size": hidden_size,
            "embed": embed,
            "blocks": blocks,
            "schedule": tuple(Step(block=block, loop=loop, origin=origin) for origin, (block, loop) in enumerate(runs)),
            "final_norm": NormSpec(),
            "head": ClassifierSpec(num_labels=3, pools=pools),
            "labels": ("a", "b", "c"),
            "preprocessing": {},
        }
        | rest
    )


def randomized(model: torch.nn.Module, seed: int = 0) -> Any:
    """The same model with weights at which every part matters; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            gains = "norm.weight" in name
            parameter.copy_(1 + 0.3 * noise if gains else noise * (parameter.shape[-1] ** -0.5))
    return model.eval()


def model_of(*blocks: BlockSpec, seed: int = 0, **rest: Any) -> Transformer:
    """A random model of these blocks; see `structure_of`."""
    return randomized(Transformer(structure_of(*blocks, **rest)), seed)


def images(model: Transformer, batch: int = 4, seed: int = 0) -> dict[str, Tensor]:
    """A batch of random images, or of spectrograms, for the model."""
    embed, head = model.structure.embed, model.structure.head
    assert isinstance(embed, PatchEmbedSpec)
    inputs = embed.random(batch, torch.Generator().manual_seed(seed))
    if isinstance(head, TwoTowersSpec) and head.text is not None:
        inputs["input_ids"] = torch.randint(9, (3, 4), generator=torch.Generator().manual_seed(0))
    return inputs


def towers_model(*blocks: BlockSpec) -> Transformer:
    """A random model of these blocks that holds images against texts of 9 words."""
    text = TextTowerSpec(
        hidden_size=HIDDEN,
        embed=TokenEmbedSpec(vocab_size=9, max_positions=4),
        blocks=(block_spec(),),
        final_norm=NormSpec(),
        size=HIDDEN,
    )
    head = TwoTowersSpec(image=ImageEmbeddingSpec(), size=HIDDEN, text=text)
    return model_of(*blocks, head=head, labels=())


@torch.no_grad()
def logits(model: Transformer, inputs: dict[str, Tensor]) -> Tensor:
    """The logits in float64, so that only what the weights say counts."""
    return model.copy().double()({name: tensor.double() for name, tensor in inputs.items()})
