"""Equal samples count once: a copy says nothing new, and an interval that counts it is too narrow.

S samples, D different ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from compress.verification.samples import Samples


def places_of_different(fingerprints: Sequence[tuple[int, ...]], answers: Samples | None = None) -> NDArray[np.int64]:
    """Ascending places [D] of the first sample of each content.

    `answers`: of either side, where they are known; what both sides share of them (labels, gold scores) tells samples
    apart too, since equal contents with two labels are two questions.
    """
    rows = [] if answers is None else [answers.arrays()[name] for name in answers.shared]
    first: dict[tuple[object, ...], int] = {}
    for place, content in enumerate(fingerprints):
        first.setdefault((content, *(row[place].tobytes() for row in rows)), place)
    return np.fromiter(first.values(), np.int64)
