"""What the tasks on texts share: the tokenizer that travels, padded batches, graphs with a dynamic length."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase, ascii_uppercase
from typing import TYPE_CHECKING, Any

from compress.data.tokenizer import OLDER, tokenizer_of, truncation_side
from compress.json_files import read_object
from compress.tasks.feeding import fitted
from compress.tasks.task import AnyPart, DataChoice, GraphInputs, Part, Prepared, Task, Wires
from runtime.texts.text import TOKENIZER, TextPreprocessing, Tokenizer, parse_preprocessing
from targets.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from compress.data import TextDataset
    from compress.data.prepared_texts import Encodings, PreparedTexts
    from compress.heal.objective import Feed
    from compress.model import Structure
    from compress.tasks.task import Run
    from runtime.bundles.manifest import Tensor as Declared

#: Texts that go through a model at once, where nobody waits for a single answer.
BATCH = 32
#: Tokens of a text when files are timed: a sentence.
TIMED_TOKENS = 32
#: Characters of a text that a report shows.
SHOWN = 400
#: (texts, tokens) at which the graph must agree with torch; those with more than one text hold padding.
CHECKED_SIZES = ((1, 3), (2, 16), (3, 7))
#: Names of the position table's size in configs.
_POSITIONS = ("max_position_embeddings", "n_positions", "n_ctx", "seq_length")
#: Families whose places begin behind the padding's row.
_BEHIND_PADDING = ("roberta", "xlm-roberta", "camembert", "mpnet")
#: What tokenizers say that know no limit is far more.
_NO_LIMIT = 1e6
_DYNAMIC = {name: {0: "batch", 1: "length"} for name in ("input_ids", "attention_mask")}


class TextTask(Task):
    """A task on token ids."""

    noun = "texts"
    beside = "tokenizer.json and config.json"
    recipes = "text"
    passengers = (
        "config.json",
        TOKENIZER,
        "tokenizer_config.json",
        "generation_config.json",
        "special_tokens_map.json",
        "modules.json",
        "sentence_bert_config.json",
        "config_sentence_transformers.json",
        "1_Pooling/config.json",
    )
    libraries = ("numpy", "tokenizers")

    def preprocessing(self, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
        config, tokens = _object(folder / "config.json"), _object(folder / "tokenizer_config.json")
        sentences = _object(folder / "sentence_bert_config.json")
        pad = config.get("pad_token_id")
        limits = [
            _limit(folder / "sentence_bert_config.json", sentences, "max_seq_length"),
            _limit(folder / "tokenizer_config.json", tokens, "model_max_length"),
            _positions(config),
        ]
        known = [int(limit) for limit in limits if limit is not None and 0 < limit < _NO_LIMIT]
        lacking = [] if isinstance(config.get("vocab_size"), int) else ["vocab_size"]
        lacking += [] if known else [f"how long a text may be ({_POSITIONS[0]})"]
        if lacking:
            raise InputError(f"{folder}/config.json does not say {' nor '.join(lacking)}; add it")
        stops = _stops(folder, config)
        end = config.get("eos_token_id")
        section = {
            "kind": "text",
            "vocab_size": config["vocab_size"],
            "max_length": min(known),
            "pad_id": pad if isinstance(pad, int) and pad >= 0 else end if end in stops else 0,
            "padding_side": "right",
            "tokenizer": TOKENIZER,
            "stop": stops,
            **({"truncation_side": "left"} if truncation_side(folder) == "left" else {}),
            **_prompts(folder),
        }
        spec = parse_preprocessing(section, f"{folder}/config.json")
        own = tokenizer_of(folder)
        if own is not None:
            tokenizer = Tokenizer(own, spec)  # refuses one that is damaged or another model's
            if sentences.get("do_lower_case") is True and not _lowers(tokenizer):
                raise InputError(
                    f"{folder}/sentence_bert_config.json lowers texts before its tokenizer does its work, which is not "
                    f"supported; put a Lowercase normalizer into {TOKENIZER}"
                )
        return section

    def copy_files(self, folder: Path, destination: Path) -> None:
        super().copy_files(folder, destination)
        copy_tokenizer(folder, destination)

    def digest(self, choice: DataChoice, part: Part, memo: Path) -> str:
        return self._dataset(choice, part).digest()

    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> PreparedTexts:
        from compress.data.prepared_texts import prepare_texts

        assert files is not None
        dataset = self.matched(self._dataset(choice, part), labels or ())
        return self.usable(prepare_texts(dataset, preprocessing, files, choice.skip_corrupt, self.encoded))

    def lacks(self, preprocessing: Mapping[str, Any] | None, files: Path | None) -> str | None:
        return "has no tokenizer" if files is None else super().lacks(preprocessing, files)

    def fresh(self, data: Prepared, indices: Collection[int]) -> PreparedTexts:
        """The second halves of the texts, which read like them and are in no data set."""
        from compress.data.prepared_texts import PreparedTexts

        assert isinstance(data, PreparedTexts)
        dataset = data.dataset.subset(indices)
        rows = tuple(replace(row, texts=tuple(map(_second_half, row.texts))) for row in dataset.rows)
        return data.tokenized(replace(dataset, rows=rows))

    def takes(self, inputs: Sequence[Declared]) -> bool:
        return any(tensor.name == "input_ids" for tensor in inputs)

    def wires(self, name: str, inputs: Sequence[Declared], outputs: Sequence[Declared]) -> Wires:
        if not self.takes(inputs):
            names = ", ".join(tensor.name for tensor in inputs)
            raise InputError(f"{name} takes no texts: it has the inputs {names}, but no input_ids")
        given = [tensor.name for tensor in outputs]
        if missing := [one for one in self.outputs if one not in given]:
            raise InputError(f"{name} gives {', '.join(given)}, but not {missing[0]}, which {self.name} needs")
        batch = next(tensor.shape[0] for tensor in inputs if tensor.name == "input_ids")
        return Wires(
            lambda texts: fitted(name, texts, inputs),
            lambda found: {one: found[one] for one in self.outputs},
            batch if isinstance(batch, int) else None,
        )

    def encoded(self, tokenizer: Tokenizer, dataset: TextDataset) -> Encodings:
        """Token ids of the samples' texts, each on its own where the task does not say otherwise."""
        from compress.data.prepared_texts import encoded

        return encoded(tokenizer, dataset)

    def usable(self, data: PreparedTexts) -> PreparedTexts:
        """The samples that the task can judge. Raises InputError if there are none."""
        return data

    def _dataset(self, choice: DataChoice, part: AnyPart) -> TextDataset:
        from compress.data import load_texts

        limit = choice.limit if part == "evaluation" else None
        dataset = load_texts(choice.source, part=part, limit=limit, seed=choice.seed, skip_corrupt=choice.skip_corrupt)
        return self.suited(dataset, part)

    def suited(self, dataset: TextDataset, part: AnyPart) -> TextDataset:
        """What of the data the task needs. Raises InputError if it is not there."""
        return dataset

    def matched(self, dataset: TextDataset, labels: Sequence[str]) -> TextDataset:
        """The data with the model's own classes. Raises InputError if they are others."""
        return dataset

    def graph_inputs(self, structure: Structure, seed: int) -> GraphInputs:
        import torch

        generator = torch.Generator().manual_seed(seed)
        size, longest = (int(structure.preprocessing[name]) for name in ("vocab_size", "max_length"))

        def texts(batch: int, length: int) -> dict[str, Tensor]:
            length = min(length, longest)
            ids = torch.randint(size, (batch, length), generator=generator)
            real = torch.randint(1, length + 1, (batch, 1), generator=generator)
            real[0] = length
            return {"input_ids": ids, "attention_mask": (torch.arange(length)[None] < real).long()}

        return GraphInputs(texts(2, 5), _DYNAMIC, [texts(*case) for case in CHECKED_SIZES])

    def timing_length(self, structure: Structure) -> int:
        return min(TIMED_TOKENS, int(structure.preprocessing["max_length"]))

    def shown(self, data: Prepared, indices: Sequence[int]) -> dict[str, dict[int, str]]:
        from compress.data.prepared_texts import PreparedTexts

        assert isinstance(data, PreparedTexts)
        return {"texts": {index: _shown(data.dataset.rows[index].texts) for index in indices}}

    def slices(self, data: Prepared) -> dict[str, np.ndarray]:
        from compress.data.prepared_texts import PreparedTexts
        from compress.verification.slices import of_sizes

        assert isinstance(data, PreparedTexts)
        return of_sizes(data.bytes)

    def feed(self, data: Prepared, seed: int, device: torch.device, rank: int = 0, world: int = 1) -> Feed:
        from compress.data.prepared_texts import PreparedTexts
        from compress.heal.texts import TextFeed

        assert isinstance(data, PreparedTexts)
        dataset = data.dataset
        labels = dataset.labels if dataset.class_names and dataset.labelled else None
        return TextFeed(data.ids, labels, len(dataset.class_names), data.spec, seed, device, rank, world, data.most)


