"""What was read of a checkpoint, held against the original library's own forward pass on two small inputs.

B batch, N tokens, D hidden size.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.json_files import read_object
from compress.judging.original import reading, resized
from targets.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from compress.model import Transformer

#: Tokens of the two texts.
_TOKENS = 12
#: Weights up to which a second copy of the model is worth its memory and time.
_MOST = 1_500_000_000
#: Largest difference that rounding makes, as a part of the largest output where that is above 1.
_TOLERANCE = 1e-3
_NOT = "not held against the original library"
#: What some of its classes call an output that others call by the usual name.
_NAMES = {"prediction_logits": "logits"}


def held_against_original(folder: Path, model: Transformer) -> str:
    """One line that says how close the model that was read is to what transformers makes of its folder, or why that
    was not looked at. Raises InputError if they compute something else."""
    if importlib.util.find_spec("transformers") is None:
        return f"{_NOT}: the package transformers is not installed"
    if model.num_parameters() > _MOST:
        return f"{_NOT}: a second copy of {model.num_parameters():,} parameters would take long"
    import torch
    import transformers

    config = read_object(folder / "config.json")
    classes = config.get("architectures")
    name = str(classes[0]) if isinstance(classes, list) and classes else ""
    original_class = getattr(transformers, name, None)
    if original_class is None or not hasattr(original_class, "from_pretrained"):
        return f"{_NOT}: transformers has no class {name or 'by architectures in config.json'}"
    transformers.utils.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    inputs = _inputs(model, config)
    try:
        original, loading = original_class.from_pretrained(folder, **reading())
        if loading["missing_keys"]:
            return f"{_NOT}: {name} of transformers lacks weights here ({min(loading['missing_keys'])})"
        with torch.no_grad():
            answer = original.eval()(**inputs, **resized(original, model, config))
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - transformers and its libraries have classes of their own
        return f"{_NOT}: transformers does not run this folder ({str(error).partition(chr(10))[0][:120]})"
    apart, largest, held = 0.0, 1.0, _pairs(model, inputs, answer)
    if not held:
        return f"{_NOT}: {name} gives nothing that the model here gives too"
    for mine, theirs in held:
        largest = max(largest, float(theirs.abs().max()))
        apart = max(apart, _apart(mine, theirs, inputs))
    if not apart <= _TOLERANCE * largest:
        raise InputError(
            f"{folder}: what was read computes something else than {name} of transformers: off by {apart:.2g}, largest "
            f"{largest:.2g}. Please report it; --no-check goes on all the same"
        )
    return f"held against {name} of transformers {transformers.__version__} on 2 inputs: off by {apart:.1e} at most"


def _inputs(model: Transformer, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Two random images or spectrograms, or two random texts, the second of which is padded."""
    import torch

    from compress.model.embeds.patch import PatchEmbedSpec

    embed, section = model.structure.embed, model.structure.preprocessing
    generator = torch.Generator().manual_seed(0)
    if isinstance(embed, PatchEmbedSpec):
        return {**embed.random(2, generator), **_texts(model, generator)}
    length, pad = min(_TOKENS, int(section["max_length"])), int(section["pad_id"])
    ids_BN = torch.randint(int(section["vocab_size"]), (2, length), generator=generator)
    ids_BN = torch.where(ids_BN == pad, (pad + 1) % int(section["vocab_size"]), ids_BN)
    mask_BN = torch.ones_like(ids_BN)
    ids_BN[1, length - length // 3 :], mask_BN[1, length - length // 3 :] = pad, 0
    if model.structure.follows is not None:  # the original wants one token that ends the text, the last
        end = int(config.get("eos_token_id", 2))
        ids_BN = torch.where(ids_BN == end, (end + 1) % int(section["vocab_size"]), ids_BN)
        ids_BN[[0, 1], mask_BN.sum(dim=1) - 1] = end
    inputs = {"input_ids": ids_BN, "attention_mask": mask_BN}
    return (
        inputs
        if model.encoder is None or model.structure.follows is not None
        else {**inputs, "decoder_input_ids": ids_BN.flip(0)[:1].repeat(2, 1)}
    )


def _texts(model: Transformer, generator: torch.Generator) -> dict[str, Tensor]:
    """Three random texts for a model that holds images against texts."""
    import torch

    from compress.model.heads.two_towers import TwoTowersSpec

    head = model.structure.head
    if not isinstance(head, TwoTowersSpec) or head.text is None:
        return {}
    texts = head.text.embed.sequence(3, int(model.structure.preprocessing["text"]["max_length"]), generator)
    return {**texts, "attention_mask": torch.ones_like(texts["input_ids"])}


def _pairs(model: Transformer, inputs: dict[str, Tensor], answer: Any) -> list[tuple[Tensor, Tensor]]:
    """The same outputs of both by their names; for embeddings the tokens before they are pooled."""
    import torch

    from compress.model.heads.embedding import VectorSpec

    with torch.no_grad():
        if not isinstance(model.structure.head, VectorSpec):
            given = {_NAMES.get(name, name): theirs for name, theirs in answer.items()}
            return [(mine, given[name]) for name, mine in model.outputs(inputs).items() if name in given]
        tokens_BND, vector_BD = _tokens(model, inputs), model(inputs)
    # Which of its tensors is the vector differs between classes (CLIP's tokens are not normed, ViT's pooler is a map).
    known = [
        (vector_BD, "image_embeds"),
        (vector_BD, "text_embeds"),
        (tokens_BND, "last_hidden_state"),
        (vector_BD, "pooler_output"),
    ]
    found = [(mine, answer[name]) for mine, name in known if answer.get(name) is not None]
    same = [pair for pair in found if pair[0].shape == pair[1].shape]
    return sorted(same or found, key=lambda pair: _apart(pair[0], pair[1], inputs))[:1]


def _apart(mine: Tensor, theirs: Tensor, inputs: dict[str, Tensor]) -> float:
    """The largest difference, of real tokens where it is one of tokens."""
    from compress.model.sequence import answered_mask

    if mine.shape != theirs.shape:
        return float("inf")
    real_BN = answered_mask(inputs)
    if real_BN is not None and theirs.shape[:2] == real_BN.shape:
        mine, theirs = (one[real_BN.bool()] for one in (mine, theirs))
    return float((mine - theirs).abs().max())


def _tokens(model: Transformer, inputs: dict[str, Tensor]) -> Tensor:
    """The tokens behind the final norm (B,N,D)."""
    x_BND, context = model.begun(inputs)
    for step in model.structure.schedule:
        x_BND, context = model.block(step.block)(x_BND, step.loop, context)
    return x_BND if model.final_norm is None else model.final_norm(x_BND)
