"""The encoder of an encoder-decoder as a model of its own, and back: what works on one stack works on each."""

from __future__ import annotations

import torch

from compress.model.embeds.token import TokenEmbed
from compress.model.structure import Structure
from compress.model.transformer import Transformer
from runtime.texts.text import INPUTS
from targets.errors import InputError

ENCODER, DECODER = "encoder", "decoder"
#: What a recipe may name.
STACKS = (ENCODER, DECODER)


def encoder_of(model: Transformer) -> Transformer:
    """The encoder alone, over copies of its weights; a table that it borrows becomes its own."""
    encoder = model.encoder
    assert encoder is not None, "a model of one stack has no encoder"
    structure, state = encoder.structure, {name: one.clone() for name, one in encoder.state_dict().items()}
    if _borrows(structure):
        assert isinstance(model.embed, TokenEmbed)
        if model.embed.spec.rank is not None or model.embed.spec.rows is not None:
            raise InputError(
                "the table that both stacks read is factorised already; change the encoder before the table"
            )
        structure = _with_embed(structure, borrowed=False)
        state["embed.table"] = model.embed.table.detach().clone()
    return _filled(structure, state, model)


def source_of(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What an encoder reads of a batch."""
    return {name: one for name, one in inputs.items() if name in INPUTS}


def with_encoder(model: Transformer, encoder: Transformer) -> Transformer:
    """The model with another encoder; one whose table is still the decoder's borrows it. Raises InputError for an
    encoder of another width."""
    if encoder.structure.hidden_size != model.structure.hidden_size:
        raise InputError("an encoder's width cannot change alone: the decoder's cross-attention reads it")
    state = {name: one for name, one in model.state_dict().items() if not name.startswith("encoder.")}
    theirs, structure = dict(encoder.state_dict()), encoder.structure
    mine, table = model.embed, theirs.get("embed.table")
    if isinstance(mine, TokenEmbed) and table is not None and torch.equal(mine.table, table):
        structure = _with_embed(structure, borrowed=True)
        del theirs["embed.table"]
    whole = model.structure.replace(encoder=structure)
    return _filled(whole, {**state, **{f"encoder.{name}": one for name, one in theirs.items()}}, model)


def _borrows(structure: Structure) -> bool:
    return bool(getattr(structure.embed, "borrowed", False))


def _with_embed(structure: Structure, borrowed: bool) -> Structure:
    return structure.replace(embed=structure.embed.replace(borrowed=borrowed))


def _filled(structure: Structure, state: dict[str, torch.Tensor], like: Transformer) -> Transformer:
    result = Transformer(structure)
    result.load_state_dict(state)
    return result.to(next(like.parameters()).device).train(like.training)
