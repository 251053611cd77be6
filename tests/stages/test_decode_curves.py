"""The report's curves of a decoder: each file's speed, state and memory against the tokens before."""

import pytest

from compress.stages.report import _decoding
from compress.stages.timing import contexts_of
from compress.tasks import read_checkpoint
from compress.zoo import locate


def test_each_file_has_a_curve_of_speed_state_and_memory() -> None:
    rows = [
        {"name": name, "context": context, "tokens_per_second": speed, "state_bytes": state, "peak_bytes": 3 * state}
        for name, context, speed, state in [
            ("cache", 128, 50.0, 1_000_000),
            ("rnn", 128, 40.0, 500_000),
            ("cache", 4096, 9.0, 32_000_000),
            ("rnn", 4096, 41.0, 500_000),
        ]
    ]
    curves = _decoding(rows)
    assert [curve.y_label for curve in curves] == ["Tokens per second", "MB", "MB"]
    assert [[(one.name, one.x, one.y) for one in curve.series] for curve in curves] == [
        [("cache", (128, 4096), (50.0, 9.0)), ("rnn", (128, 4096), (40.0, 41.0))],
        [("cache", (128, 4096), (1.0, 32.0)), ("rnn", (128, 4096), (0.5, 0.5))],
        [("cache", (128, 4096), (3.0, 96.0)), ("rnn", (128, 4096), (1.5, 1.5))],
    ]
    assert _decoding([]) == ()


@pytest.mark.parametrize(("places", "contexts"), [(0, [128, 1024, 4096]), (1024, [128]), (128, [127]), (1, [1])])
def test_nothing_is_decoded_behind_more_tokens_than_a_table_of_positions_has(places: int, contexts: list[int]) -> None:
    structure = read_checkpoint(locate("zoo:stories260k"), {}).structure
    embed = structure.embed.replace(max_positions=places)
    assert contexts_of(structure.replace(embed=embed)) == contexts
