"""What a rewrite is: named options and a pure function from a model to a new model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

import torch
from pydantic import ValidationError

from compress.model.sequence import answered_mask
from compress.model.transformer import Transformer
from compress.rewrites.calibration import Calibration
from compress.rewrites.search_range import SearchRange
from compress.rewrites.stacks import ENCODER, STACKS, encoder_of, source_of, with_encoder
from compress.spec import Spec, first_cause, unknown
from targets.errors import InputError

#: Keys of a recipe's `[[rewrite]]` table that are not the method's own.
OF_THE_RECIPE = ("use", "optional", "stack")
#: An exact rewrite may move a logit by this much (fp32), relative to the largest logit where that is above 1.
EXACTNESS = 1e-5


class Options(Spec):
    """Base of the options of a rewrite."""

    @classmethod
    def example(cls) -> Self:
        """With the examples that fields give of themselves: the least that has to be said, of a model of two layers.
        Every rewrite is tested with it."""
        return cls.model_validate({name: one.examples[0] for name, one in cls.model_fields.items() if one.examples})


OptionsT = TypeVar("OptionsT", bound=Options)
Apply = Callable[[Transformer, Any, Calibration], Transformer]


@dataclass(frozen=True)
class Rewrite:
    """`exact`: the rewritten model computes the same function, and this is asserted when it runs. `on_export`: export
    applies it by itself, to models that it does not refuse; it must be exact and have no options to choose. `search`:
    what a search may try of it; None for one that no search chooses. `narrows`: tokens become narrower on their way, so
    that nothing behind it can be held to the original's."""

    name: str
    options: type[Options]
    apply: Apply
    exact: bool
    on_export: bool = False
    search: SearchRange | None = None
    narrows: bool = False

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return (self.apply.__doc__ or "").strip().splitlines()[0]


REWRITES: dict[str, Rewrite] = {}


def rewrite(
    name: str,
    options: type[OptionsT],
    *,
    exact: bool = False,
    on_export: bool = False,
    search: SearchRange | None = None,
    narrows: bool = False,
) -> Callable[[Callable[[Transformer, OptionsT, Calibration], Transformer]], Apply]:
    """Register a function as the rewrite that recipes call `name`."""

    def register(apply: Callable[[Transformer, OptionsT, Calibration], Transformer]) -> Apply:
        if name in REWRITES:
            raise TypeError(f"two rewrites are called {name!r}")
        REWRITES[name] = Rewrite(name, options, apply, exact, on_export, search, narrows)
        return apply

    return register


def parse_options(table: Mapping[str, Any]) -> tuple[Rewrite, Options]:
    """Read a recipe's `[[rewrite]]` table. Raises InputError with the key, what was given and what is allowed.

    `optional` and `stack` are the recipe's, not the method's: whether a model that the method refuses is left as it is,
    and which stack of an encoder-decoder it works on.
    """
    if "use" not in table:
        raise InputError("a [[rewrite]] of the recipe says not which; give it use = NAME")
    name = table["use"]
    if not isinstance(name, str) or name not in REWRITES:
        raise InputError(unknown("rewrite", name, REWRITES))
    method = REWRITES[name]
    if not isinstance(table.get("optional", False), bool):
        raise InputError(f"rewrite {name!r}: optional: must be true or false (given: {table['optional']!r})")
    if table.get("stack", STACKS[0]) not in STACKS:
        raise InputError(f"rewrite {name!r}: stack: must be {' or '.join(STACKS)} (given: {table['stack']!r})")
    try:
        return method, method.options.model_validate(options_in(table))
    except ValidationError as error:
        raise InputError(f"rewrite {name!r}: {first_cause(error)}") from error


def export_forms() -> list[Rewrite]:
    """The rewrites that export applies by itself, in this order: what works on fewer tokens, then the packing."""
    return sorted((method for method in REWRITES.values() if method.on_export), key=lambda one: one.name, reverse=True)


def options_in(table: Mapping[str, Any]) -> dict[str, Any]:
    """The method's own options in a recipe's `[[rewrite]]` table."""
    return {key: value for key, value in table.items() if key not in OF_THE_RECIPE}


def run_rewrite(
    method: Rewrite, options: Options, model: Transformer, calibration: Calibration, stack: str | None = None
) -> Transformer:
    """Apply a rewrite to a model, or to one `stack` of an encoder-decoder, and check what every rewrite owes: finite
    weights, and the same logits if it is exact.

    Raises InputError if the rewrite is refused for this model, or an exact one turns out not to be exact, and for a
    stack that is not said where there are two, or said where there is one.
    """
    if (stack is None) != (model.encoder is None):
        known = " or ".join(f'"{one}"' for one in STACKS)
        wanted = f"say which: stack = {known}" if stack is None else "leave stack out"
        count = "one stack" if model.encoder is None else "an encoder and a decoder"
        raise InputError(f"rewrite {method.name!r}: this model has {count}; {wanted}")
    if stack == ENCODER:
        mine, theirs = encoder_of(model), encoder_of(calibration.original)
        sources = replace(calibration, original=theirs, batches=lambda: map(source_of, calibration.batches()))
        return with_encoder(model, run_rewrite(method, options, mine, sources))
    with torch.no_grad():
        result = method.apply(model, options, calibration).eval()
        for name, tensor in result.state_dict().items():
            if not bool(torch.isfinite(tensor).all()):
                raise InputError(f"rewrite {method.name!r} left {name} without finite values; try fewer layers")
        if method.exact:
            _assert_exact(method, model, result, calibration)
    return result


def logit_change(model: Transformer, other: Transformer, calibration: Calibration) -> tuple[float, float]:
    """Largest absolute difference of the logits on the first calibration batch, and the largest logit."""
    inputs = next(calibration.batches())
    with torch.no_grad():
        logits, others = model(inputs), other(inputs)
    mask_BN = answered_mask(inputs)
    if model.structure.head.each_token and mask_BN is not None:  # of each token: padding means nothing
        logits, others = logits[mask_BN.bool()], others[mask_BN.bool()]
    return float((logits - others).abs().max()), float(logits.abs().max())


def _assert_exact(method: Rewrite, model: Transformer, result: Transformer, calibration: Calibration) -> None:
    change, largest = logit_change(model, result, calibration)
    if not change <= EXACTNESS * max(1.0, largest):
        raise InputError(
            f"rewrite {method.name!r} should be exact but moved a logit by {change:.2e} (largest logit {largest:.3g})"
        )
    calibration.note(f"{method.name}: exact, logits moved by {change:.1e} at most")
