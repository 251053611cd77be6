"""Feeding a causal model in any chunks gives what the whole sequence gives."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.streams import VOCABULARY, decoder, streamed
from support.tiny import block_spec, randomized

from compress.model import Transformer
from compress.model.forms.streaming import Streaming
from compress.model.heads.language_model import LanguageModelSpec
from compress.model.values.gated_mean import GatedMeanSpec
from targets.errors import InputError


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 3), max_size=3),
    length=st.integers(10, 14),
    padded=st.integers(0, 4),
    rope=st.booleans(),
    tied=st.booleans(),
)
@torch.no_grad()
def test_any_chunking_gives_what_the_whole_gives(
    sizes: list[int], length: int, padded: int, rope: bool, tied: bool
) -> None:
    model = decoder(
        block_spec(heads=4, kv_heads=2, head_dim=4, causal=True, rope=rope),
        block_spec(causal=True, values=GatedMeanSpec(projection=True)),
        tied=tied,
    )
    generator = torch.Generator().manual_seed(length)
    ids_BN = torch.randint(VOCABULARY, (2, length), generator=generator)
    mask_BN = torch.ones_like(ids_BN)
    mask_BN[1, :padded] = 0
    place_BN = (mask_BN.cumsum(1) - 1).clamp(min=0)
    whole = model({"input_ids": ids_BN, "attention_mask": mask_BN, "position_ids": place_BN})
    given_ = streamed(model, ids_BN, mask_BN, sizes)
    real = mask_BN.bool()
    torch.testing.assert_close(given_[real], whole[real], atol=1e-12, rtol=0)


@torch.no_grad()
def test_left_padding_changes_no_real_token() -> None:
    model = decoder(block_spec(head_dim=4, causal=True, rope=True))
    ids_BN = torch.tensor([[3, 1, 4, 1, 5]])
    padded_BN = torch.cat([torch.zeros(1, 3, dtype=torch.long), ids_BN], dim=1)
    mask_BN = (torch.arange(8) >= 3).long()[None]
    given_ = streamed(model, padded_BN, mask_BN, [2, 4])
    torch.testing.assert_close(given_[:, 3:], model({"input_ids": ids_BN}), atol=1e-12, rtol=0)


@torch.no_grad()
def test_windows_of_sensors_stream_as_tokens_do() -> None:
    structure = decoder(block_spec(head_dim=4, causal=True, rope=True)).structure
    head = LanguageModelSpec(vocab_size=3, tied=False, bias=True)
    changed = structure.replace(task="sequence-labelling", embed={"kind": "window", "size": 5}, head=head)
    model = randomized(Transformer(changed), 1).double().eval()
    streaming, generator = Streaming(model), torch.Generator().manual_seed(0)
    assert list(streaming.dynamic)[:3] == ["windows", "attention_mask", "position_ids"]
    assert streaming.example(2, 4, 3, generator)["windows"].shape == (2, 4, 5)
    windows_BNC = torch.randn(1, 9, 5, generator=generator, dtype=torch.float64)
    state, parts = {one.past: one.fresh(1).double() for one in streaming.flat}, []
    for place in range(9):
        mask_BM, place_BN = torch.ones(1, place + 1, dtype=torch.long), torch.tensor([[place]])
        inputs = {"windows": windows_BNC[:, place, None], "attention_mask": mask_BM, "position_ids": place_BN}
        output, *present = streaming({**inputs, **state})
        state = dict(zip(state, present, strict=True))
        parts.append(output)
    torch.testing.assert_close(torch.cat(parts, dim=1), model({"windows": windows_BNC}), atol=1e-12, rtol=0)


def test_caches_have_the_names_of_optimum() -> None:
    names = [(one.past, one.present) for one in Streaming(decoder(block_spec(causal=True))).flat]
    assert names == [
        ("past_key_values.0.key", "present.0.key"),
        ("past_key_values.0.value", "present.0.value"),
    ]


def test_a_model_that_looks_ahead_has_no_recurrent_form() -> None:
    with pytest.raises(InputError, match="looks ahead"):
        Streaming(decoder(block_spec(causal=True), block_spec()))