def copy_tokenizer(folder: Path, destination: Path) -> None:
    """Copy the tokenizer of a model's folder, in its fast form. Raises InputError where there is none."""
    own = tokenizer_of(folder)
    if own is None:
        raise InputError(f"{folder} has no {TOKENIZER}, nor {', '.join(OLDER)} to make one of; add the tokenizer")
    destination.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(own, destination / TOKENIZER)


def rows_of(
    run: Run,
    ids: list[list[int]],
    spec: TextPreprocessing,
    output: str,
    batch: int,
    seen: Callable[[list[int], np.ndarray, int], None],
) -> np.ndarray:
    """The row [S, K] of a model's output for each text, in order; texts go through it by length. `seen` takes the
    indices of a batch, its rows and how many texts are done. Raises InputError for an output of another shape."""
    import numpy as np

    from compress.data.prepared_texts import by_length
    from runtime.texts.text import pad

    parts: list[np.ndarray] = []
    order: list[int] = []
    for indices in by_length(ids, batch):
        rows = np.asarray(run(pad([ids[index] for index in indices], spec))[output], np.float32)
        if rows.ndim != 2 or len(rows) != len(indices):
            raise InputError(f"the model gives {output} of shape {list(rows.shape)}; [batch, numbers] is needed")
        parts.append(rows)
        order += indices
        seen(indices, rows, len(order))
    return np.concatenate(parts)[np.argsort(order)]


