"""What every rewrite is held to: options that are read strictly, refusals with a reason, results that are checked."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.rewriting import calibration_of, example, rewritten
from support.text_models import encoder, plain_calibration
from support.tiny import block_spec, images, logits, model_of, towers_model
from support.translators import translator, translator_calibration

from compress.model import Transformer
from compress.model.ffns.affine import AffineSpec, LowRankAffineSpec
from compress.model.norms import NormSpec
from compress.model.scores.merged import MergedScoresSpec
from compress.model.scores.symmetric import SymmetricScoresSpec
from compress.model.values.gated_mean import GatedMeanSpec
from compress.rewrites import REWRITES, Calibration, Options, parse_options, run_rewrite
from compress.rewrites.layers import resolve
from compress.rewrites.rewrite import rewrite
from compress.rewrites.surgery import with_blocks
from targets.errors import InputError

PLAIN = block_spec()
ROPE = block_spec(rope=True, head_dim=4)
LOOPED = block_spec(loops=2)
CAUSAL = block_spec(causal=True)
T2R = block_spec().replace(
    mixer={
        "kind": "linear-attention",
        "scores": PLAIN.mixer.scores,  # type: ignore[union-attr]
        "values": PLAIN.mixer.values,  # type: ignore[union-attr]
        "feature": {"kind": "t2r", "size": 3},
    }
)
#: Blocks for the rewrites that are refused for plain ones.
FOR = {
    "relax-loops": LOOPED,
    "fold-feature-map": T2R,
    **dict.fromkeys(("hybrid", "gated-linear-attention", "gated-delta-rule"), CAUSAL),
}
#: Those that work on tables of tokens, and so on text models only.
TABLES = {"low-rank-embedding", "trim-vocabulary"}
#: Those that work on an encoder-decoder alone.
TRANSLATORS = {"linear-cross", "shortlist"}


def model_for(use: str) -> tuple[Transformer, Calibration]:
    """A small model that the rewrite works on, and inputs for it."""
    if use in TRANSLATORS:
        model = translator()
        return model, translator_calibration(model)
    if use == "class-vectors":
        model = towers_model(PLAIN, PLAIN)
        return model, calibration_of(model)
    model = encoder() if use in TABLES else model_of(*[FOR.get(use, PLAIN)] * 2)
    return model, plain_calibration(model) if use in TABLES else calibration_of(model)


def refusal(model: Transformer, use: str, **options: Any) -> str:
    """The line that a rewrite ends with."""
    with pytest.raises(InputError) as caught:
        rewritten(model, use, **(example(use) | options))
    line = str(caught.value)
    assert "\n" not in line
    return line


@pytest.mark.parametrize("use", ["merge-qk", "low-rank-heads", "symmetric-qk", "single-head", "drop-key-bias"])
def test_rotary_positions_stand_between_query_and_key(use: str) -> None:
    line = refusal(model_of(PLAIN, ROPE), use)
    assert line.startswith(f"{use} is refused under rotary positions: between query and key stands a rotation")


@pytest.mark.parametrize(
    "use",
    [
        "affine-patch",
        "align-layers",
        "fold-norm",
        "merge-qk",
        "low-rank-heads",
        "symmetric-qk",
        "single-head",
        "slice-width",
        "drop-value",
        "drop-projection",
        "prune-heads",
        "grouped-heads",
        "affine-mlp",
        "low-rank-affine-mlp",
        "drop-mlp",
        "prune-neurons",
        "drop-blocks",
        "sumformer",
        "swap-activation",
        "tie-layers",
        "trim-last-block",
    ],
)
def test_a_looped_block_is_refused_before_tying(use: str) -> None:
    line = refusal(model_of(LOOPED, LOOPED), use)
    assert line == f"{use} is refused for a block that is looped 2 times; apply it before tying"


@pytest.mark.parametrize(
    ("use", "options", "model", "reason"),
    [
        ("fold-norm", {}, [block_spec(residual="post")], "their norms feed the residual stream as well"),
        ("fold-norm", {}, [block_spec(scores=MergedScoresSpec(num_heads=2))], "layer 0 uses its normed tokens raw"),
        ("fold-norm", {}, [PLAIN, block_spec(values=GatedMeanSpec(projection=True))], "layer 1 uses its normed tokens"),
        ("fold-norm", {}, [block_spec(ffn=LowRankAffineSpec(rank=2))], "through a map without a bias"),
        (
            "fold-norm",
            {},
            [block_spec(scores=SymmetricScoresSpec(num_heads=2, head_dim=3))],
            "through a map without a bias",
        ),
        ("merge-qk", {}, [block_spec(scores=MergedScoresSpec(num_heads=2))], "has 'merged' scores already"),
        ("low-rank-heads", {"rank": 6}, [PLAIN], "rank 6 is above a head's size (5)"),
        ("low-rank-heads", {"rank": 13}, [block_spec(head_dim=20)], "rank 13 is above"),
        ("low-rank-heads", {"value_rank": 6}, [PLAIN], "value_rank 6 is above a head's value size (5)"),
        (
            "low-rank-heads",
            {"value_rank": 2},
            [block_spec(values=GatedMeanSpec(projection=True))],
            "works on projected values, and a chosen layer has 'gated-mean'",
        ),
        (
            "low-rank-heads",
            {},
            [block_spec(scores=MergedScoresSpec(num_heads=2))],
            "works on projected scores, and a chosen layer has 'merged'",
        ),
        ("symmetric-qk", {"rank": 13}, [PLAIN], "rank 13 is above the hidden size 12"),
        ("single-head", {"rank": 13}, [PLAIN], "rank 13 is above the hidden size 12"),
        ("single-head", {}, [block_spec(values=GatedMeanSpec(projection=True))], "works on projected values"),
        ("low-rank-affine-mlp", {"rank": 13}, [PLAIN], "rank 13 is above the hidden size 12"),
        ("drop-projection", {"rank": 13}, [PLAIN], "rank 13 is above the hidden size 12"),
        (
            "drop-projection",
            {"rank": 2},
            [block_spec(values=GatedMeanSpec(projection=True))],
            "works on projected values",
        ),
        ("drop-value", {}, [block_spec(values=GatedMeanSpec(projection=False))], "works on projected values"),
        ("prune-heads", {"keep": 3}, [PLAIN], "keep 3 is above the 2 heads of a layer"),
        ("prune-heads", {}, [block_spec(heads=4, kv_heads=2)], "2 heads share keys and values and go together"),
        ("prune-heads", {}, [block_spec(scores=MergedScoresSpec(num_heads=2))], "prune before other rewrites"),
        ("grouped-heads", {"groups": 3}, [PLAIN], "a layer has 2 heads of keys and values; 3 does not divide it"),
        ("grouped-heads", {}, [block_spec(scores=MergedScoresSpec(num_heads=2))], "projected scores and values of as"),
        ("grouped-heads", {}, [block_spec(head_dim=20)], "a head is wider than the hidden size 12"),
        ("prune-neurons", {"keep": 15}, [PLAIN], "keep 15 is above the 14 hidden units of a layer"),
        ("prune-neurons", {}, [block_spec(ffn=AffineSpec())], "it works on two-layer feed-forwards"),
        ("swap-activation", {}, [block_spec(ffn=AffineSpec())], "it works on ungated two-layer feed-forwards"),
        ("affine-mlp", {}, [PLAIN.replace(ffn=None, ffn_norm=None)], "a chosen layer has no feed-forward"),
        ("drop-value", {}, [PLAIN.replace(mixer=None, mixer_norm=None)], "a chosen layer has no mixer"),
        ("drop-blocks", {"layers": "all"}, [PLAIN, PLAIN], "would remove all 2 blocks; keep one at least"),
        ("affine-patch", {"layers": [0, 2]}, [PLAIN] * 3, "layers must follow one another and be among 0 to 2"),
        ("affine-patch", {"layers": [2, 3]}, [PLAIN] * 3, "layers must follow one another and be among 0 to 2"),
        ("affine-patch", {"layers": "auto:3"}, [PLAIN, PLAIN], "asks for more than the 2 layers of the model"),
        ("affine-patch", {"layers": [0]}, [PLAIN.replace(keep_tokens=1)], "apply it before trimming"),
        ("align-layers", {"reference": 2}, [PLAIN, PLAIN], "there is no layer 2; the model has 2 (0 to 1)"),
        ("relax-loops", {}, [PLAIN, PLAIN], "no block of this model is looped; use tie-layers first"),
        ("relax-loops", {}, [LOOPED.replace(per_loop={"delta_rank": 1})], "have parts of their own already"),
        (
            "relax-loops",
            {"timestep": True},
            [block_spec(residual="post", loops=2)],
            "timestep gains need pre-norm blocks",
        ),
        ("tie-layers", {"grouping": [0, 0, 0]}, [PLAIN, PLAIN], "grouping names 3 layers; the model has 2"),
        ("tie-layers", {"grouping": [0, 1]}, [PLAIN, PLAIN], "ties none of them; ask for fewer blocks"),
        ("tie-layers", {"grouping": "cycle", "blocks": 2}, [PLAIN, PLAIN], "ties none of them"),
        ("tie-layers", {"grouping": "middle"}, [PLAIN, PLAIN], "1 shared blocks do not fit into the 0 layers"),
        ("tie-layers", {}, [PLAIN, block_spec(ffn=AffineSpec())], "layers 0 and 1 are built differently"),
        ("affine-mlp", {}, [PLAIN.replace(per_loop={"delta_rank": 1})], "a block with deltas, signals or timestep"),
    ],
)
def test_what_a_rewrite_cannot_do_it_refuses_with_the_reason(
    use: str, options: dict[str, Any], model: list[Any], reason: str
) -> None:
    assert reason in refusal(model_of(*model), use, **options)


def test_a_head_that_reads_every_token_needs_the_whole_last_block() -> None:
    assert "the head of this model reads every token" in refusal(model_of(PLAIN, pools=("mean",)), "trim-last-block")


def test_packed_attention_is_rewritten_no_more() -> None:
    packed = rewritten(model_of(PLAIN), "pack-qkv")
    feeds = {"affine-mlp", "drop-mlp", "low-rank-affine-mlp", "prune-neurons", "swap-activation"}
    whole = {
        "affine-patch",
        "align-layers",
        "class-vectors",
        "drop-blocks",
        "fold-feature-map",
        *TRANSLATORS,
        "pool-tokens",
        "relax-loops",
        "tie-layers",
    }
    for use in sorted(REWRITES.keys() - feeds - whole - TABLES - {"pack-qkv", "trim-last-block"}):
        assert "a chosen layer has a 'packed-attention' mixer" in refusal(packed, use)


def test_layers_that_cannot_be_rewritten_may_be_left_out() -> None:
    model = model_of(ROPE, PLAIN, LOOPED)
    result = rewritten(model, "low-rank-heads", rank=2, layers=[1])
    assert [a != b for a, b in zip(result.structure.blocks, model.structure.blocks, strict=True)] == [
        False,
        True,
        False,
    ]
    assert rewritten(model, "low-rank-heads", rank=2, layers="auto:1").structure == result.structure
    line = refusal(model, "low-rank-heads", rank=2, layers="auto:2")
    assert "asks for more than the 1 layers that can be taken (low-rank-heads is refused under rotary" in line


@pytest.mark.parametrize(
    ("layers", "chosen"), [("all", [0, 1, 2, 3]), ((3, 1), [1, 3]), ("auto:2", [1, 3]), ("auto:4", [0, 1, 2, 3])]
)
def test_layers_are_all_of_them_those_listed_or_those_that_lose_least(layers: Any, chosen: list[int]) -> None:
    model = model_of(*[PLAIN] * 4)
    losses = {0: 0.5, 1: 0.1, 2: 0.5, 3: 0.2}
    assert (
        resolve(layers, model, lambda spec: None, lambda blocks: {block: losses[block] for block in blocks}) == chosen
    )


def test_ties_go_to_the_earlier_layer() -> None:
    model = model_of(*[PLAIN] * 3)
    assert resolve("auto:2", model, lambda spec: None, lambda blocks: dict.fromkeys(blocks, 0.0)) == [0, 1]


@pytest.mark.parametrize(
    ("layers", "line"), [((2,), "there is no layer 2; the model has 2 (0 to 1)"), ((-1,), "no layer -1")]
)
def test_layers_that_the_model_does_not_have_are_refused(layers: Any, line: str) -> None:
    assert line in refusal(model_of(PLAIN, PLAIN), "affine-mlp", layers=list(layers))


def test_auto_asks_for_no_more_layers_than_there_are() -> None:
    assert "'auto:3' asks for more than the 2 layers" in refusal(model_of(PLAIN, PLAIN), "affine-mlp", layers="auto:3")


@pytest.mark.parametrize(
    "layers", ["some", "auto", "auto:", "auto:0", "auto:-1", "auto:x", "auto:1.5", 3, True, None, [], ["a"], [0.5], {}]
)
def test_layers_are_read_strictly(layers: Any) -> None:
    with pytest.raises(InputError) as caught:
        parse_options({"use": "affine-mlp", "layers": layers})
    expected = 'rewrite \'affine-mlp\': layers: expected "all", "auto:K" with K >= 1, or a list of layer indices'
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ({"use": "affine-mpl"}, "unknown rewrite 'affine-mpl'; did you mean 'affine-mlp'? (known: affine-mlp, "),
        ({}, "give it use = NAME"),
        ({"use": ["affine-mlp"]}, "unknown rewrite ['affine-mlp']; did you mean 'affine-mlp'?"),
        ({"use": "affine-mlp", "layer": "all"}, "rewrite 'affine-mlp': unknown key 'layer'; did you mean 'layers'?"),
        ({"use": "fold-norm", "rank": 2}, "rewrite 'fold-norm': unknown key 'rank'"),
        ({"use": "low-rank-heads"}, "rewrite 'low-rank-heads': give rank, value_rank or both"),
        ({"use": "low-rank-heads", "rank": 0}, "rank: Input should be greater than 0 (given: 0)"),
        ({"use": "low-rank-heads", "rank": "many"}, "rank: Input should be a valid integer"),
        ({"use": "drop-projection", "anneal": "often"}, "anneal: Input should be a valid boolean"),
        ({"use": "drop-blocks"}, "layers: Field required"),
        ({"use": "relax-loops"}, "expected a delta_rank or signal_rank above 0, or timestep = true"),
        ({"use": "tie-layers", "grouping": "spiral"}, "rewrite 'tie-layers': grouping: Input should be 'middle'"),
        ({"use": "tie-layers", "grouping": [0, -1]}, "grouping.1: Input should be greater than or equal to 0"),
        ({"use": "affine-mlp", "layers": [1, 1]}, "expected different layer indices (given: [1, 1])"),
    ],
)
def test_a_table_that_is_no_rewrite_ends_in_one_line(table: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_options(table)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_every_rewrite_says_in_a_line_what_it_does() -> None:
    for name, method in REWRITES.items():
        assert method.name == name
        assert method.summary.endswith(".")
        parse_options({"use": name, **example(name)})


def test_two_rewrites_of_one_name_are_refused() -> None:
    with pytest.raises(TypeError, match="two rewrites are called 'affine-mlp'"):
        rewrite("affine-mlp", Options)(lambda model, options, calibration: model)


class Nothing(Options):
    """No options."""


@pytest.fixture
def wrong_rewrites() -> Any:
    """Three rewrites that break what they promise."""

    @rewrite("forgets-a-weight", Nothing)
    def forgets(model: Transformer, options: Nothing, calibration: Calibration) -> Transformer:
        return with_blocks(model, lambda spec: spec.replace(ffn=AffineSpec()), [0])

    @rewrite("moves-a-bias", Nothing, exact=True)
    def moves(model: Transformer, options: Nothing, calibration: Calibration) -> Transformer:
        result = model.copy()
        result.get_parameter("head.output.bias.0")[1] += 1e-4
        return result

    @rewrite("answers-nan", Nothing, exact=True)
    def answers_nan(model: Transformer, options: Nothing, calibration: Calibration) -> Transformer:
        result = model.copy()
        result.get_parameter("head.output.weight").fill_(3e38)
        return result

    yield
    for name in ("forgets-a-weight", "moves-a-bias", "answers-nan"):
        del REWRITES[name]


@pytest.mark.usefixtures("wrong_rewrites")
def test_a_weight_that_a_rewrite_forgets_does_not_go_unseen() -> None:
    assert "left blocks.0.ffn.map.weight without finite values" in refusal(model_of(PLAIN), "forgets-a-weight")


@pytest.mark.usefixtures("wrong_rewrites")
@pytest.mark.parametrize("use", ["moves-a-bias", "answers-nan"])
def test_a_rewrite_that_is_not_as_exact_as_it_says_is_stopped(use: str) -> None:
    assert f"rewrite {use!r} should be exact but moved a logit by" in refusal(model_of(PLAIN), use)


def test_an_exact_rewrite_notes_how_exact_it_was() -> None:
    notes: list[str] = []
    model = model_of(PLAIN)
    rewritten(model, "fold-norm", calibration_of(model, notes=notes))
    assert len(notes) == 1
    assert notes[0].startswith("fold-norm: exact, logits moved by ")


@pytest.mark.parametrize("use", sorted(REWRITES))
def test_a_rewrite_leaves_the_model_that_it_is_given_as_it_was(use: str) -> None:
    model, calibration = model_for(use)
    structure, state = model.structure, {name: tensor.clone() for name, tensor in model.state_dict().items()}
    result = rewritten(model, use, calibration, **example(use))
    assert model.structure == structure
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    mine = {parameter.data_ptr() for parameter in model.parameters()}
    assert not [name for name, parameter in result.named_parameters() if parameter.data_ptr() in mine]
    assert (result.structure != structure) == (use != "align-layers")
    assert not result.training


@pytest.mark.parametrize("use", sorted(REWRITES))
def test_a_rewrite_gives_the_same_weights_each_time(use: str) -> None:
    model, calibration = model_for(use)
    first, second = (rewritten(model, use, calibration, **example(use)).state_dict() for _ in range(2))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


tables = st.sampled_from(
    [{"use": name, **example(name)} for name in sorted(REWRITES)]
    + [
        {"use": "low-rank-heads", "rank": 1, "value_rank": 2, "layers": "auto:1"},
        {"use": "drop-projection", "rank": 1, "layers": [1]},
        {"use": "drop-projection", "anneal": True, "layers": "auto:1"},
        {"use": "drop-value", "anneal": True, "layers": [0]},
        {"use": "merge-qk", "layers": "auto:1"},
        {"use": "affine-mlp", "layers": "auto:2"},
        {"use": "tie-layers", "grouping": "sequence", "signal_rank": 2, "timestep": True},
        {"use": "relax-loops", "delta_rank": 1, "timestep": True},
    ]
)


@settings(max_examples=40, deadline=None)
@given(
    recipe=st.lists(tables, min_size=2, max_size=4),
    specs=st.lists(
        st.sampled_from(
            [PLAIN, ROPE, LOOPED, CAUSAL, T2R, block_spec(heads=4, kv_heads=2), block_spec(norm=NormSpec(kind="rms"))]
        ),
        min_size=1,
        max_size=3,
    ),
)
def test_any_recipe_gives_a_model_that_works_or_one_line(recipe: list[dict[str, Any]], specs: list[Any]) -> None:
    model = original = model_of(*specs)
    calibration = calibration_of(original, batches=2, size=4)
    for table in recipe:
        try:
            model = run_rewrite(*parse_options(table), model, calibration)
        except InputError as error:
            assert "\n" not in str(error)
            assert "should be exact" not in str(error)
            assert "finite" not in str(error)
    answer = logits(model, images(model))
    assert answer.shape == (4, 3)
    assert bool(answer.isfinite().all())
