"""What samples look like to the model that ships, for the device to hold against what it sees."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from compress.json_files import read_object
from compress.tasks.feeding import fitted
from runtime import states

if TYPE_CHECKING:
    from compress.tasks.task import Prepared
    from runtime.field.drift import Summary

#: With fewer samples a reference tells too little.
LEAST = 50


def reference(data: Prepared, file: Path, unknown: int | None) -> Summary | None:
    """Of samples evenly over the data, one at a time as a device may ask. `unknown`: the token of words that the
    tokenizer does not know. None for a model with state, which takes its inputs bit by bit, and for few samples.

    Give samples that nothing was trained on: of those the model is as sure as it will be of new ones.
    """
    import numpy as np

    from compress.judging.questions import spread
    from runtime import ort
    from runtime.field.drift import LEARNED, Summary, looked_at, numbers_of

    graph = ort.load(file)
    if states.states_of(graph.inputs) or len(data) < LEAST:
        return None
    output, seen = looked_at(graph.outputs), []
    for inputs in data.batches(1, spread(len(data), LEARNED)):
        fed = fitted(file.name, inputs, graph.inputs)
        results = graph.run(fed)
        seen.append(numbers_of(fed, results[output] if output is not None else None, unknown))
    summary = Summary.of({name: np.concatenate([one[name] for one in seen]) for name in seen[0]})
    return replace(summary, unknown=unknown)


def unknown_token(tokenizer: Path) -> int | None:
    """The token that stands for what a tokenizer.json does not know; None where there is none such. Raises
    InputError."""
    model = read_object(tokenizer).get("model")
    if not isinstance(model, dict):
        return None
    if isinstance(model.get("unk_id"), int):
        return int(model["unk_id"])
    words, token = model.get("vocab"), model.get("unk_token")
    return words.get(token) if isinstance(words, dict) and isinstance(token, str) else None
