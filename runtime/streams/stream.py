"""A causal model fed as a stream: the state of a batch of sequences, kept between calls, asleep and awake.

B batch, N tokens at hand, K what the model gives per token.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtime import states
from runtime.bundles.manifest import GROWING, State, Tensor
from runtime.bundles.tensors import check_outputs
from runtime.faults import read_arrays, told
from runtime.files import parse_json
from runtime.recoding.likeliest import COUNT, TOKENS, VALUES
from runtime.session import Session
from runtime.states import MASK, PLACES, WORDS
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np

#: Longest chunk for a bundle whose target says nothing of it.
CHUNK = 256
_PICKED = (Tensor(VALUES, "float32", ()), Tensor(TOKENS, "int64", ()))
_MAGIC = b"edgepress stream\n"
_FORMAT = 1


@dataclass(frozen=True)
class _Moment:
    """Where the sequences are: their states, how many real tokens each has had (B,), and, for models with caches,
    which tokens of the caches are real (B,P)."""

    states: Mapping[str, np.ndarray]
    seen_B: np.ndarray
    real_BP: np.ndarray


@dataclass(frozen=True)
class Stepped:
    """A model as a stream needs it. `source`: what errors call it. `state`: what is handed from call to call, besides
    `inputs` and `outputs`. `run`: one call. `longest_chunk`: of tokens in a call, where something says it. `file` and
    `sha256`: what a saved state belongs to. `check_ids`: raises InputError for tokens that the model has not. `picks`:
    whether it gives the likeliest tokens itself (`runtime.recoding.likeliest`)."""

    source: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    state: tuple[State, ...]
    run: Callable[[Mapping[str, np.ndarray]], Mapping[str, np.ndarray]]
    max_batch: int
    longest_chunk: int | None
    file: str
    sha256: str
    check_ids: Callable[[Mapping[str, np.ndarray]], None] = lambda inputs: None
    picks: bool = False

    @classmethod
    def of(cls, session: Session) -> Stepped:
        """The model of an open bundle."""
        manifest, past = session.manifest, {state.past for state in session.manifest.state}
        present = {state.present for state in manifest.state}
        return cls(
            str(session.bundle.source),
            tuple(tensor for tensor in manifest.inputs if tensor.name not in past),
            tuple(tensor for tensor in manifest.outputs if tensor.name not in present),
            manifest.state,
            session.backend.run,
            session.max_batch,
            session.longest_chunk,
            session.model.path,
            manifest.files[session.model.path].sha256,
            session.check_ids,
            any(tensor.name == VALUES for tensor in session.backend.outputs),
        )

    @property
    def presents(self) -> list[Tensor]:
        """The states among what a call gives."""
        return [Tensor(state.present, state.dtype, state.shape) for state in self.state]


class Stream:
    """`batch` sequences of one model. Whatever raises leaves them where they were. Calls from several threads wait for
    each other, so that no step is lost; in which order they come is the callers' affair."""

    def __init__(self, model: Session | Stepped, batch: int = 1, fixed: Mapping[str, np.ndarray] | None = None) -> None:
        """`fixed`: what a decoder reads of its sources, a row each, at every step. Raises InputError for a model
        without state, or one whose other inputs are not a sequence."""
        import numpy as np

        self._model = model = model if isinstance(model, Stepped) else Stepped.of(model)
        if not model.state:
            raise InputError(f"{model.source}: its model has no state, so it cannot be fed as a stream")
        if batch < 1 or batch > model.max_batch:
            raise InputError(f"batch is {batch}; allowed: 1 to {model.max_batch}")
        self._fixed = dict(fixed or {})
        short = next((name for name, array in self._fixed.items() if len(array) != batch), None)
        if short is not None:
            raise InputError(f"{short} has {len(self._fixed[short])} rows for {batch} sequences; give one each")
        given = [tensor for tensor in model.inputs if tensor.name not in (MASK, PLACES, *self._fixed)]
        if len(given) != 1 or len(given[0].shape) < 2:
            names = ", ".join(tensor.name for tensor in given)
            raise InputError(f"{model.source}: a stream has one input of tokens, this model has: {names}")
        self._batch, self._tokens = batch, given[0]
        self._source_B = np.arange(batch)  # which row of a first stream's sources each reads
        self._inputs = {tensor.name for tensor in model.inputs}
        self._caches = any(map(states.grows, model.state))
        self._moment = self._begin()
        self._turn = threading.Lock()

    @property
    def batch(self) -> int:
        """How many sequences there are."""
        return self._batch

    @property
    def input_name(self) -> str:
        """The input that tokens come in."""
        return self._tokens.name

    @property
    def tokens(self) -> np.ndarray:
        """How many real tokens each sequence has had (B,)."""
        return self._moment.seen_B.copy()

    @property
    def states(self) -> dict[str, np.ndarray]:
        """The state by the names of its inputs, to look at, not to write to."""
        return dict(self._moment.states)

    @property
    def state_bytes(self) -> int:
        """Memory of the state: constant for models without caches."""
        return sum(array.nbytes for array in self._moment.states.values())

    @property
    def longest_chunk(self) -> int:
        """How many tokens a call of the model takes; longer inputs are split."""
        size = self._tokens.shape[1]
        return size if isinstance(size, int) else self._model.longest_chunk or CHUNK

    def prefill(self, tokens: np.ndarray | Sequence[Any], mask: np.ndarray | None = None) -> np.ndarray:
        """Feed tokens (B,N), or (N,) for a single sequence; returns what the model gives for the last (B,K).

        `mask` (B,N): 1 at real tokens, 0 at padding, which belongs in front.
        Raises InputError for tokens that do not fit, GateFailed if the model gives what is not finite.
        """
        return self._feed(tokens, mask, every=False)[:, -1]

    def outputs(self, tokens: np.ndarray | Sequence[Any], mask: np.ndarray | None = None) -> np.ndarray:
        """`prefill`, with what the model gives for every token (B,N,K)."""
        return self._feed(tokens, mask, every=True)

    def step(self, tokens: np.ndarray | Sequence[Any] | int) -> np.ndarray:
        """Feed one token per sequence (B,), or a single id; returns what the model gives for it (B,K)."""
        array = _array(tokens)
        one_BN = array.reshape(1, 1) if array.ndim == 0 else array[:, None]
        return self._feed(one_BN, None, every=False)[:, -1]

    def likeliest(self, tokens: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """`step`, for a model that says how likely each next token is: log-probabilities of the `count` likeliest
        (B,C), best first, and these tokens (B,C)."""
        import numpy as np

        from runtime.texts.search import likeliest

        x, mask_BN = self._checked(_array(tokens)[:, None], None)
        most = {COUNT: np.array([count])} if self._model.picks else None
        with self._turn:
            found, self._moment = self._call(x, mask_BN, self._moment, most)
        if most is None:
            values_BC, tokens_BC = likeliest(found[self._model.outputs[0].name][:, -1], count)
        else:
            values_BC, tokens_BC = found[VALUES][:, -1], found[TOKENS][:, -1]
        return values_BC, found[WORDS][tokens_BC] if WORDS in found else tokens_BC

    def reset(self) -> None:
        """Back to before the first token."""
        with self._turn:
            self._moment = self._begin()

    def fork(self) -> Stream:
        """A stream of its own that goes on from here."""
        return self._at(self._moment, self._fixed, self._source_B)

    def select(self, rows: Sequence[int]) -> Stream:
        """A stream that goes on from these sequences, in this order; a row may come more than once (beam search)."""
        import numpy as np

        index = np.asarray(rows, np.int64)
        if not index.size or index.min() < 0 or index.max() >= self._batch or len(index) > self._model.max_batch:
            raise InputError(f"rows {list(rows)}: allowed: 1 to {self._model.max_batch} of 0 to {self._batch - 1}")
        now, source_B = self._moment, self._source_B[index]
        same = np.array_equal(source_B, self._source_B)  # beams of one source read the same rows, whichever goes on
        fixed = self._fixed if same else {name: array[index] for name, array in self._fixed.items()}
        moment = _Moment(
            {name: array[index] for name, array in now.states.items()}, now.seen_B[index], now.real_BP[index]
        )
        return self._at(moment, fixed, source_B)

    def save(self) -> bytes:
        """The state as bytes, for `load` on a stream of the same model file, batch and sources."""
        import numpy as np

        now = self._moment
        header = {"format": _FORMAT, "model": self._model.sha256, "batch": self._batch, "source": self._stamp()}
        arrays = {
            "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
            "seen": now.seen_B,
            "real": now.real_BP,
            **{f"state {name}": array for name, array in now.states.items()},
        }
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        payload = buffer.getvalue()
        return _MAGIC + hashlib.sha256(payload).digest() + payload

    def load(self, data: bytes) -> None:
        """Go on from a saved state.

        Raises InputError, and stays as it is, if the bytes are not a saved state, damaged, of a newer edgepress, of
        another model or batch, of other sources or shapes, or not finite.
        """
        moment = self._read(data)
        with self._turn:
            self._moment = moment

    def _at(self, moment: _Moment, fixed: Mapping[str, np.ndarray], source_B: np.ndarray) -> Stream:
        """Another stream of the same model, at this moment."""
        other = copy(self)
        other._batch, other._moment, other._turn = len(source_B), moment, threading.Lock()
        other._fixed, other._source_B = dict(fixed), source_B
        return other

    def _begin(self) -> _Moment:
        """Before the first token."""
        import numpy as np

        fresh = states.fresh(self._model.state, {states.BATCH: self._batch})
        return _Moment(fresh, np.zeros(self._batch, np.int64), np.zeros((self._batch, 0), np.int64))

    def _feed(self, tokens: np.ndarray | Sequence[Any], mask: np.ndarray | None, every: bool) -> np.ndarray:
        import numpy as np

        x, mask_BN = self._checked(tokens, mask)
        parts = []
        with self._turn:
            moment = self._moment
            for start in range(0, x.shape[1], self.longest_chunk):
                span = slice(start, start + self.longest_chunk)
                found, moment = self._call(x[:, span], mask_BN[:, span], moment)
                y = found[self._model.outputs[0].name]
                parts.append(y if every else y[:, -1:])
            self._moment = moment
        return np.concatenate(parts, axis=1) if every else parts[-1]

    def _checked(self, tokens: np.ndarray | Sequence[Any], mask: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        import numpy as np

        tensor = self._tokens
        x = _array(tokens)
        if x.ndim == len(tensor.shape) - 1 and self._batch == 1:
            x = x[None]
        if x.dtype != tensor.dtype and x.dtype.kind == np.dtype(tensor.dtype).kind:
            x = x.astype(tensor.dtype)
        wanted = [self._batch, *tensor.shape[1:]]
        if x.ndim != len(wanted) or x.dtype != tensor.dtype or 0 in x.shape or not _fits(x.shape, wanted):
            raise InputError(f"{tensor.name} is {x.dtype} {list(x.shape)}; allowed: {tensor.dtype} {wanted}")
        self._model.check_ids({tensor.name: x})
        if mask is None:
            return x, np.ones(x.shape[:2], np.int64)
        if MASK not in self._inputs:
            raise InputError(f"this model takes no {MASK}; feed sequences of one length")
        mask_BN = np.asarray(mask)
        if mask_BN.shape != x.shape[:2] or not np.isin(mask_BN, (0, 1)).all():
            raise InputError(f"mask has shape {list(mask_BN.shape)}; allowed: {list(x.shape[:2])} of 0 and 1")
        if (np.diff(mask_BN.astype(np.int64), axis=1) < 0).any():
            raise InputError("mask has padding behind tokens; padding belongs in front")
        return x, mask_BN.astype(np.int64)

    def _call(
        self, x: np.ndarray, mask_BN: np.ndarray, moment: _Moment, most: Mapping[str, np.ndarray] | None = None
    ) -> tuple[Mapping[str, np.ndarray], _Moment]:
        """One call of the model: its outputs, and where the sequences are after it. `most`: how many of the likeliest
        tokens it gives in place of all that it says of every token."""
        import numpy as np

        model = self._model
        real_BM = np.concatenate([moment.real_BP, mask_BN], axis=1) if self._caches else mask_BN
        inputs = {self._tokens.name: x, **(most or {})}
        if MASK in self._inputs:
            inputs[MASK] = real_BM
        if PLACES in self._inputs:
            inputs[PLACES] = states.positions(mask_BN, moment.seen_B)
        fed = {name: np.ascontiguousarray(array) for name, array in inputs.items()}
        outputs = model.run({**fed, **self._fixed, **moment.states})
        # NaN in a state is NaN in what the next call says: of many short calls only that is looked at.
        check_outputs(outputs, _PICKED if most else [*model.outputs, *model.presents], model.file)
        past = {state.past: outputs[state.present] for state in model.state}
        seen_B = moment.seen_B + mask_BN.sum(axis=1)
        return outputs, _Moment(past, seen_B, real_BM if self._caches else moment.real_BP)

    def _stamp(self) -> str:
        """Which sources the state belongs to; "" for a model that has none."""
        if not self._fixed:
            return ""
        digest = hashlib.sha256()
        for name, array in sorted(self._fixed.items()):
            digest.update(f"{name} {array.dtype} {list(array.shape)} ".encode() + array.tobytes())
        return digest.hexdigest()

    def _read(self, data: bytes) -> _Moment:
        import numpy as np

        digest, payload = data[len(_MAGIC) : len(_MAGIC) + 32], data[len(_MAGIC) + 32 :]
        if not data.startswith(_MAGIC):
            raise InputError("these bytes are not a saved state of a stream")
        if hashlib.sha256(payload).digest() != digest:
            raise InputError("the saved state is truncated or damaged; start the sequence again")
        with told("the saved state holds something else than a stream saves", "start again"):
            arrays = read_arrays(io.BytesIO(payload), len(payload))  # as `save` writes it: nothing is compressed
            header = parse_json(arrays["header"].tobytes())
            format_, model, batch = int(header["format"]), str(header["model"]), int(header["batch"])
            source, seen_B, real_BP = str(header.get("source", "")), arrays["seen"], arrays["real"]
            saved = {state.past: arrays[f"state {state.past}"] for state in self._model.state}
        if format_ > _FORMAT:
            raise InputError(f"the saved state has format {format_}, this edgepress reads {_FORMAT}; upgrade it")
        if model != self._model.sha256:
            raise InputError(
                f"the saved state is of another model file (sha256 {model[:12]}...) than "
                f"{self._model.file} ({self._model.sha256[:12]}...)"
            )
        if source != self._stamp():
            raise InputError("the saved state is of another source than this stream's; start from this source again")
        if batch != self._batch:
            raise InputError(f"the saved state has {batch} sequences, this stream {self._batch}")
        if seen_B.shape != (batch,) or real_BP.shape[:1] != (batch,) or real_BP.ndim != 2:
            raise InputError(f"the saved state counts tokens of other sequences than its {batch}; start again")
        sizes = {states.BATCH: self._batch, GROWING: real_BP.shape[1]}
        for state in self._model.state:
            array, wanted = saved[state.past], states.sized(state.shape, sizes)
            if array.shape != wanted or array.dtype != state.dtype:
                raise InputError(f"the saved {state.past} is {array.dtype} {list(array.shape)}, not {list(wanted)}")
            if not np.isfinite(array).all():
                raise InputError(f"the saved {state.past} holds NaN or infinity; start the sequence again")
        return _Moment(saved, seen_B, real_BP)


def _array(tokens: np.ndarray | Sequence[Any] | int) -> np.ndarray:
    """Raises InputError for rows of different lengths."""
    import numpy as np

    try:
        return np.asarray(tokens)
    except ValueError as error:
        raise InputError("the sequences have different lengths; pad them in front and give a mask") from error


def _fits(shape: Sequence[int], wanted: Sequence[int | str]) -> bool:
    return all(isinstance(want, str) or size == want for size, want in zip(shape, wanted, strict=True))
