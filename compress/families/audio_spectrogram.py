"""AST, the Audio Spectrogram Transformer (Gong et al. 2021, arXiv 2104.01778): a DeiT over patches of a spectrogram.

D hidden size, S tokens in front of the patches.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compress.families.family import Checkpoint, labels_of, reads
from compress.families.vision import task_of
from compress.families.vit import vit_blocks
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.model.norms import NormSpec
from compress.model.structure import Step, Structure
from targets.errors import InputError

_PREFIX = ("cls_token", "distillation_token")


@reads("audio-spectrogram-transformer", classes=("ast",))
def read_ast(checkpoint: Checkpoint) -> tuple[Structure, dict[str, Tensor]]:
    """Its classifier reads the mean of the two tokens in front, through a norm of its own."""
    if checkpoint.purpose.head != "classes":
        raise InputError(f"{checkpoint.folder}/config.json: of AST only ASTForAudioClassification is read")
    body, norm = "audio_spectrogram_transformer.", NormSpec(eps=checkpoint.number("layer_norm_eps", 1e-12))
    embed, state = _embedding(checkpoint, f"{body}embeddings.")
    blocks, of_blocks = vit_blocks(checkpoint, body, norm)
    weight_CD, bias_C = checkpoint.linear("classifier.dense")
    state |= of_blocks | checkpoint.norm(f"{body}layernorm", "final_norm")
    state |= checkpoint.norm("classifier.layernorm", "head.pool_norm") | {"head.output.weight": weight_CD}
    if bias_C is not None:
        state["head.output.bias.0"] = bias_C
    head = ClassifierSpec(
        num_labels=len(weight_CD),
        pools=("prefix-mean",),
        bias=bias_C is not None,
        pool_norm=norm,
        prefix=embed.prefix_tokens,
    )
    structure = Structure(
        task=task_of(checkpoint),
        hidden_size=checkpoint.integer("hidden_size"),
        embed=embed,
        blocks=tuple(blocks),
        schedule=tuple(Step(block=index, origin=index) for index in range(len(blocks))),
        final_norm=norm,
        head=head,
        labels=labels_of(checkpoint, head.num_labels),
        preprocessing=checkpoint.preprocessing,
    )
    return structure, state


def _embedding(checkpoint: Checkpoint, source: str) -> tuple[PatchEmbedSpec, dict[str, Tensor]]:
    """Patches overlap. Raises InputError for spectrograms of another size than the model was trained on."""
    size = checkpoint.integer("num_mel_bins", 128), checkpoint.integer("max_length", 1024)
    patch, width = checkpoint.integer("patch_size", 16), checkpoint.integer("hidden_size")
    said = checkpoint.preprocessing
    given = said.get("bins", size[0]), said.get("frames", size[1])
    if given != size:
        raise InputError(
            f"{checkpoint.folder}: spectrograms are prepared as {given[1]} frames of {given[0]} bins, but config.json "
            f"has {size[1]} of {size[0]}; make preprocessor_config.json say the same"
        )
    if patch > min(size):
        raise InputError(f"{checkpoint.folder}/config.json: patch_size {patch} is larger than the spectrogram")
    projection = f"{source}patch_embeddings.projection"
    spec = PatchEmbedSpec(
        channels=1,
        image_size=size,
        patch_size=(patch, patch),
        stride=(checkpoint.integer("frequency_stride", 10), checkpoint.integer("time_stride", 10)),
        prefix_tokens=len(_PREFIX),
        patch_bias=f"{projection}.bias" in checkpoint,
        spectrogram=True,
    )
    tokens = [checkpoint.tensor(f"{source}{name}", (1, 1, width)) for name in _PREFIX]
    state = {
        "embed.patch.weight": checkpoint.tensor(f"{projection}.weight", (width, 1, patch, patch)),
        "embed.prefix": torch.cat(tokens, dim=1),
        "embed.position": checkpoint.tensor(f"{source}position_embeddings", (1, spec.tokens, width)),
    }
    if spec.patch_bias:
        state["embed.patch.bias"] = checkpoint.tensor(f"{projection}.bias", (width,))
    return spec, state
