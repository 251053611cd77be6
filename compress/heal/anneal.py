"""Fade old parts of a model out while it heals."""

from __future__ import annotations

from compress.model.attention import ValuesSpec
from compress.model.block import BlockSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.transformer import Transformer
from compress.model.values.blended import Blended, BlendedSpec


def is_blended(model: Transformer) -> bool:
    """Whether some part of the model has an old one beside it."""
    return any(isinstance(module, Blended) for module in model.modules())


def set_share(model: Transformer, share: float) -> None:
    """How much of the new part is in use, from 0 to 1, in every blended layer."""
    for module in model.modules():
        if isinstance(module, Blended):
            module.share.fill_(share)


def settled(model: Transformer) -> Transformer:
    """The model with the new parts alone, as a model of its own: nothing of the training is left about it."""
    blocks = tuple(_without_old(spec) for spec in model.structure.blocks)
    result = Transformer(model.structure.replace(blocks=blocks)).eval()
    old = {name.replace(".values.new.", ".values."): tensor for name, tensor in model.state_dict().items()}
    result.load_state_dict({name: old[name] for name in result.state_dict()})
    return result


def _without_old(spec: BlockSpec) -> BlockSpec:
    mixer = spec.mixer
    if not isinstance(mixer, SoftmaxAttentionSpec) or not isinstance(mixer.values, BlendedSpec):
        return spec
    new: ValuesSpec = mixer.values.new
    return spec.replace(mixer=mixer.replace(values=new))
