"""Weights that are stored in 8 bits beside their scales, as the numbers that they stand for. O outputs, I inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from targets.errors import InputError

#: Name of the scales beside a weight -> what they are multiplied by (bitsandbytes stores largest values).
_SCALES = {"weight_scale": 1.0, "weight_scale_inv": 1.0, "SCB": 1 / 127}
_POINT = "weight_zero_point"
#: Stored beside the scales, and of no use to weights that are whole again.
_BESIDE = ("weight_format", "weight_shape", "input_scale", "input_zero_point", "output_scale", "k_scale", "v_scale")
#: What the names of weights in packed forms end in.
_PACKED = ("qweight", "qzeros", "weight_packed", "absmax", "quant_map", "quant_state", "_blocks")
_EIGHT = (torch.int8, torch.float8_e4m3fn, torch.float8_e5m2)


def dequantized(
    tensors: dict[str, Tensor], config: Mapping[str, Any], folder: Path, note: Callable[[str], None]
) -> dict[str, Tensor]:
    """Weights times their scales in fp32 (bitsandbytes int8; int8 and float8 of compressed-tensors, FBGEMM, DeepSeek's
    blocks); everything else as it is. Raises InputError for weights in packed forms (4 bits), for 8 bits without a
    scale, for scales that are stored as exponents (whole numbers), and for those that fit no weight."""
    method = _method(config)
    for name in tensors:
        if name.endswith(_PACKED):
            raise InputError(
                f"{folder}: {name} is packed ({method or 'quantized'}); save the model dequantized, in fp16 or fp32, "
                "or give the model that it was made from"
            )
    whole, scales = dict(tensors), set[str]()
    for name, tensor in tensors.items():
        if not name.endswith(".weight") or tensor.dtype not in _EIGHT:
            continue
        stem = name.removesuffix("weight")
        scale = next((stem + one for one in _SCALES if stem + one in tensors), None)
        if scale is None:
            raise InputError(
                f"{folder}: {name} is stored as {_dtype(tensor)} without its scale; save the model in fp16 or fp32"
            )
        if bool(tensors.get(f"{stem}weight_format", torch.zeros(1)).any()):
            raise InputError(f"{folder}: {name} is stored in an order of its own (weight_format); save it in fp16")
        if not tensors[scale].is_floating_point():
            raise InputError(f"{folder}: {scale} is stored as {_dtype(tensors[scale])}, no scale; save it in fp16")
        rows = _block(config, tensors[scale], tensor, f"{folder}: {scale}")
        numbers = tensor.float()
        if f"{stem}{_POINT}" in tensors:
            numbers -= _block(config, tensors[f"{stem}{_POINT}"], tensor, f"{folder}: {stem}{_POINT}")
        whole[name] = numbers * rows * _SCALES[scale.removeprefix(stem)]
        scales |= {scale, *(stem + one for one in (_POINT, *_BESIDE))}
    if scales:
        count = sum(whole[name] is not tensor for name, tensor in tensors.items())
        note(
            f"the checkpoint is quantized ({method or '8 bits'}): {count} weights were multiplied by their scales; the "
            "original here is this dequantized model, its activations are not quantized"
        )
    return {name: tensor for name, tensor in whole.items() if name not in scales}


def _method(config: Mapping[str, Any]) -> str:
    table = config.get("quantization_config")
    return str(table.get("quant_method", "")) if isinstance(table, Mapping) else ""


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _block(config: Mapping[str, Any], scale: Tensor, weight_OI: Tensor, where: str) -> Tensor:
    """Scales of the whole matrix, of each row, of groups in each row, or of blocks, in a shape that multiplies it."""
    scale = scale.float()
    if scale.numel() == 1:
        return scale.reshape(1, 1)
    if scale.ndim == 1:
        scale = scale[:, None]
    sizes = _block_sizes(config, scale, weight_OI)
    fits = [-(-whole // size) for whole, size in zip(weight_OI.shape, sizes, strict=True)] == list(scale.shape)
    if not fits:
        raise InputError(
            f"{where} has the shape {tuple(scale.shape)}, which fits no weight of {tuple(weight_OI.shape)}"
        )
    for axis, size in enumerate(sizes):
        scale = scale.repeat_interleave(size, dim=axis).narrow(axis, 0, weight_OI.shape[axis])
    return scale


def _block_sizes(config: Mapping[str, Any], scale: Tensor, weight_OI: Tensor) -> list[int]:
    """Rows and columns that share a scale; more than the weight has where that is unknown."""
    if scale.ndim != weight_OI.ndim:
        return [size + 1 for size in weight_OI.shape]
    table = config.get("quantization_config")
    given = table.get("weight_block_size") if isinstance(table, Mapping) else None
    if isinstance(given, list) and len(given) == 2 and all(type(size) is int and size > 0 for size in given):
        blocks = [-(-whole // size) for whole, size in zip(weight_OI.shape, given, strict=True)]
        if blocks == list(scale.shape):
            return given
    return [
        whole // parts if parts and whole % parts == 0 else whole + 1
        for whole, parts in zip(weight_OI.shape, scale.shape, strict=True)
    ]
