"""Text regression: one number per text or pair of texts, as cross-encoders that rank passages give it.

Judged by its rank correlation with people's scores; the mean absolute difference from the original's is reported
beside it. B batch, K = 1.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.data.tokenizer import tokenizer_of
from compress.json_files import read_object
from compress.tasks.task import AnyPart, GraphInputs, Prepared, Tell
from compress.tasks.text import BATCH, TextTask, one_output, rows_of
from runtime.texts.text import KINDS, Tokenizer, parse_preprocessing
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from compress.data import TextDataset
    from compress.data.prepared_texts import Encodings
    from compress.heal.objective import Objective
    from compress.heal.options import HealOptions
    from compress.model import Structure
    from compress.tasks.task import Run
    from compress.verification.kinds.scores import TextScores
    from compress.verification.samples import Samples

#: Families whose config.json may leave out that they have two kinds of tokens.
_TWO_KINDS = ("albert", "bert", "electra", "nomic_bert")


@dataclass(frozen=True)
class SquaredError:
    """Mean squared difference from the original's number; labels are not trained on."""

    drift_name: str = "mean squared error"

    def drift(self, answer_BK: Tensor, target_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return (answer_BK.float() - target_BK.float()).square().mean()

    def loss(
        self,
        options: HealOptions,
        answer_BK: Tensor,
        target_BK: Tensor,
        inputs: Mapping[str, Tensor],
        labels: Tensor | None,
    ) -> Tensor:
        if options.task:
            raise InputError("heal.task trains on labels of classes, and this model gives a number; leave it out")
        return options.kl * self.drift(answer_BK, target_BK, inputs)


class TextRegression(TextTask):
    """Numbers of texts and of pairs of texts."""

    name = "text-regression"
    architectures = ("ForSequenceClassification",)
    head = "score"
    auto_class = "AutoModelForSequenceClassification"
    outputs = ("logits",)
    metric = "spearman"

    def claims(self, config: Mapping[str, object]) -> bool:
        return one_output(config) and config.get("problem_type") in (None, "regression")

    def preprocessing(self, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
        section = super().preprocessing(folder, note)
        if "prompt" in section:
            raise InputError(f"{folder}: a prompt before pairs of texts is not supported; remove default_prompt_name")
        separator = _separator(folder, section)
        return section if separator is None else {**section, "separator": separator}

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "none"}

    def suited(self, dataset: TextDataset, part: AnyPart) -> TextDataset:
        dataset.check()
        if part == "healing":
            return replace(dataset, class_names=(), numbers={})
        return dataset.with_numbers()

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

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> TextScores:
        import numpy as np

        from compress.data.prepared_texts import PreparedTexts
        from compress.verification.kinds.scores import TextScores

        assert isinstance(data, PreparedTexts)

        def seen(indices: list[int], rows: np.ndarray, done: int) -> None:
            tell(done)

        rows = rows_of(run, data.ids, data.spec, self.outputs[0], batch or BATCH, seen)
        if rows.shape[1] != 1:
            raise InputError(f"the model gives {rows.shape[1]} numbers for a text; {self.name} needs one")
        gold = np.array([row.score for row in data.dataset.rows], np.float64)
        return TextScores(rows[:, 0].astype(np.float64), gold)

    def headline(self, answers: Samples) -> str:
        from compress.verification.metrics import METRICS

        return f"Spearman x 100 of {len(answers)} texts: {METRICS[self.metric].value(answers):.2f}"

    @property
    def objective(self) -> Objective:
        return SquaredError()

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        return 1 / (1 + (wanted_BK - given_BK).float().abs()[:, 0])

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"1 / (1 + difference from the original's number) is {agreement:.4f} on {count} held-out"


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


TASK = TextRegression()
