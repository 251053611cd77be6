"""`edgepress.compress` and what comes of it: a live model in, a gated bundle out."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library.conftest import Run, images
from PIL import Image

import edgepress
from compress.pipeline.events import Event, RunFinished, RunStarted, StageStarted

#: The first of them makes a whole run.
pytestmark = pytest.mark.timeout(900)


def test_a_live_model_becomes_a_bundle_that_passed(run: Run) -> None:
    assert run.result, run.result.reason
    assert run.result.verdict == "pass"
    assert json.loads((run.result.bundle / "manifest.json").read_text())["verdict"] == "pass"
    assert run.result.report.read_text().startswith("<!doctype html>")


def test_a_live_model_is_called_by_its_class(run: Run) -> None:
    told = json.loads((run.result.report.parent / "report.json").read_text())
    assert told["model"].startswith(f"{type(run.model).__name__} (")


def test_the_result_has_the_numbers_of_the_report(run: Run) -> None:
    told = json.loads((run.result.report.parent / "report.json").read_text())
    metric = told["drift"]["metrics"][0]
    assert (run.result.lost, run.result.worst) == (metric["drop"], metric["high"])
    assert [one.name for one in run.result.models] == [one["name"] for one in told["variants"]]
    sizes = {one["role"]: one["bytes"] for one in told["variants"]}
    assert run.result.smaller == sizes["reference"] / sizes["candidate"]


def test_the_result_shows_itself_in_a_terminal_and_in_a_notebook(run: Run) -> None:
    from rich.console import Console

    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(run.result)
    page = run.result._repr_html_()
    for text in (str(run.result), console.export_text(), page):
        assert "model.onnx" in text and "original fp32" in text and str(run.result.bundle) in text
    assert page.count("<tr>") == 1 + len(run.result.models)


def test_progress_is_told_from_the_first_event_to_the_last(run: Run) -> None:
    assert isinstance(run.events[0], RunStarted) and isinstance(run.events[-1], RunFinished)
    begun = [event.stage for event in run.events if isinstance(event, StageStarted)]
    assert begun[0] == "source" and begun[-1] == "report"


def test_the_same_objects_given_again_take_no_work(run: Run, tmp_path: Path) -> None:
    events: list[Event] = []
    again = compressed(run, tmp_path, progress=events.append)
    assert again.bundle.is_dir()
    assert not [event for event in events if isinstance(event, StageStarted)]


def test_a_cancelled_run_stops_and_leaves_no_bundle(run: Run, tmp_path: Path) -> None:
    stop = threading.Event()
    seen: list[Event] = []

    def watch(event: Event) -> None:
        seen.append(event)
        if isinstance(event, StageStarted):
            stop.set()

    with pytest.raises(edgepress.Cancelled, match="goes on where it stopped"):
        compressed(run, tmp_path, progress=watch, cancel=stop, seed=1)
    assert len([event for event in seen if isinstance(event, StageStarted)]) == 1
    assert not (tmp_path / "out" / "bundle").exists()


def test_a_bundle_is_opened_and_asked(run: Run, tmp_path: Path) -> None:
    pictures = [tmp_path / f"{index}.png" for index in range(3)]
    for path, pixels in zip(pictures, run.data[0], strict=False):
        Image.fromarray(pixels).save(path)
    answers = run.result.open()(*pictures, top=2)
    inputs = run.processor([Image.open(path) for path in pictures], return_tensors="pt")
    wanted = run.model(**inputs).logits.argmax(-1).tolist()
    assert [answer["top"][0]["label"] for answer in answers] == [f"LABEL_{index}" for index in wanted]
    assert [answer["input"] for answer in answers] == [str(path) for path in pictures]


def test_verify_holds_the_bundle_against_the_live_model(run: Run) -> None:
    found = edgepress.verify(run.model, run.result.bundle, run.data, processor=run.processor, max_drop=6)
    assert found and found.lost == 0


def test_verify_is_false_for_another_model(run: Run, tmp_path: Path) -> None:
    from support.checkpoints import saved

    other = saved(tmp_path / "other", "vit", seed=9)
    page = tmp_path / "report.html"
    found = edgepress.verify(run.model, other, run.data, processor=run.processor, max_drop=6, report=page)
    assert not found and found.verdict == "fail"
    assert "fail" in page.read_text().lower()
    with pytest.raises(edgepress.GateFailed, match="did not pass"):
        found.check()


def test_the_steps_one_by_one_give_a_file_that_answers_as_the_model(run: Run, tmp_path: Path) -> None:
    import onnxruntime
    import torch

    draft = edgepress.read(run.model, run.processor)
    smaller = edgepress.rewrite(draft, "fold-norm", run.data)
    healed = edgepress.heal(smaller, run.data, steps=2, batch_size=8, eval_every=1, flip=False)
    file = edgepress.export(healed, tmp_path / "model.onnx", run.data)
    inputs = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    session = onnxruntime.InferenceSession(file)
    given = session.run(None, {"pixel_values": inputs.numpy()})[0]
    with torch.no_grad():
        np.testing.assert_allclose(given, healed.module({"pixel_values": inputs}).numpy(), atol=1e-4)
    assert smaller.original is draft.module and smaller.module is not draft.module


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"processor": None}, "a live model needs what prepares its inputs"),
        ({"target": "nope"}, "unknown target 'nope'"),
        ({"settings": {"gate.max_dorp": 3}}, "max_dorp"),
        ({"recipe": "quik"}, "unknown recipe 'quik'"),
        ({"model": 3}, "the model is a int"),
        ({"data": 3}, "data is a int"),
        ({"data": None}, "brings no data of its own"),
    ],
)
def test_a_wrong_argument_is_one_line(run: Run, tmp_path: Path, change: dict[str, Any], line: str) -> None:
    with pytest.raises(edgepress.InputError, match=line) as caught:
        compressed(run, tmp_path, **change)
    assert len(str(caught.value)) < 300 and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def compressed(run: Run, place: Path, **changes: Any) -> edgepress.Compressed:
    """The run of the fixture, except for `changes`."""
    wanted = {
        "model": run.model,
        "data": run.data,
        "processor": run.processor,
        "target": "cpu",
        "recipe": "identity",
        "settings": {"precision.mode": "fp32", "calibrate.samples": 32, "calibrate.held_out": 32},
        "max_drop": 6,
        "out": place / "out",
        "progress": False,
    }
    return edgepress.compress(**{**wanted, **changes})


def test_other_data_are_another_run(run: Run, tmp_path: Path) -> None:
    from edgepress.given.data import source_of

    assert source_of(run.data, tmp_path) == source_of(images(), tmp_path)
    assert source_of(run.data, tmp_path) != source_of(images(seed=1), tmp_path)
