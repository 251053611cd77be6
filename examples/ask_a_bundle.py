"""Open a bundle and ask it about images or texts.

python examples/ask_a_bundle.py BUNDLE INPUT...
"""

import sys

import edgepress

model = edgepress.open(sys.argv[1])
print(model)
for answer in model(*sys.argv[2:]):
    print(answer)
