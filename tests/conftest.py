"""Two processes of tests on two cores, of which neither takes threads from the other; the project's modules are
imported with marks that say which of them ran."""

from __future__ import annotations

import os

from support import marks

marks.install()

if "PYTEST_XDIST_WORKER" in os.environ:
    for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(_name, "1")