def same_share(same_BN: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
    """The share of the real tokens of each text that are the same (B,)."""
    real_BN = inputs["attention_mask"].float()
    return (same_BN.float() * real_BN).sum(dim=1) / real_BN.sum(dim=1)


def check_token_scores(logits_BNK: np.ndarray, count: int) -> None:
    """Raises InputError unless each token has that number of scores."""
    if logits_BNK.ndim != 3 or logits_BNK.shape[-1] != count:
        raise InputError(f"the model gives logits of shape {list(logits_BNK.shape)}; [batch, tokens, {count}] needed")


def labels_by_config(task: Task, folder: Path, outputs: Sequence[Declared]) -> tuple[str, ...]:
    """The labels of a graph with these outputs, by the config.json in its folder. Raises InputError."""
    from compress.families.family import labels_in

    size = next(tensor.shape[-1] for tensor in outputs if tensor.name == task.outputs[0])
    if not isinstance(size, int):
        raise InputError(
            f"the graph in {folder} does not say how many numbers {task.outputs[0]} has; export it again with a "
            "fixed last dimension"
        )
    return labels_in(read_object(folder / "config.json"), folder, size, task.problem_type)


def one_output(config: Mapping[str, object]) -> bool:
    """Whether the head of a checkpoint gives one number, by its config.json."""
    names = config.get("id2label")
    return len(names) == 1 if isinstance(names, Mapping) else config.get("num_labels") == 1


def _second_half(text: str) -> str:
    words = text.split()
    return " ".join(words[len(words) // 2 :]) if len(words) > 3 else text


def _shown(texts: Sequence[str]) -> str:
    """A sample as a report shows it: its text, or both of its texts, not too long."""
    return " ¦ ".join(text if len(text) <= SHOWN else f"{text[:SHOWN]} …" for text in texts)


def _stops(folder: Path, config: dict[str, Any]) -> list[int]:
    """The tokens that end a text, by generation_config.json where there is one, as in transformers; one outside the
    vocabulary (an untouched default) never comes."""
    end = _object(folder / "generation_config.json").get("eos_token_id")
    end = config.get("eos_token_id") if end is None else end
    tokens = end if isinstance(end, list) else [end]
    return [token for token in tokens if isinstance(token, int) and 0 <= token < config["vocab_size"]]


def _prompts(folder: Path) -> dict[str, Any]:
    """What sentence-transformers puts before every text: `prompt` where nothing else is asked for, `prompts` by their
    names; left out where there are none. Raises InputError."""
    file = folder / "config_sentence_transformers.json"
    config = _object(file)
    known, name = config.get("prompts"), config.get("default_prompt_name")
    prompts = known if isinstance(known, dict) else {}
    wrong = next((one for one, text in prompts.items() if not isinstance(text, str)), None)
    if wrong is not None:
        raise InputError(f"{file}: the prompt {wrong!r} must be a text, not {prompts[wrong]!r}")
    default = prompts.get(name, "")
    if _object(folder / "1_Pooling" / "config.json").get("include_prompt") is not False:
        return {**({"prompt": default} if default else {}), **({"prompts": prompts} if any(prompts.values()) else {})}
    if default:
        raise InputError(f"{file}: a prompt that pooling leaves out (include_prompt) is not supported")
    return {}


def _limit(file: Path, options: Mapping[str, Any], name: str) -> float | None:
    """How many tokens a text may have by a file; None where it does not say. Raises InputError for a wrong number of
    them."""
    value = options.get(name)
    if value is not None and (type(value) not in (int, float) or not value > 0):
        raise InputError(f"{file}: {name} must be a number of 1 or more, not {str(value)[:40]!r}")
    return value


def _positions(config: dict[str, Any]) -> int | None:
    """How many tokens fit into the position table."""
    size = next((config[name] for name in _POSITIONS if type(config.get(name)) is int), None)
    if size is not None and config.get("model_type") in _BEHIND_PADDING:
        pad = config.get("pad_token_id")
        return int(size) - (pad if isinstance(pad, int) else 1) - 1
    return size


def _lowers(tokenizer: Tokenizer) -> bool:
    """Whether upper and lower case are the same to a tokenizer."""
    upper, lower = tokenizer.encode([ascii_uppercase, ascii_lowercase]).ids
    return upper == lower


def _object(path: Path) -> dict[str, Any]:
    """A JSON object of the model's folder, {} if it has none. Raises InputError for a damaged one."""
    return read_object(path) if path.is_file() else {}
