"""Zero-shot image classification: images against the names of the user's classes, by a model with an image and a text
tower; judged by top-1 accuracy.

B batch, T texts, N tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress.data.tokenizer import tokenizer_of
from compress.json_files import read_object
from compress.tasks.files import CHECKED_BATCHES
from compress.tasks.image_classification import ImageClassification
from compress.tasks.images import PreparedImages
from compress.tasks.task import AnyPart, DataChoice, GraphInputs, Prepared, Wires
from compress.tasks.text import TextTask, copy_tokenizer
from runtime.images.zero_shot import KIND, parse_preprocessing, prompts_of
from runtime.texts.text import INPUTS, TOKENIZER
from targets.errors import InputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from compress.heal.images import PromptedFeed
    from compress.model import Structure, Transformer
    from compress.tasks.task import Arrays
    from runtime.bundles.manifest import Tensor as Declared

SCORES = "logits_per_image"
#: The text of a class, as the models were used by those who trained them.
_TEMPLATES = {"clip": "a photo of a {}.", "siglip": "This is a photo of {}."}
#: What a text config may leave out: size of the vocabulary, tokens of a text, the id of padding.
_TEXTS = {"clip": (49408, 77, 1), "siglip": (32000, 64, 1)}
#: Tokens of a text at which the graph must agree with torch.
_TOKENS = 5


@dataclass(frozen=True)
class PromptedImages(PreparedImages):
    """Images, and the texts of all classes, which go with every batch."""

    prompts: Mapping[str, Any] = field(default_factory=dict)

    def batches(self, size: int, indices: Collection[int] | None = None) -> Iterator[Arrays]:
        for inputs in super().batches(size, indices):
            yield {**inputs, **self.prompts}


class ZeroShotImageClassification(ImageClassification):
    """The folders' names are the classes. Any other classes are a matter of other texts."""

    name = "zero-shot-image-classification"
    architectures = ("CLIPModel", "SiglipModel")
    head = "scores"
    auto_class = None
    fallback = False
    can_exit_early = False
    shared = INPUTS
    golden = 1  # a device that takes few samples at once cuts inputs along their first axis, which texts have not
    outputs = (SCORES,)
    recipes = "zero-shot"
    passengers = (*ImageClassification.passengers, *TextTask.passengers)
    libraries = ("numpy", "pillow", "tokenizers")

    def preprocessing(self, folder: Path, note: Callable[[str], None]) -> dict[str, Any]:
        config, own = read_object(folder / "config.json"), tokenizer_of(folder)
        kind, texts = str(config.get("model_type")), config.get("text_config")
        if kind not in _TEMPLATES or not isinstance(texts, Mapping):
            raise InputError(f"{folder}/config.json: only CLIP and SigLIP are read with both towers, not {kind!r}")
        if own is None:
            raise InputError(f"{folder} has no {TOKENIZER}, which the names of classes need; add the tokenizer")
        known = [texts.get(name) for name in ("vocab_size", "max_position_embeddings", "pad_token_id")]
        found = [default if one is None else one for one, default in zip(known, _TEXTS[kind], strict=True)]
        text = {"kind": "text", "vocab_size": found[0], "max_length": found[1], "tokenizer": TOKENIZER}
        section = {
            "kind": KIND,
            "image": super().preprocessing(folder, note),
            "text": {**text, "pad_id": found[2] if isinstance(found[2], int) and 0 <= found[2] < found[0] else 0},
            "template": _TEMPLATES[kind],
            "whole_length": kind == "siglip",
        }
        parse_preprocessing(section, f"{folder}/config.json")
        return section

    def copy_files(self, folder: Path, destination: Path) -> None:
        super().copy_files(folder, destination)
        copy_tokenizer(folder, destination)

    def postprocessing(self, structure: Structure) -> dict[str, Any]:
        return {"kind": "softmax"}

    def open(
        self,
        choice: DataChoice,
        part: AnyPart,
        labels: Sequence[str] | None,
        preprocessing: Mapping[str, Any],
        files: Path | None,
    ) -> PromptedImages:
        assert files is not None
        plain = super().open(choice, part, labels or None, preprocessing["image"], files)
        classes = plain.labels or plain.dataset.class_names
        prompts = prompts_of(classes, parse_preprocessing(preprocessing), files)
        return PromptedImages(**{**vars(plain), "labels": classes}, prompts=prompts)

    def classes(self, structure: Structure, data: Prepared) -> tuple[str, ...]:
        assert isinstance(data, PromptedImages) and data.labels is not None
        return data.labels

    def lacks(self, preprocessing: Mapping[str, Any] | None, files: Path | None) -> str | None:
        return "has no tokenizer" if files is None else super().lacks(preprocessing, files)

    def labels_beside(self, folder: Path, outputs: Sequence[Declared]) -> None:
        return None

    def takes(self, inputs: Sequence[Declared]) -> bool:
        """A graph of whose files nothing is known has no texts to read."""
        return False

    def wires(self, name: str, inputs: Sequence[Declared], outputs: Sequence[Declared]) -> Wires:
        images = [tensor for tensor in inputs if len(tensor.shape) == 4]
        names = {tensor.name for tensor in inputs}
        if len(images) != 1 or names - {images[0].name, *INPUTS} or SCORES not in [one.name for one in outputs]:
            shapes = ", ".join(f"{tensor.name} {list(tensor.shape)}" for tensor in (*inputs, *outputs))
            raise InputError(f"{name} holds no images against texts ({SCORES}): it has {shapes}")
        types, batch = {tensor.name: tensor.dtype for tensor in inputs}, images[0].shape[0]
        theirs = {images[0].name: "pixel_values"}
        return Wires(
            lambda inputs: {
                one: inputs[theirs.get(one, one)].astype(dtype, copy=False) for one, dtype in types.items()
            },
            lambda outputs: {SCORES: outputs[SCORES]},
            batch if isinstance(batch, int) else None,
        )

    def module(self, model: Transformer) -> nn.Module:
        from compress.model.forms.outputs import AllOutputs

        return AllOutputs(model)

    def graph_outputs(self, structure: Structure) -> tuple[str, ...]:
        from compress.model.heads.two_towers import TwoTowersSpec

        assert isinstance(structure.head, TwoTowersSpec)
        return structure.head.outputs

    def graph_inputs(self, structure: Structure, seed: int) -> GraphInputs:
        import torch

        from compress.model.heads.two_towers import TwoTowersSpec

        plain, head = super().graph_inputs(structure, seed), structure.head
        assert isinstance(head, TwoTowersSpec)
        if head.text is None:
            return plain
        generator = torch.Generator().manual_seed(seed)

        def texts(count: int, tokens: int) -> dict[str, Tensor]:
            assert head.text is not None
            inputs = head.text.embed.sequence(count, tokens, generator)
            mask_TN = torch.ones_like(inputs["input_ids"])
            mask_TN[1:, -1] = 0
            return {**inputs, INPUTS[1]: mask_TN}

        dynamic = {name: {0: "texts", 1: "tokens"} for name in INPUTS}
        sizes = zip(plain.cases, CHECKED_BATCHES, strict=True)
        cases = [{**case, **texts(5 - min(batch, 4), _TOKENS + batch)} for case, batch in sizes]
        return GraphInputs({**plain.example, **texts(3, _TOKENS)}, {**plain.dynamic, **dynamic}, cases)

    def feed(self, data: Prepared, seed: int, device: torch.device, rank: int = 0, world: int = 1) -> PromptedFeed:
        import torch

        from compress.heal.images import PromptedFeed

        assert isinstance(data, PromptedImages)
        prompts = {name: torch.from_numpy(array).to(device) for name, array in data.prompts.items()}
        return PromptedFeed(data.dataset, data.preprocessing, seed, device, rank, world, prompts)


TASK = ZeroShotImageClassification()
