"""Small random text models: an encoder like BERT, a decoder like Llama, and sequences for them."""

from __future__ import annotations

import torch
from torch import Tensor

from compress.model import Step, Structure, Transformer
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.gated_mlp import GatedMlpSpec
from compress.model.head import HeadSpec
from compress.model.heads.embedding import EmbeddingSpec
from compress.model.heads.language_model import LanguageModelSpec
from compress.model.norms import NormSpec
from compress.rewrites import Calibration
from compress.spec import Spec
from support.tiny import HIDDEN, block_spec, randomized

VOCABULARY = 29
LENGTHS = (3, 7, 5, 9)


def text_model(*blocks: Spec, embed: TokenEmbedSpec, head: HeadSpec, final_norm: NormSpec | None) -> Transformer:
    structure = Structure(
        task="causal-lm" if isinstance(head, LanguageModelSpec) else "embedding",
        hidden_size=HIDDEN,
        embed=embed,
        blocks=blocks,  # type: ignore[arg-type]
        schedule=tuple(Step(block=index, origin=index) for index in range(len(blocks))),
        final_norm=final_norm,
        head=head,
        labels=(),
        preprocessing={},
    )
    model: Transformer = randomized(Transformer(structure), 0)
    return model


def encoder(layers: int = 2) -> Transformer:
    """Post-norm blocks, learned positions, the mean of the tokens."""
    norm = NormSpec()
    embed = TokenEmbedSpec(vocab_size=VOCABULARY, max_positions=12, token_types=2, norm=norm)
    blocks = [block_spec(heads=3, head_dim=4, norm=norm, residual="post") for _ in range(layers)]
    return text_model(*blocks, embed=embed, head=EmbeddingSpec(), final_norm=None)


def decoder(layers: int = 2, heads: int = 3, kv_heads: int = 3, tied: bool = True, rope: bool = True) -> Transformer:
    """Rotary positions, RMS norms, gated feed-forwards, no biases, scores of the next token."""
    norm = NormSpec(kind="rms")
    blocks = [
        block_spec(
            heads=heads,
            kv_heads=kv_heads,
            head_dim=4,
            query_bias=False,
            key_bias=False,
            value_bias=False,
            rope=rope,
            causal=True,
            ffn=GatedMlpSpec(intermediate_size=10),
            norm=norm,
        )
        for _ in range(layers)
    ]
    head = LanguageModelSpec(vocab_size=VOCABULARY, tied=tied)
    return text_model(*blocks, embed=TokenEmbedSpec(vocab_size=VOCABULARY), head=head, final_norm=norm)


def sequences(seed: int = 0) -> list[Tensor]:
    """Token ids of sequences of different lengths, (1,N) each."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(VOCABULARY, (1, length), generator=generator) for length in LENGTHS * 6]


def plain_calibration(model: Transformer) -> Calibration:
    """One sequence at a time, nothing but real tokens."""
    return Calibration(model, lambda: ({"input_ids": ids} for ids in sequences()), note=print)


def padded_calibration(model: Transformer, side: str) -> Calibration:
    """The same sequences in batches, padded on one side; positions count from the first real token."""

    def batches() -> list[dict[str, Tensor]]:
        every, made = sequences(), []
        for start in range(0, len(every), len(LENGTHS)):
            rows = every[start : start + len(LENGTHS)]
            ids_BN = torch.zeros(len(rows), max(LENGTHS), dtype=torch.long)
            mask_BN = torch.zeros_like(ids_BN)
            for row, ids in enumerate(rows):
                count = ids.shape[1]
                place = slice(0, count) if side == "right" else slice(max(LENGTHS) - count, None)
                ids_BN[row, place], mask_BN[row, place] = ids[0], 1
            places_BN = (mask_BN.cumsum(1) - 1).clamp(min=0)
            made.append({"input_ids": ids_BN, "attention_mask": mask_BN, "position_ids": places_BN})
        return made

    return Calibration(model, lambda: iter(batches()), note=print)


@torch.no_grad()
def text_moved(model: Transformer, other: Transformer) -> float:
    """Largest change of an output on sequences that no calibration saw, relative to the largest output above 1."""
    changes, largest = [], 1.0
    for ids in sequences(seed=7):
        before, after = (one.copy().double()({"input_ids": ids}) for one in (model, other))
        changes.append(float((before - after).abs().max()))
        largest = max(largest, float(before.abs().max()))
    return max(changes) / largest
