"""Gates: their files, their verdicts, and that whatever cannot be judged does not pass."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress.verification import gate
from compress.verification.gate import Gate, default_gate
from compress.verification.outcome import CheckResult, Status, combined_status
from compress.verification.predictions import PairScores, Predictions, Samples, SequenceLosses
from compress.verification.statistics import paired_rate_interval
from targets.errors import InputError


def answers(right: np.ndarray, classes: int = 4) -> Predictions:
    """A classifier that is right exactly where `right` says, on labels 0, 1, 2, ... in turn."""
    labels = np.arange(len(right)) % classes
    return Predictions(np.eye(classes)[(labels + ~right) % classes], labels)


def pair(samples: int, losses: int, wins: int) -> tuple[Predictions, Predictions]:
    reference, candidate = np.ones(samples, bool), np.ones(samples, bool)
    candidate[:losses] = False
    reference[losses : losses + wins] = False
    return answers(reference), answers(candidate)


VISION = "top1"


def test_a_small_proven_drop_passes_and_its_statistics_are_the_intervals() -> None:
    result = default_gate(VISION, 1.0).judge(*pair(10_000, 60, 20))
    assert result and result.status is Status.PASS
    check = result.checks[0]
    low, high = paired_rate_interval(60, 20, 10_000)
    assert (check.low, check.high) == pytest.approx((100 * low, 100 * high))
    assert check.worst == check.high and check.value == pytest.approx(0.4)
    assert (check.losses, check.wins) == (60, 20)
    assert check.p_noninferior is not None and check.p_noninferior < 0.025


def test_a_point_estimate_within_the_bound_is_not_enough() -> None:
    result = default_gate(VISION, 1.0).judge(*pair(872, 20, 16))
    assert not result and result.status is Status.FAIL
    assert result.checks[0].value is not None and result.checks[0].value < 1.0
    assert "that takes" in result.message and "872 samples" in result.message


def test_a_clear_drop_fails_without_talk_of_sample_size() -> None:
    result = default_gate(VISION, 1.0).judge(*pair(2000, 200, 0))
    assert result.status is Status.FAIL and "that takes" not in result.message


@given(st.integers(400, 1500), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_an_equal_candidate_has_drop_zero_and_passes(samples: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 5, samples)
    p = Predictions(generator.normal(size=(samples, 5)) + np.eye(5)[labels], labels)
    result = default_gate(VISION, 1.0).judge(p, p)
    assert result and result.checks[0].value == 0.0


def test_even_an_equal_candidate_does_not_pass_on_samples_too_few_to_tell() -> None:
    p = answers(np.ones(100, bool))
    result = default_gate(VISION, 1.0).judge(p, p)
    assert not result and "381 samples" in result.message


@given(st.integers(0, 1000))
@settings(max_examples=15, deadline=None)
def test_permuting_the_samples_changes_no_verdict_and_no_number(seed: int) -> None:
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, 3, 300)
    reference = Predictions(generator.normal(size=(300, 3)) + 3 * np.eye(3)[labels], labels)
    candidate = Predictions(reference.logits + generator.normal(size=(300, 3)), labels)
    checks = [
        {"metric": "top1", "max_drop": 5.0},
        {"metric": "f1_macro", "max_drop": 5.0},
        {"metric": "kl", "max_value": 0.1},
        {"metric": "agreement", "min_value": 80.0},
        {"metric": "top1", "per": "class", "max_drop": 9.0},
    ]
    judged = gate.parse({"check": checks, "resamples": 200})
    order = generator.permutation(300)
    assert judged.judge(reference, candidate) == judged.judge(reference.take(order), candidate.take(order))


def test_every_kind_of_bound_is_judged_at_its_worse_end() -> None:
    reference, candidate = pair(2000, 40, 10)
    checks = [
        {"metric": "top1", "max_drop": 2.5},
        {"metric": "top1", "max_relative_drop": 2.6},
        {"metric": "top1", "min_value": 97.0},
        {"metric": "agreement", "min_value": 96.0},
        {"metric": "kl", "max_value": 0.05},
        {"metric": "max_logit_error", "max_value": 1.0},
    ]
    results = gate.parse({"check": checks}).judge(reference, candidate).checks
    for result in results:
        assert result, result.message
        assert result.low is not None and result.high is not None
        assert result.worst == (result.low if result.bound == "min_value" else result.high)
    relative = results[1]
    assert relative.reference is not None and relative.worst is not None
    tight = gate.parse(
        {"check": [{"metric": "top1", "max_relative_drop": 100 * relative.worst / relative.reference * 0.99}]}
    )
    assert tight.judge(reference, candidate).status is Status.FAIL


def test_the_worst_class_decides_a_check_per_class() -> None:
    right = np.ones(4000, bool)
    hurt = right.copy()
    hurt[np.flatnonzero(np.arange(4000) % 4 == 2)[:60]] = False
    reference, candidate = answers(right), answers(hurt)
    assert default_gate(VISION, 3.0).judge(reference, candidate)
    result = gate.parse({"check": [{"metric": "top1", "per": "class", "max_drop": 3.0}]}).judge(reference, candidate)
    assert [check.scope for check in result.checks if not check] == ["class 2"]
    assert result.status is Status.FAIL and len(result.checks) == 4


def test_slices_are_judged_by_their_masks() -> None:
    reference, candidate = pair(2000, 40, 0)
    slices = {"night": np.arange(2000) < 500, "day": np.arange(2000) >= 500}
    result = gate.parse({"check": [{"metric": "top1", "per": "slice", "max_drop": 3.0}]}).judge(
        reference, candidate, slices
    )
    assert {check.scope: check.status for check in result.checks} == {"slice night": "fail", "slice day": "pass"}


def test_other_tasks_have_their_own_default_metric() -> None:
    generator = np.random.default_rng(0)
    gold = generator.normal(size=800)
    scores = PairScores(gold + 0.3 * generator.normal(size=800), gold)
    assert default_gate("spearman", 1.0).judge(scores, scores)
    assert not default_gate("spearman", 1.0).judge(scores, PairScores(generator.normal(size=800), gold))
    tokens = np.full(100, 50)
    losses = SequenceLosses(tokens * generator.normal(3, 0.1, 100), tokens, 4 * tokens)
    worse = SequenceLosses(losses.nll * 1.1, tokens, 4 * tokens)
    assert default_gate("perplexity", 1.0).judge(losses, losses)
    assert not default_gate("perplexity", 1.0).judge(losses, worse)
    assert default_gate("perplexity", 1.0).judge(worse, losses)


def test_the_hint_of_a_gate_with_too_few_samples_is_said_whole_in_its_line() -> None:
    result = default_gate("top1", 0.51234, confidence=0.987).judge(*pair(12_345, 1000, 965))
    assert result.status is Status.FAIL and len(result.message) <= gate.LONGEST
    assert "that takes" in result.message and "…" not in result.message


def test_a_scope_with_a_long_name_does_not_make_a_long_line() -> None:
    slices = {f"{place} of {500 * 'x'}": np.arange(2000) % 2 == place for place in (0, 1)}
    result = gate.parse({"check": [{"metric": "top1", "per": "slice", "max_drop": 1}]}).judge(
        *pair(2000, 40, 0), slices
    )
    assert not result and len(result.message) <= 300
    assert "…" in result.message and "allowed at most 1" in result.message and result.message.startswith("Top-1")


def test_the_line_of_a_gate_counts_the_other_checks_that_failed() -> None:
    checks = [
        {"metric": "top1", "min_value": 99},
        {"metric": "top1", "max_drop": 1},
        {"metric": "top1", "min_value": 9},
    ]
    failed = gate.parse({"check": checks}).judge(*pair(1000, 100, 0))
    assert failed.message == f"{failed.checks[0].message} (and 1 more)"
    one = gate.parse({"check": checks[1:]}).judge(*pair(1000, 100, 0))
    assert one.message == one.checks[0].message and one.checks[0].status is Status.FAIL
    passed = gate.parse({"check": checks[2:] * 2}).judge(*pair(1000, 0, 0))
    assert passed and passed.message == passed.checks[0].message


def test_a_gate_asks_fifty_samples_unless_it_says_another_number() -> None:
    check = {"metric": "top1", "min_value": 1}
    few, enough = gate.parse({"check": [check]}), pair(50, 0, 0)
    assert few.judge(*pair(49, 0, 0)).status is Status.ERROR
    assert few.judge(*enough).status is Status.PASS
    assert gate.parse({"check": [check], "min_samples": 51}).judge(*enough).status is Status.ERROR
    assert gate.parse({"check": [{**check, "min_samples": 51}]}).judge(*enough).status is Status.ERROR


def test_a_verdict_cannot_be_changed_afterwards() -> None:
    result = default_gate(VISION, 1.0).judge(*pair(1000, 200, 0))
    with pytest.raises(ValueError, match="frozen"):
        result.checks[0].status = Status.PASS  # type: ignore[misc]
    with pytest.raises(ValueError, match="frozen"):
        result.status = Status.PASS  # type: ignore[misc]


# ---- fail closed, one by one ----

ALL_CHECKS = [
    {"metric": "top1", "max_drop": 100.0},
    {"metric": "top1", "max_relative_drop": 1000.0},
    {"metric": "top1", "min_value": 0.0},
    {"metric": "f1_macro", "max_drop": 100.0},
    {"metric": "agreement", "min_value": 0.0},
    {"metric": "kl", "max_value": 1e9},
    {"metric": "max_logit_error", "max_value": 1e9},
    {"metric": "top1", "per": "class", "max_drop": 100.0},
]
LAX = gate.parse({"check": ALL_CHECKS, "resamples": 200})


def test_the_lax_gate_of_the_following_tests_passes_good_samples() -> None:
    assert LAX.judge(*pair(500, 5, 5))


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", [0, 1])
def test_one_value_that_is_not_finite_is_an_error_in_every_check(poison: float, side: int) -> None:
    sides = pair(500, 5, 5)
    sides[side].logits[123, 1] = poison
    result = LAX.judge(*sides)
    assert result.status is Status.ERROR and not result
    assert {check.status for check in result.checks} == {Status.ERROR}
    assert "not finite" in result.message and ("candidate" if side else "reference") in result.message


@given(st.integers(0, 499), st.integers(0, 3), st.sampled_from([np.nan, np.inf, -np.inf]))
@settings(max_examples=25, deadline=None)
def test_a_nan_anywhere_never_passes(row: int, column: int, poison: float) -> None:
    reference, candidate = pair(500, 0, 0)
    candidate.logits[row, column] = poison
    assert not LAX.judge(reference, candidate)


def empty() -> Predictions:
    return Predictions(np.zeros((0, 4), np.float32), np.zeros(0, np.int64))


REFERENCE = pair(500, 0, 0)[0]


@pytest.mark.parametrize(
    ("reference", "candidate", "reason"),
    [
        (empty(), empty(), "no samples"),
        (REFERENCE, empty(), "no samples"),
        (REFERENCE, REFERENCE.take(np.arange(499)), "shape"),
        (REFERENCE, Predictions(np.zeros((500, 5), np.float32), REFERENCE.labels), "shape"),
        (REFERENCE, Predictions(REFERENCE.logits, np.roll(REFERENCE.labels, 1)), "did not see the same data"),
        (REFERENCE.take(np.arange(49)), REFERENCE.take(np.arange(49)), "too few"),
        (REFERENCE, PairScores(np.zeros(500), np.zeros(500)), "pair scores"),
        (PairScores(np.arange(500), np.arange(500)), PairScores(np.arange(500), np.arange(500)), "needs class logits"),
    ],
)
def test_samples_that_cannot_be_judged_are_an_error(reference: Samples, candidate: Samples, reason: str) -> None:
    result = LAX.judge(reference, candidate)
    assert result.status is Status.ERROR and not result
    assert reason in result.message


def test_a_class_without_enough_samples_is_an_error() -> None:
    p = answers(np.ones(500, bool), classes=4)
    wider = Predictions(np.pad(p.logits, ((0, 0), (0, 1))), p.labels)
    result = LAX.judge(wider, wider)
    assert result.status is Status.ERROR
    assert [check.scope for check in result.checks if not check] == ["class 4"]


def test_two_classes_of_the_same_name_are_both_judged() -> None:
    reference, candidate = pair(500, 0, 0)
    names = ["a", "a", "b", "c"]
    result = LAX.judge(
        Predictions(reference.logits, reference.labels, names), Predictions(candidate.logits, candidate.labels, names)
    )
    assert sum(check.scope == "class a" for check in result.checks) == 2


def test_asking_for_slices_where_there_are_none_is_an_error() -> None:
    judged = gate.parse({"check": [{"metric": "top1", "per": "slice", "max_drop": 100.0}]})
    assert judged.judge(REFERENCE, REFERENCE).status is Status.ERROR
    wrong = {"half": np.ones(250, bool)}
    assert judged.judge(REFERENCE, REFERENCE, wrong).status is Status.ERROR
    numbers = {"all": np.ones(500, np.int64)}
    assert judged.judge(REFERENCE, REFERENCE, numbers).status is Status.ERROR  # type: ignore[arg-type]


def test_a_perplexity_that_overflows_is_an_error() -> None:
    tokens = np.full(100, 50)
    good = SequenceLosses(3.0 * tokens, tokens, tokens)
    with np.errstate(over="ignore"):
        result = default_gate("perplexity", 1e300).judge(good, SequenceLosses(1e5 * tokens, tokens, tokens))
    assert result.status is Status.ERROR and "overflows" in result.message


def test_the_status_of_the_whole_is_the_worst_of_its_parts() -> None:
    passed, failed, error, absent = Status.PASS, Status.FAIL, Status.ERROR, Status.NOT_RUN
    assert combined_status([]) is absent
    assert combined_status([passed, passed]) is passed
    assert combined_status([passed, absent]) is absent
    assert combined_status([passed, absent, failed]) is failed
    assert combined_status([failed, error, absent]) is error


@pytest.mark.parametrize("status", [Status.FAIL, Status.ERROR, Status.NOT_RUN])
def test_a_result_is_true_only_when_passed(status: Status) -> None:
    result = default_gate(VISION, 1.0).judge(*pair(1000, 0, 0))
    assert result and result.checks[0]
    assert not result.model_copy(update={"status": status})
    assert not result.checks[0].model_copy(update={"status": status})
    assert CheckResult.model_validate_json(result.checks[0].model_dump_json()) == result.checks[0]


# ---- gate.toml ----

GOOD = """
confidence = 0.9
min_samples = 200
seed = 3

