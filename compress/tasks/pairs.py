"""What the tasks on pairs of texts share: both go through the model as one sequence, and which text a token is of goes
beside it where the model wants to know.

S samples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.data.tokenizer import tokenizer_of
from compress.json_files import read_object
from compress.tasks.task import GraphInputs
from compress.tasks.text import TextTask
from runtime.texts.text import KINDS, Tokenizer, parse_preprocessing
from targets.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

    from compress.data import TextDataset
    from compress.data.prepared_texts import Encodings
    from compress.model import Structure

#: Families whose config.json may leave out that they have two kinds of tokens.
_TWO_KINDS = ("albert", "bert", "electra", "mobilebert", "nomic_bert")


class PairTask(TextTask):
    """A task on texts and on pairs of texts."""

    def preprocessing(self, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
        section = super().preprocessing(folder, note)
        if "prompt" in section:
            raise InputError(f"{folder}: a prompt before pairs of texts is not supported; remove default_prompt_name")
        separator = _separator(folder, section)
        return section if separator is None else {**section, "separator": separator}

    def encoded(self, tokenizer: Tokenizer, dataset: TextDataset) -> Encodings:
        import numpy as np

        found = tokenizer.encode_pairs([row.texts for row in dataset.rows])
        return [(ids,) for ids in found.ids], np.array(found.bytes, np.int64), found.cut

    def graph_inputs(self, structure: Structure, seed: int) -> GraphInputs:
        import torch

        plain = super().graph_inputs(structure, seed)
        if structure.preprocessing.get("separator") is None:
            return plain
        generator = torch.Generator().manual_seed(seed)

        def completed(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            shape = inputs["input_ids"].shape
            return {**inputs, KINDS: torch.randint(2, shape, generator=generator)}

        dynamic = {**plain.dynamic, KINDS: plain.dynamic["input_ids"]}
        return GraphInputs(completed(plain.example), dynamic, list(map(completed, plain.cases)))


def _separator(folder: Path, section: Mapping[str, Any]) -> int | None:
    """The token that ends the first of two texts; None for a model that is not told which text a token is of.
    Raises InputError where its tokenizer does not separate them."""
    config, own = read_object(folder / "config.json"), tokenizer_of(folder)
    options = folder / "tokenizer_config.json"
    inputs = read_object(options).get("model_input_names") if options.is_file() else None
    kinds = config.get("type_vocab_size", 2 if config.get("model_type") in _TWO_KINDS else 0)
    if own is None or not isinstance(kinds, int) or kinds < 2 or (isinstance(inputs, list) and KINDS not in inputs):
        return None
    return Tokenizer(own, parse_preprocessing(section)).separator()
