"""The contract of recurrent state: how states are called, what is a past, fresh state, positions from a mask.

B batch, N tokens at hand, P tokens before them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from runtime.bundles.manifest import GROWING, State, Tensor
from runtime.texts.text import INPUTS, TARGET
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

#: Inputs beside the tokens: 1 at real tokens, those of a cache first, and the place of each token in its sequence.
MASK, PLACES = "attention_mask", "position_ids"
#: The dynamic dimension of the sequences that are fed at once.
BATCH = "batch"
#: 1 at the real tokens of the source, where it stands beside a decoder's own tokens.
SOURCE_MASK = "encoder_attention_mask"
#: What the graph of a decoder alone calls the inputs of the whole that it reads.
OF_DECODER = {TARGET: INPUTS[0], INPUTS[1]: SOURCE_MASK}
_MEMORY = "memory."
#: Of a decoder with a shortlist: 1 at the words that a source may become (B,V), kept of the source, and which words of
#: the vocabulary the scores are of (U,), those of any source of the batch.
ALLOWED, WORDS = f"{_MEMORY}words", "words"
#: How the input and the output of a state begin: a cache has the names of Optimum, others keep their size.
_CACHE, _FIXED = ("past_key_values.", "present."), ("past_", "present_")


def names(step: int, name: str, grows: bool) -> tuple[str, str]:
    """Input and output of a state of the schedule's step: `past_key_values.N.NAME` and `present.N.NAME` for a cache,
    which grows by a row a token, `past_N_NAME` and `present_N_NAME` for what keeps its size."""
    (past, present), dot = (_CACHE, ".") if grows else (_FIXED, "_")
    return f"{past}{step}{dot}{name}", f"{present}{step}{dot}{name}"


def memory_name(step: int, name: str) -> str:
    """What a decoder's step keeps of the source: an output of the graph `encoder`, an input of the graph `decoder`."""
    return f"{_MEMORY}{step}.{name}"


def is_memory(name: str) -> bool:
    """Whether a tensor is what an encoder made of the source for its decoder."""
    return name.startswith(_MEMORY)


def of_source(name: str) -> bool:
    """Whether an input of a decoder says what its source is, and so stays the same from step to step."""
    return is_memory(name) or name == SOURCE_MASK


def every_word(outputs: Iterable[Tensor]) -> dict[str, np.ndarray]:
    """All words, for a graph with these outputs that scores the words it is given; nothing for another graph."""
    import numpy as np

    sizes = (one.shape[-1] for one in outputs if one.name == ALLOWED)
    size = next(sizes, None)
    return {WORDS: np.arange(size)} if isinstance(size, int) else {}


def is_past(name: str) -> bool:
    """Whether an input of a graph is the state after the tokens before."""
    return name.startswith(_FIXED[0])


def present_of(past: str) -> str:
    """The output that is the `past` of the next call."""
    before, after = _CACHE if past.startswith(_CACHE[0]) else _FIXED
    return after + past.removeprefix(before)


def states_of(inputs: Iterable[Tensor]) -> tuple[State, ...]:
    """The states of a graph with these inputs."""
    return tuple(State(one.name, present_of(one.name), one.dtype, _named(one)) for one in inputs if is_past(one.name))


def _named(past: Tensor) -> tuple[int | str, ...]:
    """The shape of a state, its dynamic dimensions by our names: of a cache (batch, heads, tokens, size of a head) the
    first and the third, whatever the program that wrote the file calls them."""
    if not past.name.startswith(_CACHE[0]) or len(past.shape) != 4:
        return past.shape
    ours = {0: BATCH, 2: GROWING}
    return tuple(ours.get(axis, size) if isinstance(size, str) else size for axis, size in enumerate(past.shape))


def grows(state: State) -> bool:
    """Whether it is a cache that grows by a row a token."""
    return GROWING in state.shape


def sized(shape: Sequence[int | str], sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape with its dynamic dimensions filled in; without other words a cache is empty."""
    return tuple({GROWING: 0, **sizes}[size] if isinstance(size, str) else size for size in shape)


def fresh(states: Iterable[State], sizes: Mapping[str, int]) -> dict[str, np.ndarray]:
    """The state before the first token: zeros by the names of the inputs, caches being empty. Raises InputError for a
    dimension that `sizes` does not give."""
    import numpy as np

    started = {}
    for state in states:
        if not {size for size in state.shape if isinstance(size, str)} <= {GROWING, *sizes}:
            raise InputError(
                f"state {state.past!r} is missing and no input tells its shape {list(state.shape)}; give it"
            )
        started[state.past] = np.zeros(sized(state.shape, sizes), state.dtype)
    return started


def positions(mask_BN: np.ndarray, seen_B: np.ndarray | int = 0) -> np.ndarray:
    """The place of each token in its sequence (B,N), of which `seen_B` real tokens came before; padding in front of a
    sequence is at its first place."""
    import numpy as np

    return np.maximum(np.asarray(seen_B).reshape(-1, 1) + mask_BN.cumsum(axis=1) - 1, 0)
