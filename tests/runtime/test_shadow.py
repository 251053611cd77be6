"""A shadow tells when two bundles differ by more than is allowed, early, and hardly ever when they do not."""

import json
import urllib.error
import urllib.request

import numpy as np
import pytest
from PIL import Image

from runtime.field.metrics import Metrics
from runtime.field.record import Record
from runtime.field.sequential import LEVEL, Share
from runtime.field.shadow import agree
from targets.errors import InputError


def stopped(rate, allowed, events, seed):
    """The verdict of a stream that differs at this rate, and after how many events it was there."""
    share = Share(allowed)
    for at, differs in enumerate(np.random.default_rng(seed).random(events) < rate, 1):
        share = share.after(bool(differs))
        if share.verdict != "open":
            return share.verdict, at
    return "open", events


def test_streams_at_the_allowed_share_are_hardly_ever_called_above_however_often_one_looks():
    wrong = sum(stopped(0.05, 0.05, 400, seed)[0] == "above" for seed in range(60))
    assert wrong <= 3  # P(more than 3 of 60 at a level of 0.01) = 0.003


@pytest.mark.parametrize(
    ("rate", "verdict", "within"), [(0.3, "above", 60), (0.15, "above", 250), (0.0, "within", 150)]
)
def test_a_clear_difference_and_a_clear_agreement_are_told_after_few_inputs(rate, verdict, within):
    told = [stopped(rate, 0.05, 1000, seed) for seed in range(20)]
    assert {one for one, _ in told} == {verdict}
    assert np.median([at for _, at in told]) <= within


def test_the_evidence_is_the_mixture_of_likelihood_ratios_computed_in_full():
    allowed, n, k = 0.1, 37, 9
    odds = allowed / (1 - allowed)
    ps = [m * odds / (1 + m * odds) for m in (1.5, 2.0, 3.0, 5.0, 10.0, 30.0)]
    wanted = np.mean([(p / allowed) ** k * ((1 - p) / (1 - allowed)) ** (n - k) for p in ps])
    share = Share(allowed, n, k)
    assert np.exp(share._evidence((1.5, 2.0, 3.0, 5.0, 10.0, 30.0))) == pytest.approx(wanted)
    assert (share.verdict == "above") == (wanted >= 1 / LEVEL)


def test_answers_agree_by_label_by_direction_or_as_a_whole():
    cat, dog = ({"top": [{"label": label, "probability": 0.5}]} for label in ("cat", "dog"))
    assert agree(cat, {"top": [{"label": "cat", "probability": 0.9}]}) and not agree(cat, dog)
    assert agree({"embedding": [1.0, 0.0]}, {"embedding": [2.0, 0.1]})
    assert not agree({"embedding": [1.0, 0.0]}, {"embedding": [1.0, 1.0]})
    assert not agree({"embedding": [1.0, 0.0]}, {"embedding": [1.0]})
    assert agree({"score": 1.0}, {"score": 1.0}) and not agree({"score": 1.0}, {"score": 1.1})


def test_a_record_keeps_to_its_size_and_goes_on_behind_a_torn_line(tmp_path):
    path = tmp_path / "r.jsonl"
    record = Record(path, most=1000)
    for at in range(200):
        record.append({"at": at, "text": "x" * 20})
    old = path.with_name("r.jsonl.1")
    assert path.stat().st_size + old.stat().st_size < 2200 and Record(path, 1000).last["at"] == 199
    with path.open("ab") as stream:
        stream.write(b'{"at": 20')
    assert Record(path, 1000).last["at"] == 199
    Record(path, 1000).append({"at": 200})
    assert [json.loads(line)["at"] for line in path.read_text().splitlines()][-2:] == [199, 200]
    path.write_text("my notes\n")
    with pytest.raises(InputError, match="its last line is not JSON"):
        Record(path)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for at in range(40):
        noise = np.random.default_rng(at).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "in" / f"{at:02}.png")
    return tmp_path / "in"


def test_a_shadow_of_the_same_model_agrees_and_one_with_other_labels_fails_the_command(
    run_module, maker, folder, tmp_path
):
    bundle, same = maker.write("bundle"), maker.write("same", model="another")
    other = maker.write("other", labels=["v", "w", "x", "y", "z"])
    record, metrics = tmp_path / "r.jsonl", tmp_path / "m.prom"
    options = ["--shadow-share", "1", "--shadow-record", record]
    plain = run_module("runtime.run", bundle, folder)
    done = run_module("runtime.run", bundle, folder, "--shadow", same, *options, "--metrics", metrics)
    assert done.returncode == 0 and done.stdout == plain.stdout, done.stderr
    lines = [json.loads(line) for line in record.read_text().splitlines()]
    assert len(lines) == 40 and all(line["same"] for line in lines)
    assert all(line["confidence"] == pytest.approx(line["shadow_confidence"], abs=1e-6) for line in lines)
    counts = dict(line.rsplit(" ", 1) for line in metrics.read_text().splitlines() if not line.startswith("#"))
    assert counts['edgepress_inputs_total{result="answered"}'] == "40"
    assert counts["edgepress_latency_seconds_count"] == counts['edgepress_latency_seconds_bucket{le="+Inf"}'] == "40"
    assert counts["edgepress_shadow_inputs"] == "40" and counts["edgepress_shadow_differing"] == "0"
    again = run_module("runtime.run", bundle, folder, "--shadow", same, *options)  # goes on where it was
    assert again.returncode == 0 and json.loads(record.read_text().splitlines()[-1])["shadowed"] == 80
    bad = run_module("runtime.run", bundle, "--source", folder, "--shadow", other, *options)
    assert bad.returncode == 1 and bad.stdout == plain.stdout
    assert "answered otherwise, 0.05 allowed: above" in bad.stderr
    assert json.loads(record.read_text().splitlines()[-1])["shadowed"] == 40  # another shadow starts anew


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--shadow-share", "0.5"], "--shadow-share belongs to --shadow"),
        (["--shadow", "nowhere"], "no bundle at nowhere"),
        (["--shadow", "{bundle}", "--shadow-share", "2"], "'2' is not a share"),
        (["--shadow", "{bundle}", "--shadow-differ", "1"], "allows every answer to differ"),
        (["--metrics", "256.0.0.1:9"], "cannot listen there"),
    ],
)
def test_wrong_usage_is_one_line(run_module, bundle, folder, arguments, message):
    done = run_module("runtime.run", bundle, folder / "00.png", *(one.format(bundle=bundle) for one in arguments))
    assert done.returncode == 2 and message in done.stderr.splitlines()[-1], done.stderr


def test_metrics_are_served_on_this_machine_alone_and_nothing_else_is():
    metrics = Metrics(":0", [lambda: {"drift": 0.5}])
    metrics.after(["a", "b"], [{"top": []}, InputError("x")], 3.0, None)
    url = f"http://127.0.0.1:{metrics.port}/"
    with urllib.request.urlopen(f"{url}metrics", timeout=10) as answer:
        text = answer.read().decode()
        assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
    assert 'edgepress_inputs_total{result="failed"} 1' in text and "edgepress_drift 0.5" in text
    assert 'edgepress_latency_seconds_bucket{le="0.002"} 0' in text
    assert 'edgepress_latency_seconds_bucket{le="0.005"} 2' in text
    with pytest.raises(urllib.error.HTTPError, match="404"):
        urllib.request.urlopen(f"{url}etc/passwd", timeout=10)
    metrics.finish()
