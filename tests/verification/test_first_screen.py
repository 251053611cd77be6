"""The first screen of a report answers one question: should I ship this?"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from compress.verification.drift import compare
from compress.verification.gate import default_gate
from compress.verification.outcome import Status
from compress.verification.predictions import Predictions
from compress.verification.report import to_html, to_markdown
from compress.verification.report_data import ExtraCheck, ReportData, Variant

LABELS = np.arange(1000) % 4


def report(wrong: int, **extra: Any) -> ReportData:
    """A candidate that gives `wrong` of 1,000 samples another class than its reference, which is right."""
    good = 5 * np.eye(4, dtype=np.float32)[LABELS]
    other = good.copy()
    other[:wrong] = np.roll(other[:wrong], 1, axis=1)
    drift = compare(Predictions(good, LABELS), Predictions(other, LABELS), default_gate("top1", 1.0))
    told = {"edgepress": "1", "model": "m", "task": "image-classification", "target": "jetson", "recipe": "r"}
    variants = (
        Variant(name="original fp32", role="reference", bytes=400, metric=100.0, latency_ms=4.0),
        Variant(name="original int8", role="baseline", bytes=100, metric=100.0, latency_ms=3.0),
        Variant(name="model.onnx", role="candidate", bytes=80, metric=99.0, latency_ms=2.0),
    )
    return ReportData(schema=1, drift=drift, **{"variants": variants, **told, **extra})


def first_screen(data: ReportData) -> str:
    page = to_html(data)
    return page[page.index("<main>") : page.index('<div class="tiles">')]


@pytest.mark.parametrize(("wrong", "answer"), [(0, "Yes, by this gate."), (100, "No.")])
def test_it_says_whether_to_ship_and_shows_what_was_lost_against_the_limit(wrong: int, answer: str) -> None:
    screen = first_screen(report(wrong))
    assert f"Should I ship this? <b>{answer}</b>" in screen
    assert screen.count("<svg") == 2 and 'stroke="var(--bad)"' in screen, "the mark of the verdict, and one interval"
    assert f"**Should I ship this?** {answer}" in to_markdown(report(wrong))


def test_it_says_what_was_won_against_the_original_and_its_plain_int8() -> None:
    screen = first_screen(report(0))
    assert "<dt>Better</dt><dd>5× smaller and 2× faster than the original; 1.2× smaller and 1.5× faster than" in screen
    assert "<dt>Worse</dt>" not in screen


def test_rounds_that_alternate_say_how_much_faster_it_is_where_medians_say_something_else() -> None:
    original, int8, candidate = report(0).variants
    timed = (
        original.model_copy(update={"speedup": 1.0}),
        int8.model_copy(update={"speedup": 1.25}),
        candidate.model_copy(update={"speedup": 1.5}),
    )
    screen = first_screen(report(0, variants=timed))
    assert "5× smaller and 1.5× faster than the original; 1.2× smaller and 1.2× faster than original int8" in screen
    slower = (*timed[:2], candidate.model_copy(update={"speedup": 0.5}))
    assert "2× slower than the original" in first_screen(report(0, variants=slower))


def test_what_became_worse_is_not_among_what_was_won() -> None:
    slow = Variant(name="model.onnx", role="candidate", bytes=200, metric=99.0, latency_ms=6.0)
    screen = first_screen(report(0, variants=(*report(0).variants[:2], slow)))
    assert "<dt>Better</dt><dd>2× smaller than the original</dd>" in screen
    assert "<dt>Worse</dt><dd>1.5× slower than the original; 2× larger and 2× slower than original int8</dd>" in screen


def test_it_says_what_was_not_shown() -> None:
    assert "<dt>Not shown</dt><dd>speed and memory on jetson; inputs unlike these 1,000 samples</dd>" in first_screen(
        report(0)
    )
    untimed = report(0, variants=(), notes=("no engine was run",))
    assert "speed: nothing was timed; a TensorRT engine at work" in first_screen(untimed)


@pytest.mark.parametrize("status", list(Status))
def test_what_was_not_compared_is_never_a_yes(status: Status) -> None:
    data = report(0, checks=(ExtraCheck(name="parity", status=status, message="b"),)).model_copy(update={"drift": None})
    assert "Should I ship this? <b>Yes" not in first_screen(data)


def luminance(colour: str) -> float:
    """Of `#rrggbb` or `#rgb`, by WCAG 2."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * one for one in colour[1:])
    parts = np.array([int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)])
    return float(
        np.array([0.2126, 0.7152, 0.0722]) @ np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    )


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_can_be_read_in_either_theme(theme: int) -> None:
    """A contrast of 4.5, as WCAG 2 asks of text."""
    colours = dict(re.findall(r"--([\w-]+):(#\w+)", re.findall(r":root\{([^}]*)\}", to_html(report(0)))[theme]))
    pairs = [(text, ground) for text in ("ink", "soft", "accent") for ground in ("card", "bg")]
    for tone in ("good", "bad", "warn"):
        pairs += [(tone, "card"), (tone, f"{tone}-bg")]
    for text, ground in pairs:
        dark, light = sorted(luminance(colours[one]) for one in (text, ground))
        assert (light + 0.05) / (dark + 0.05) > 4.5, (text, ground)
