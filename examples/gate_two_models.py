"""Hold a candidate against its reference, as a step of CI does: exit code 1 if it lost too much.

python examples/gate_two_models.py REFERENCE CANDIDATE DATA
"""

import sys

import edgepress

found = edgepress.verify(*sys.argv[1:4], max_drop=8.0, report="gate.html")
print(found)
sys.exit(0 if found else 1)
