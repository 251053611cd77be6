"""Every family, by being there: what it cannot read it refuses in one line that names the folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from compress.families import known_types
from compress.tasks import read_checkpoint
from targets.errors import InputError

#: What families call the sizes of a model.
SIZES = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "word_embed_proj_dim"), 8),
    **dict.fromkeys(("num_attention_heads", "num_heads", "n_head", "n_heads", "num_key_value_heads"), 2),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers"), 1),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "n_inner"), 16),
    **dict.fromkeys(("vocab_size", "max_position_embeddings", "image_size"), 32),
    **{"patch_size": 8, "num_channels": 3, "head_dim": 4, "d_kv": 4},
}
FOREIGN = {
    "nothing but its name": {},
    "sizes without weights": SIZES,
    "a class of another library": {**SIZES, "architectures": ["ZebraForStripes"]},
    "sizes that are texts": dict.fromkeys(SIZES, "wide"),
    "sizes of none": dict.fromkeys(SIZES, 0),
    "lists": {name: [1] for name in SIZES},
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("kind", known_types())
def test_what_a_family_cannot_read_is_refused_in_one_line(kind: str, what: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **FOREIGN[what]}))
    save_file({"of.another.model": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as refused:
        read_checkpoint(tmp_path, {})
    line = str(refused.value)
    assert "\n" not in line and len(line) < 400, line
    assert str(tmp_path) in line
