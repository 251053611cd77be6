"""What tasks on causal models share: the graph that ships takes a chunk and the past, and gives the state after it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from compress.tasks.task import AnyPart, DataChoice, GraphInputs
from compress.tasks.text import TextTask
from runtime import states

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from compress.data.prepared_texts import PreparedTexts
    from compress.model import Structure, Transformer
    from compress.model.forms.source_to_target import SourceToTarget
    from compress.model.forms.streaming import Streaming
    from compress.tasks.task import Arrays, Prepared

#: (batch, chunk, past) at which the graph must agree with torch: prompts, single tokens, chunks behind a past.
CHECKED_SIZES = ((1, 7, 0), (2, 1, 5), (3, 4, 2), (1, 1, 64))
#: Texts whose tokens are fed in several ways, one behind the other.
STREAMED_TEXTS = 64
#: Tokens of a golden sample.
GOLDEN_TOKENS = 16


Form = TypeVar("Form", bound="Streaming | SourceToTarget")


class Stateful(TextTask, Generic[Form]):
    """A task whose graph is a form of the model that takes a past and gives what follows it."""

    @abstractmethod
    def module(self, model: Transformer) -> Form: ...

    def skeleton(self, structure: Structure) -> Form:
        """The form of a model without its weights. Raises InputError for a model that has no such form."""
        import torch

        from compress.model import Transformer

        with torch.device("meta"):
            return self.module(Transformer(structure))

    def graph_outputs(self, structure: Structure) -> tuple[str, ...]:
        return tuple(self.skeleton(structure).outputs)


class Decoding(Stateful["Streaming"]):
    """A task whose model is fed token by token. Its samples are whole sequences: chunks behind an empty past."""

    golden = 2
    keeps_state = True

    def shortened(self, inputs: Arrays) -> Arrays:
        """Every token has an answer as wide as the vocabulary: a few tokens are enough."""
        names = ("input_ids", "attention_mask", "position_ids")
        return {name: array[:, :GOLDEN_TOKENS] if name in names else array for name, array in inputs.items()}

    def module(self, model: Transformer) -> Streaming:
        from compress.model.forms.streaming import Streaming

        return Streaming(model)

    def graph_inputs(self, structure: Structure, seed: int) -> GraphInputs:
        import torch

        generator, streaming = torch.Generator().manual_seed(seed), self.skeleton(structure)
        longest = int(structure.preprocessing["max_length"])

        def example(batch: int, chunk: int, past: int) -> dict[str, Tensor]:
            chunk = min(chunk, longest)
            return streaming.example(batch, chunk, min(past, longest - chunk), generator)

        cases = [example(*sizes) for sizes in CHECKED_SIZES]
        return GraphInputs(example(2, 4, 3), streaming.dynamic, cases)

    def stream_tokens(self, data: Prepared) -> np.ndarray:
        import numpy as np

        from compress.data.prepared_texts import PreparedTexts

        assert isinstance(data, PreparedTexts)
        return np.array([token for ids in data.ids[:STREAMED_TEXTS] for token in ids], np.int64)

    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> PreparedTexts:
        """Whole sequences; which states a graph begins with is the graph's business (`compress.tasks.feeding`)."""

        def from_the_start(inputs: Arrays) -> Arrays:
            return {**inputs, states.PLACES: states.positions(inputs[states.MASK])}

        return replace(super().open(choice, part, labels, preprocessing, files), completed=from_the_start)
