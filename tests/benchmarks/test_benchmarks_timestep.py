"""The timestep encoding that loops trained from scratch learn with."""

from __future__ import annotations

import pytest
import torch

from benchmarks.experiments.loops_from_scratch import TimestepEncoding


@pytest.mark.parametrize(("loops", "width"), [(2, 8), (6, 16), (12, 192)])
def test_an_encoding_of_the_loop_index_reproduces_given_gains(loops: int, width: int) -> None:
    encoding = TimestepEncoding(loops, width).double()
    start = encoding()
    assert all(
        torch.equal(table, torch.full_like(table, value)) for table, value in zip(start, (0, 0, 1, 1), strict=True)
    )
    tables = tuple(0.5 + torch.rand(loops, width, dtype=torch.float64) for _ in range(4))
    encoding.fit(tables)
    for mine, wanted in zip(encoding(), tables, strict=True):
        torch.testing.assert_close(mine, wanted, atol=1e-8, rtol=0)
