"""Compress a live model of transformers with arrays, and fail if it lost too much.

python examples/compress_live_model.py MODEL DATA.npz OUT
"""

import sys

import numpy as np
from transformers import AutoImageProcessor, AutoModelForImageClassification

import edgepress

folder, file, out = sys.argv[1:]
model = AutoModelForImageClassification.from_pretrained(folder)
processor = AutoImageProcessor.from_pretrained(folder)
with np.load(file) as arrays:
    images, labels = arrays["images"], arrays["labels"]  # uint8 [N, height, width, 3], as the camera takes them

result = edgepress.compress(
    model,
    (images, labels),
    processor=processor,
    target="cpu",
    recipe="identity",  # leave it out for the recipe `quick`, which also changes the architecture
    settings={"precision.mode": "fp32", "calibrate.samples": 32, "calibrate.held_out": 32},
    max_drop=6,  # so few images prove no less
    out=out,
)
print(result)
result.check()