[[check]]
metric = "top1"
max_drop = 1.0

[[check]]
metric = "top1"
per = "class"
max_drop = 4.0
min_samples = 100
"""


def test_a_gate_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "gate.toml").write_text(GOOD)
    loaded = gate.load(tmp_path / "gate.toml")
    assert loaded.confidence == 0.9 and loaded.seed == 3
    assert [(check.metric, check.per, check.bound, check.limit) for check in loaded.check] == [
        ("top1", "overall", "max_drop", 1.0),
        ("top1", "class", "max_drop", 4.0),
    ]
    assert Gate.model_validate_json(loaded.model_dump_json()) == loaded


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "check is missing"),
        ("check = []", "check.*at least 1"),
        ("[[check]\n", "not TOML"),
        ('[[check]]\nmetric = "top2"\nmax_drop = 1', "check.1..metric.*top2.*did you mean top1"),
        ('[[check]]\nmetric = "top1"\nmax_dorp = 1', "check.1..max_dorp; did you mean max_drop"),
        ('[[check]]\nmetric = "top1"', "exactly one of.*none"),
        ('[[check]]\nmetric = "top1"\nmax_drop = 1\nmin_value = 2', "exactly one of.*max_drop, min_value"),
        ('[[check]]\nmetric = "kl"\nmax_drop = 1', "has no drop"),
        ('[[check]]\nmetric = "top1"\nmax_drop = nan', "max_drop.*finite"),
        ('[[check]]\nmetric = "top1"\nmax_drop = inf', "max_drop.*finite"),
        ('[[check]]\nmetric = "top1"\nmax_drop = 1\nper = "klass"', "per.*'class'.*klass"),
        ('confidence = 1.0\n[[check]]\nmetric = "top1"\nmax_drop = 1', "confidence.*less than 1"),
        ('min_samples = 0\n[[check]]\nmetric = "top1"\nmax_drop = 1', "min_samples.*greater than or equal to 1"),
        ('confidense = 0.9\n[[check]]\nmetric = "top1"\nmax_drop = 1', "confidense; did you mean confidence"),
    ],
)
def test_a_wrong_gate_file_gives_one_line_with_file_key_and_what_is_allowed(
    text: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "gate.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"(?s)gate.toml.*{message}") as caught:
        gate.load(path)
    assert "\n" not in str(caught.value)


def test_an_absent_gate_file_and_an_unknown_metric_are_input_errors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.toml"):
        gate.load(tmp_path / "absent.toml")
    with pytest.raises(InputError, match="top1"):
        default_gate("detection", 1.0)
