"""slice-width: the residual stream keeps the directions that carry most of what is read of it.

D hidden size, W the new one, O outputs of a map, P tokens that a head pools.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from pydantic import Field
from torch import Tensor

from compress.model.block import Block, BlockSpec
from compress.model.embed import Embed
from compress.model.embeds.patch import PatchEmbed
from compress.model.embeds.token import TokenEmbed
from compress.model.embeds.window import WindowEmbed
from compress.model.ffn import Ffn
from compress.model.ffns.affine import Affine, Constant, ConstantSpec, LowRankAffine
from compress.model.heads.classifier import ClassifierSpec
from compress.model.norms import NormSpec
from compress.model.projection import Projection
from compress.model.structure import Structure
from compress.model.transformer import Transformer
from compress.model.values.projected import ProjectedValues
from compress.rewrites.calibration import Calibration, Moments, input_moments, taps
from compress.rewrites.fold_norm import FoldNorm, fold_norm
from compress.rewrites.rewrite import Options, rewrite
from compress.rewrites.search_range import SearchRange, each
from compress.rewrites.surgery import EVERY, attention, single_loop, values_spec
from compress.rewrites.width import Width, counted
from targets.errors import InputError

NAME = "slice-width"
#: What attention may have that this carries over.
CARRIES = EVERY


class SliceWidth(Options):
    """`width`: numbers of a token in the residual stream, as a count or as a share below 1."""

    width: Width = Field(examples=[5])


@rewrite(NAME, SliceWidth, search=SearchRange(("stream",), each(width=(0.75, 0.5))), narrows=True)
def slice_width(model: Transformer, options: SliceWidth, calibration: Calibration) -> Transformer:
    """Remove directions of the residual stream: every map that reads or writes it becomes narrower.

    Norms are folded (`fold-norm`). Then the stream turns by Q (D x W), the principal components of what is read of it,
    E[n(x) n(x)^T] over all norms: writers W_o become W_o Q, readers W_i sqrt(D / W) Q^T W_i, and eps D / W eps. Under
    layer norms writers are centred before, and Q maps W - 1 components to the numbers whose sum is zero, so that the
    norm is the same one and stays one operator. Exact for W = D. One Q for the whole stream adds no product to the
    residual path, as one per block does in the source. Not exact below; wants healing, with heal.hidden = 0.
    Refused for post-norm and looped blocks, norms right behind the embedding or a half, replaced attention, and
    heads that read no map of their own. Source: SliceGPT, Ashkboos et al. 2024 (arXiv 2401.15024).
    """
    wide = model.structure.hidden_size
    width = counted(options.width, wide)
    if not 2 <= width <= wide:
        raise InputError(f"{NAME} is refused: width {width} is not among 2 to the hidden size {wide}")
    kind = _check(model)
    try:
        folded: Transformer = fold_norm(model, FoldNorm(), calibration)
    except InputError as cause:
        raise InputError(f"{NAME} is refused: the norms must fold, but {cause}") from cause
    moment_DD = _read(folded, calibration)
    values_D, vectors_DD = torch.linalg.eigh((moment_DD + moment_DD.T) / 2)
    taken = width - 1 if kind == "layer" else width
    share = float(values_D.flip(0)[:taken].sum() / values_D.sum())
    calibration.note(f"{NAME}: {taken} of {wide} directions carry {share:.2%} of what the layers read")
    basis_DW = written_DW = vectors_DD.flip(1)[:, :taken]
    if kind == "layer":
        basis_DW = basis_DW @ _without_sum(width).to(basis_DW)
        written_DW = basis_DW - basis_DW.mean(dim=0)
    state = {
        name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in folded.state_dict().items()
    }
    names = {id(parameter): name for name, parameter in folded.named_parameters()}
    for reader in _readers(folded):
        name = names[id(reader.weight)]
        weight_OPD = state[name].double().reshape(len(reader.weight), -1, wide)
        state[name] = ((wide / width) ** 0.5 * weight_OPD @ basis_DW).flatten(1)
    for parameter, axis in _written(folded):
        name = names[id(parameter)]
        state[name] = torch.tensordot(state[name].double(), written_DW, ([axis], [0])).movedim(-1, axis)
    result = Transformer(_narrow(folded.structure, width))
    result.load_state_dict({name: state[name].to(tensor.dtype) for name, tensor in result.state_dict().items()})
    return result.to(next(model.parameters()).device).eval()


def _without_sum(width: int) -> Tensor:
    """An orthonormal basis (W - 1, W) of the vectors whose numbers sum to zero."""
    ones_W1 = torch.ones(width, 1, dtype=torch.float64)
    vectors_WW, _ = torch.linalg.qr(torch.cat([ones_W1, torch.eye(width, width - 1, dtype=torch.float64)], dim=1))
    return vectors_WW[:, 1:].T


def _check(model: Transformer) -> str:
    """The kind of the norms. Raises InputError for a model whose stream cannot be turned."""
    structure = model.structure
    norms = [structure.final_norm]
    for spec in structure.blocks:
        single_loop(spec, NAME)
        if spec.residual == "post" or spec.mixer_out_norm is not None or spec.ffn_out_norm is not None:
            raise InputError(f"{NAME} is refused: norms feed the residual stream of this model, so it has fixed axes")
        if spec.mixer is not None:
            values_spec(spec, NAME, CARRIES)
        norms += [spec.mixer_norm] if spec.mixer is not None else []
        norms += [spec.ffn_norm] if _reads(spec) else []
    kinds = {None if norm is None else norm.kind for norm in norms}
    if kinds not in ({"layer"}, {"rms"}):
        raise InputError(f"{NAME} is refused: it needs norms of one kind, layer or rms, before all layers and the head")
    embed, head = model.embed, structure.head
    if getattr(embed, "norm", None) is not None and getattr(embed, "widen", None) is None:
        raise InputError(f"{NAME} is refused: a norm stands right behind the embedding, so the stream has fixed axes")
    if model.head.reader() is None or (isinstance(head, ClassifierSpec) and head.hidden):
        raise InputError(f"{NAME} is refused: the head reads the stream through no linear map of its own")
    return str(kinds.pop())


def _read(model: Transformer, calibration: Calibration) -> Tensor:
    """E[n(x) n(x)^T], the mean over all norms of the model (D,D), in float64."""
    specs = list(enumerate(model.structure.blocks))
    mixing = [block for block, spec in specs if spec.mixer is not None]
    feeding = [block for block, spec in specs if _reads(spec)]
    found = [_answered(model, calibration)]
    found += input_moments(model, calibration, mixing, "mixer.in").values() if mixing else []
    found += input_moments(model, calibration, feeding, "ffn.in").values() if feeding else []
    return torch.stack([one.second_II for one in found]).mean(dim=0)


def _answered(model: Transformer, calibration: Calibration) -> Moments:
    """Moments of what the head reads."""
    last, moments = len(model.structure.schedule) - 1, Moments()
    assert model.final_norm is not None
    for inputs in calibration.batches():
        tokens = taps(model, inputs, {(last, "out")})[last, "out"]
        x_BND = model.final_norm(model.head.select(tokens.x_BND))
        real_BN = None if tokens.real_BN is None else tokens.real_BN[:, : x_BND.shape[1]]
        moments.add(x_BND, x_BND[..., :1], real_BN)
    return moments


def _reads(spec: BlockSpec) -> bool:
    """Whether the block has a feed-forward that looks at its input."""
    return spec.ffn is not None and not isinstance(spec.ffn, ConstantSpec)


def _readers(model: Transformer) -> Iterator[Projection]:
    """The maps that read the normed stream."""
    for block in _blocks(model):
        for half in (block.mixer, block.ffn):
            yield from (half.readers() or []) if half is not None else []
    reader = model.head.reader()
    assert reader is not None
    yield reader


def _written(model: Transformer) -> Iterator[tuple[Tensor, int]]:
    """What is added to the stream, each with the axis of the stream's directions."""
    yield from _embedded(model.embed)
    for block in _blocks(model):
        yield from [(block.position, 2)] if block.position is not None else []
        if block.mixer is not None:
            values = attention(block).values
            assert isinstance(values, ProjectedValues)
            yield from _of_map(values.output)
        if block.ffn is not None:
            yield from _fed(block.ffn)


