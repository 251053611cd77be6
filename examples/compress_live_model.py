"""Compress a live model of transformers with your own arrays, and fail if it lost too much.

python examples/compress_live_model.py OUT
"""

import sys

import numpy as np
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

import edgepress

sizes = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 24}
model = ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=4, num_labels=4))  # put your own here
processor = ViTImageProcessor(size={"height": 8, "width": 8})
images = np.random.default_rng(0).integers(0, 256, (160, 8, 8, 3), np.uint8)  # uint8, as the camera takes them
labels = np.arange(160) % 4

result = edgepress.compress(
    model,
    (images, labels),
    processor=processor,
    target="cpu",
    recipe="identity",  # leave it out for the recipe `quick`, which also changes the architecture
    settings={"precision.mode": "fp32", "calibrate.samples": 32, "calibrate.held_out": 32},
    max_drop=8,  # so few images prove no less
    out=sys.argv[1],
)
print(result)
result.check()
