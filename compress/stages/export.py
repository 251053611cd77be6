"""export: the model as an ONNX graph, its numbers held against torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.pipeline import StageContext
from compress.stages.artifacts import CalibrationSet, ModelArtifact, SourceModel
from compress.stages.samples import healing, tensor_batches

if TYPE_CHECKING:
    from compress.model import Transformer

#: Batch sizes at which the graph must agree with torch: a dimension that froze in the export shows at one of them.
CHECKED_BATCHES = (1, 2, 7)


def export_plain(context: StageContext, original: SourceModel) -> None:
    """The original as it is, for comparison. Options: `opset`."""
    _export(context, original.load())


def export_model(
    context: StageContext, original: SourceModel, calibration: CalibrationSet, model: ModelArtifact
) -> None:
    """The model that ships, in the exact form that runs fastest. Options: `opset`, `data`."""
    from compress.rewrites import Calibration, parse_options, run_rewrite

    teacher, shipped = original.load(), model.load()
    dataset = healing(context.options["data"], teacher.structure)
    batches = tensor_batches(dataset, teacher.structure, calibration.indices("fit"))
    for name in _exact_forms(shipped):
        method, options = parse_options({"use": name})
        shipped = run_rewrite(method, options, shipped, Calibration(teacher, batches, context.log))
    _export(context, shipped)


def _exact_forms(model: Transformer) -> list[str]:
    from compress.model.head import ClassifierSpec

    head = model.structure.head
    trims = isinstance(head, ClassifierSpec) and head.tokens is not None
    return ["trim-last-block", "pack-qkv"] if trims else ["pack-qkv"]


def _export(context: StageContext, model: Transformer) -> None:
    import torch

    from compress.model.embed import PatchEmbedSpec
    from export.numerics import check_against
    from export.onnx_model import export_onnx

    embed = model.structure.embed
    assert isinstance(embed, PatchEmbedSpec)
    generator = torch.Generator().manual_seed(context.seed)

    def example(batch: int) -> dict[str, torch.Tensor]:
        return {"pixel_values": torch.randn(batch, embed.channels, *embed.image_size, generator=generator)}

    path = context.folder / "model.onnx"
    context.progress(0, 2, "tracing the graph")
    info = export_onnx(
        model, example(2), ["logits"], {"pixel_values": {0: "batch"}}, path, opset=context.options["opset"]
    )
    context.progress(1, 2, "comparing with torch")
    numerics = check_against(model, path, [example(batch) for batch in CHECKED_BATCHES])
    context.progress(2, 2)
    context.log(
        f"opset {info.opset}, IR {info.ir}, {info.bytes / 1e6:.2f} MB; "
        f"logits agree with torch to {max(error.max_abs for error in numerics.errors):.1e} at batch {CHECKED_BATCHES}"
    )
