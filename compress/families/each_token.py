"""The heads that give numbers of each token: where a family keeps them, and how they are read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from compress.families.family import Checkpoint, stacked
from compress.model.activations import ActivationName
from compress.model.heads.replaced import ReplacedSpec
from compress.model.heads.span import SpanSpec
from compress.model.heads.token_classifier import EachTokenSpec, TokenClassifierSpec
from compress.model.norms import NormSpec
from targets.errors import InputError


@dataclass(frozen=True)
class TokenHead:
    """Names of the tensors: the map to the numbers, and a map with an activation and a norm in front of it where there
    are any."""

    output: str
    hidden: str | None = None
    activation: ActivationName = "gelu"
    norm: tuple[str, NormSpec] | None = None


#: Where most families keep them, by the head that a task asks for.
USUAL: Mapping[str, TokenHead] = {"token-classes": TokenHead("classifier"), "span": TokenHead("qa_outputs")}
#: How many numbers of a token a head gives, where it is not for the checkpoint to say.
_NUMBERS = {"span": 2, "replaced-token": 1}


def each_token_head(checkpoint: Checkpoint, kind: str, names: TokenHead) -> tuple[EachTokenSpec, dict[str, Tensor]]:
    """Raises InputError for weights that lack the head, or that have one of another size."""
    output = checkpoint.linear(names.output)
    count, wanted = len(output[0]), _NUMBERS.get(kind)
    if wanted is not None and count != wanted:
        raise InputError(
            f"{checkpoint.folder}: {names.output} gives {count} numbers of a token, and {wanted} would be needed; is "
            "it a checkpoint of another architecture?"
        )
    hidden = None if names.hidden is None else checkpoint.linear(names.hidden)
    maps = {"output": output} if hidden is None else {"hidden": hidden, "output": output}
    state = stacked("head", maps) | ({} if names.norm is None else checkpoint.norm(names.norm[0], "head.hidden_norm"))
    parts = {
        "bias": output[1] is not None,
        "hidden": None if hidden is None else names.activation,
        "hidden_bias": hidden is None or hidden[1] is not None,
        "hidden_norm": None if names.norm is None else names.norm[1],
    }
    if kind == "span":
        return SpanSpec.model_validate(parts), state
    if kind == "replaced-token":
        return ReplacedSpec.model_validate(parts), state
    return TokenClassifierSpec.model_validate({"num_labels": count, **parts}), state
