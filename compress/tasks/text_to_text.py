"""Text to text: translating, summarizing, correcting with an encoder and a decoder. Judged by the BLEU of what is
written greedily; chrF, the references' perplexity, equal texts and the KL to the original are reported beside it.

S samples, B batch, N tokens, V vocabulary, P places.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.tasks.decoding import Stateful
from compress.tasks.feeding import fitted
from compress.tasks.task import AnyPart, DataChoice, GraphInputs, Prepared, Tell
from compress.tasks.text import BATCH
from runtime.bundles.manifest import DECODER, ENCODER
from runtime.states import OF_DECODER
from runtime.texts.text import TARGET, Tokenizer, parse_preprocessing
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from compress.data import TextDataset
    from compress.data.pairs.prepared import PreparedPairs
    from compress.heal.objective import Feed, Objective
    from compress.model import Structure, Transformer
    from compress.model.forms.source_to_target import SourceToTarget
    from compress.tasks.task import Arrays, Run
    from compress.verification.kinds.translations import Translations
    from compress.verification.samples import Samples

#: Scores (texts x tokens x vocabulary) that are kept for divergences, and places of a text that have some, at most.
KEPT, PLACES = 1 << 24, 8
#: (batch, source tokens, chunk, past) at which the graph must agree with torch.
CHECKED_SIZES = ((1, 7, 3, 0), (2, 5, 1, 5), (3, 4, 4, 2), (1, 3, 1, 24))
#: Tokens of golden samples.
GOLDEN_TOKENS = 8
#: A greedy text is at most this many times as long as its source, and this many tokens longer.
LONGEST_TIMES, LONGEST_MORE = 2, 16


class TextToText(Stateful["SourceToTarget"]):
    """Pairs of a source and a target; one with an empty side is refused."""

    name = "text-to-text"
    architectures = ("ForConditionalGeneration", "MTModel")
    head = "target-token"
    auto_class = "AutoModelForSeq2SeqLM"
    outputs = ("logits",)
    metric = "bleu"
    recipes = "translation"
    golden = 2

    def preprocessing(self, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
        from compress.data.pairs.target_text import target_section

        section = super().preprocessing(folder, note)
        section = {**section, "target": target_section(folder, section)}
        parse_preprocessing(section, f"{folder}/config.json")
        return section

    def copy_files(self, folder: Path, destination: Path) -> None:
        from compress.data.pairs.target_text import TARGET_TOKENIZER, target_tokenizer_of

        super().copy_files(folder, destination)
        own = target_tokenizer_of(folder)
        if own is not None:
            shutil.copyfile(own, destination / TARGET_TOKENIZER)

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "text"}

    def suited(self, dataset: TextDataset, part: AnyPart) -> TextDataset:
        dataset.check()
        return replace(dataset, class_names=(), numbers={})

    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> PreparedPairs:
        from compress.data.pairs.prepared import PreparedPairs, encoded_pairs

        assert files is not None
        dataset, spec = self._dataset(choice, part), parse_preprocessing(preprocessing)
        if spec.target is None:
            raise InputError(f"{files} does not say what its decoder writes; make the bundle again")
        tokenizers = [Tokenizer(files / name, spec) for name in (spec.tokenizer, spec.target.tokenizer)]
        texts, sizes, cut = encoded_pairs(tokenizers, dataset, spec)
        bare = [dataset.rows[index].name for index, one in enumerate(texts) if not all(one)]
        if bare:
            raise dataset.unusable(bare, "the text has no tokens")
        note = (f"{cut} texts are longer than the model takes and were cut",) if cut else ()
        return PreparedPairs(
            dataset,
            spec,
            texts,
            sizes,
            dataset.notes + note,
            tokenizer=tokenizers[1],
            encode=lambda _, other: encoded_pairs(tokenizers, other, spec),
        )

    def module(self, model: Transformer) -> SourceToTarget:
        from compress.model.forms.source_to_target import SourceToTarget

        return SourceToTarget(model)

    def graph_inputs(self, structure: Structure, seed: int) -> GraphInputs:
        import torch

        generator, form = torch.Generator().manual_seed(seed), self.skeleton(structure)
        longest = int(structure.preprocessing["max_length"])

        def example(batch: int, length: int, chunk: int, past: int) -> dict[str, Tensor]:
            chunk = min(chunk, longest)
            return form.example(batch, min(length, longest), chunk, min(past, longest - chunk), generator)

        return GraphInputs(example(2, 5, 4, 3), form.dynamic, [example(*sizes) for sizes in CHECKED_SIZES])

    def graphs(self, path: Path) -> dict[str, Path]:
        """The whole, its encoder and its decoder."""
        from export.cut import cut

        return cut(path)

    def shortened(self, inputs: Arrays) -> Arrays:
        return {name: array[:, :GOLDEN_TOKENS] for name, array in inputs.items()}

    def golden_inputs(self, graphs: Mapping[str, Path], inputs: Arrays) -> dict[str, Arrays]:
        """The decoder is given what the encoder makes of the same sources."""
        from runtime import ort

        encoder = ort.load(graphs[ENCODER], threads=1)
        memory = encoder.run(fitted(graphs[ENCODER].name, inputs, encoder.inputs))
        written = {**{name: inputs[given] for given, name in OF_DECODER.items()}, **memory}
        sources = {name: path for name, path in graphs.items() if name != DECODER}
        return {
            **super().golden_inputs(sources, inputs),
            **super().golden_inputs({DECODER: graphs[DECODER]}, written),
        }

    def answers(self, run: Run, data: Prepared, tell: Tell, batch: int | None = None) -> Translations:
        import numpy as np

        from compress.data.pairs.prepared import PreparedPairs
        from compress.verification.kinds.texts import bleu_counts, digest_of
        from compress.verification.kinds.translations import Translations, chrf_counts

        assert isinstance(data, PreparedPairs) and data.tokenizer is not None
        places = max(1, min(PLACES, KEPT // (len(data) * data.spec.vocab_size)))
        nll, kept = np.zeros(len(data)), np.empty((len(data), places, data.spec.vocab_size), np.float16)
        wrote, done = [""] * len(data), 0
        for indices in _alike(data, batch or BATCH):
            logits_BNV = run(data.inputs(indices))[self.outputs[0]]
            for index, logits_NV in zip(indices, logits_BNV, strict=True):
                target = data.texts[index][1]
                log_probs_NV = _log_softmax(logits_NV[: len(target)])
                nll[index] = -log_probs_NV[np.arange(len(target)), target].sum(dtype=np.float64)
                kept[index] = log_probs_NV[np.linspace(0, len(target) - 1, places).astype(int)]
            for index, ids in zip(indices, greedy(run, data, indices), strict=True):
                wrote[index] = data.tokenizer.decode(ids)
            done += len(indices)
            tell(done)
        gold = [row.texts[1] for row in data.dataset.rows]
        pairs = list(zip(wrote, gold, strict=True))
        return Translations(
            np.array([bleu_counts(*pair) for pair in pairs], np.int64),
            np.array([chrf_counts(*pair) for pair in pairs], np.int64),
            nll,
            np.array([len(target) for _, target in data.texts], np.int64),
            np.array(list(map(digest_of, gold)), np.int64),
            np.array(list(map(digest_of, wrote)), np.int64),
            kept,
        )

    def headline(self, answers: Samples) -> str:
        from compress.verification.metrics import METRICS

        bleu, chrf, perplexity = (METRICS[name].value(answers) for name in ("bleu", "chrf", "target_perplexity"))
        return f"BLEU {bleu:.2f}, chrF {chrf:.2f} written greedily, perplexity of the references {perplexity:.3f}"

    @property
    def objective(self) -> Objective:
        from compress.heal.pairs import TARGET_TOKENS

        return TARGET_TOKENS

    def feed(self, data: Prepared, seed: int, device: torch.device, rank: int = 0, world: int = 1) -> Feed:
        from compress.data.pairs.prepared import PreparedPairs
        from compress.heal.pairs import PairFeed

        assert isinstance(data, PreparedPairs)
        return PairFeed(data.texts, data.spec, seed, device, rank, world, data.most)

    def agreement(self, wanted_BK: Tensor, given_BK: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        from compress.data.pairs.prepared import TARGET_MASK

        real_BN = inputs[TARGET_MASK].float()
        same_BN = (wanted_BK.argmax(-1) == given_BK.argmax(-1)).float()
        return (same_BN * real_BN).sum(dim=1) / real_BN.sum(dim=1)

    def agreement_text(self, agreement: float, count: int) -> str:
        return f"same likeliest token as the original {100 * agreement:.1f} % of the time in {count} held-out texts"


def greedy(run: Run, data: PreparedPairs, indices: Collection[int]) -> list[list[int]]:
    """What a whole model writes, the likeliest token each time; a text ends before its stop or where it is much longer
    than its source."""
    import numpy as np

    spec = data.spec
    assert spec.target is not None
    source = {name: array for name, array in data.inputs(indices).items() if name in ("input_ids", "attention_mask")}
    begun = [spec.target.start, *spec.target.forced]
    written = [list(begun) for _ in indices]
    lengths = [len(data.texts[index][0]) for index in indices]
    ends = [min(LONGEST_TIMES * one + LONGEST_MORE, spec.target.max_length) + len(begun) for one in lengths]
    open_rows = list(range(len(written)))
    while open_rows:
        fed = {name: array[open_rows] for name, array in source.items()}
        logits_BNV = run({**fed, TARGET: np.array([written[row] for row in open_rows], np.int64)})["logits"]
        logits_BV = logits_BNV[:, -1].astype(np.float32)
        logits_BV[:, list(spec.target.banned)] = -np.inf
        going = []
        for row, token in zip(open_rows, logits_BV.argmax(axis=1).tolist(), strict=True):
            if token in spec.stop:
                continue
            written[row].append(token)
            going += [row] if len(written[row]) < ends[row] else []
        open_rows = going
    return [ids[len(begun) :] for ids in written]


def _alike(data: PreparedPairs, size: int) -> Iterator[list[int]]:
    """Indices in batches of pairs that are about equally long."""
    order = sorted(range(len(data)), key=lambda index: tuple(map(len, data.texts[index])))
    for start in range(0, len(order), size):
        yield order[start : start + size]


def _log_softmax(logits_NV: np.ndarray) -> np.ndarray:
    import numpy as np

    shifted = logits_NV.astype(np.float32) - logits_NV.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


TASK = TextToText()
