"""Read a model, change one thing, heal it for a moment and write an ONNX file.

python examples/step_by_step.py OUT.onnx
"""

import sys

import edgepress

draft = edgepress.read("zoo:vit-mnist")
data = "zoo:mnist-test"
smaller = edgepress.rewrite(draft, "drop-projection", data, layers="auto:1")
healed = edgepress.heal(smaller, data, steps=2, batch_size=16, eval_every=2, flip=False)
print(draft, smaller, healed, sep="\n")
print(edgepress.export(healed, sys.argv[1], data))