def _embedded(embed: Embed) -> Iterator[tuple[Tensor, int]]:
    if isinstance(embed, PatchEmbed):
        yield embed.patch.weight, 0
        yield from [(embed.patch.bias, 0)] if embed.patch.bias is not None else []
        yield embed.prefix, 2
        yield from [(embed.position, 2)] if embed.position is not None else []
    elif isinstance(embed, WindowEmbed):
        yield from _of_map(embed.read)
    elif isinstance(embed, TokenEmbed) and embed.widen is not None:
        yield from _of_map(embed.widen)
    else:
        assert isinstance(embed, TokenEmbed)
        yield (embed.table, 1) if embed.factor is None else (embed.factor.weight, 0)
        yield from ((table, 1) for table in (embed.position, embed.token_type) if table is not None)


def _fed(ffn: Ffn) -> Iterator[tuple[Tensor, int]]:
    if isinstance(ffn, Constant):
        yield ffn.value[0], 0
        return
    writer = ffn.up if isinstance(ffn, LowRankAffine) else ffn.map if isinstance(ffn, Affine) else ffn.down
    assert isinstance(writer, Projection)
    yield from _of_map(writer)


def _of_map(projection: Projection) -> Iterator[tuple[Tensor, int]]:
    yield projection.weight, 0
    yield from ((bias, 0) for bias in projection.bias)


def _blocks(model: Transformer) -> list[Block]:
    return [model.block(index) for index in range(len(model.structure.blocks))]


def _narrow(structure: Structure, width: int) -> Structure:
    def narrow(norm: NormSpec | None) -> NormSpec | None:
        scale = structure.hidden_size / width
        return None if norm is None else norm.replace(eps=norm.eps * scale)

    blocks = [
        spec.replace(mixer_norm=narrow(spec.mixer_norm), ffn_norm=narrow(spec.ffn_norm)) for spec in structure.blocks
    ]
    return structure.replace(hidden_size=width, blocks=tuple(blocks), final_norm=narrow(structure.final_norm))
