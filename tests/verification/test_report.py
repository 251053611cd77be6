"""Reports: every format says the same, nothing hostile gets through, and the page stands alone."""

import base64
import html
import io
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ElementTree
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError

from compress.verification import gate
from compress.verification.drift import GroupDrift, compare
from compress.verification.outcome import Status
from compress.verification.predictions import Predictions
from compress.verification.report import number_text, picture, size_text, span_text, to_html, to_markdown, write_report
from compress.verification.report.charts import axis, intervals, lines, scatter
from compress.verification.report.ci import to_junit, to_sarif
from compress.verification.report_data import (
    BlockRow,
    Curve,
    ExtraCheck,
    LatencyRow,
    ReportData,
    Series,
    StageRow,
    Variant,
)
from compress.verification.schemas.__main__ import schemas

HOSTILE = "<script src=http://evil.example/x></script>\"'&]]>|`*\x00\u202e"
CHECKS = {
    "check": [
        {"metric": "top1", "max_drop": 5.0},
        {"metric": "top1", "per": "class", "max_drop": 20.0},
        {"metric": "kl", "max_value": 0.5},
    ],
    "resamples": 200,
}


def report(noise: float = 0.3, names: list[str] | None = None, **extra: object) -> ReportData:
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 3, 600)
    logits = generator.normal(size=(600, 3)) + 3 * np.eye(3)[labels]
    moved = logits + noise * generator.normal(size=logits.shape)
    slices = {names[0] if names else "night": np.arange(600) < 200}
    drift = compare(Predictions(logits, labels, names), Predictions(moved, labels, names), gate.parse(CHECKS), slices)
    top1 = drift.metric("top1")
    assert top1 is not None
    title = names[0] if names else "vit"
    values: dict[str, object] = {
        "edgepress": "0.1.0",
        "model": title,
        "task": "image-classification",
        "target": "jetson",
        "recipe": title,
        "drift": drift,
        "checks": (ExtraCheck(name=title, status=Status.PASS, message=title),),
        "variants": (
            Variant(name=title, role="reference", bytes=22_500_000, parameters=5_000_000, metric=top1.reference),
            Variant(name="int8", role="candidate", bytes=4_500_000, metric=top1.candidate, latency_ms=5.0, note=title),
        ),
        "latency": (LatencyRow(name=title, runtime=title, batch=1, median_ms=5.0),),
        "stages": (StageRow(name=title, status=title, drop=0.5, low=0.1, high=0.9),),
        "blocks": (BlockRow(name=title, relative_error=0.1, cosine=0.99),),
        "curves": (Curve(title=title, x_label=title, y_label=title, series=(Series(name=title, x=(0, 1), y=(1, 2)),)),),
        "texts": {drift.changed[0].index: title} if drift.changed else {},
        "pictures": {e.index: picture(np.zeros((8, 8, 3), np.uint8)) for e in drift.changed[1:]},
        "environment": {title: title},
        "notes": (title,),
    }
    return ReportData.model_validate({**values, **extra})


class Page(HTMLParser):
    """Tags, addresses and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.addresses: list[str] = []
        self.content: list[str] = []
        self.events: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "action", "data")]
        self.events += [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.content.append(data)


def test_a_report_survives_json_and_its_verdict_is_derived() -> None:
    data = report()
    assert data.verdict is Status.PASS
    assert ReportData.from_json(data.to_json()) == data
    assert json.loads(data.to_json())["verdict"] == "pass" and json.loads(data.to_json())["schema"] == 1
    forged = json.loads(report(noise=3.0).to_json()) | {"verdict": "pass"}
    assert ReportData.from_json(json.dumps(forged)).verdict is Status.FAIL
    with pytest.raises(ValidationError):
        ReportData.from_json(json.dumps(forged | {"extra": 1}))


@pytest.mark.parametrize("status", [Status.FAIL, Status.ERROR, Status.NOT_RUN])
def test_one_other_check_that_did_not_pass_turns_the_verdict(status: Status) -> None:
    data = report(checks=(ExtraCheck(name="parity", status=status, message="off by 3"),))
    assert data.verdict is status and data.headline == "parity: off by 3"


def test_a_report_without_drift_was_not_run_and_says_so_everywhere() -> None:
    data = report(drift=None)
    assert data.verdict is Status.NOT_RUN
    assert "Not run" in to_html(data) and "Not run" in to_markdown(data)
    assert ElementTree.fromstring(to_junit(data).encode()).get("errors") == "1"
    assert json.loads(to_sarif(data))["runs"][0]["results"]


@pytest.mark.parametrize(("noise", "word"), [(0.3, "Passed"), (3.0, "Failed")])
def test_every_format_says_the_verdict_first(noise: float, word: str) -> None:
    data = report(noise)
    assert data.verdict.value == word.lower()[:4]
    assert to_markdown(data).splitlines()[0].startswith(("# ✅ Passed", "# ❌ Failed")[word == "Failed"])
    texts = [text.strip() for text in Page(to_html(data)).content if text.strip()]
    assert word in texts[0]
    assert texts.index(word) < texts.index("Gate")


def test_junit_counts_what_did_not_pass() -> None:
    data = report(3.0)
    assert data.drift is not None
    root = ElementTree.fromstring(to_junit(data).encode())
    failed = sum(not check for check in data.drift.gate.checks)
    assert failed > 0
    assert int(root.get("failures", 0)) == failed == len(root.findall(".//failure"))
    assert int(root.get("tests", 0)) == len(data.drift.gate.checks) + 1 == len(root.findall(".//testcase"))
    assert not root.findall(".//skipped")


def test_sarif_holds_one_placed_result_per_failed_check() -> None:
    data = report(3.0)
    assert data.drift is not None
    log = json.loads(to_sarif(data, Path("models/the gate.toml").absolute()))
    run = log["runs"][0]
    assert log["version"] == "2.1.0"
    assert len(run["results"]) == sum(not check for check in data.drift.gate.checks)
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
        assert result["level"] == "error" and result["message"]["text"]
        assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "models/the%20gate.toml"
    prints = [result["partialFingerprints"]["check/v1"] for result in run["results"]]
    assert len(set(prints)) == len(prints)
    for rule in run["tool"]["driver"]["rules"]:
        assert rule["fullDescription"]["text"] and rule["help"]["text"]
    assert json.loads(to_sarif(report()))["runs"][0]["results"] == []
    elsewhere = json.loads(to_sarif(data, Path("/gate.toml")))["runs"][0]["results"][0]
    assert elsewhere["locations"] == json.loads(to_sarif(data))["runs"][0]["results"][0]["locations"] == []


def test_hostile_names_are_inert_in_every_format() -> None:
    data = report(names=[HOSTILE, HOSTILE + "2", "ok"])
    page, plain = Page(to_html(data)), Page(to_html(report(names=["a", "b", "c"])))
    assert page.tags["script"] == 0 and page.events == []
    assert page.tags == plain.tags
    shown = HOSTILE.replace("\x00", "\\x00").replace("\u202e", "\\u202e")
    assert shown in "".join(page.content) and "\u202e" not in to_html(data) + to_markdown(data)
    root = ElementTree.fromstring(to_junit(data).encode())
    assert any("<script" in (case.get("name") or "") for case in root.iter("testcase"))
    assert json.loads(to_sarif(data))["version"] == "2.1.0"
    markdown = to_markdown(data)
    assert "<script" not in markdown.replace("\\<", "")
    for line in markdown.splitlines():
        if line.startswith("| top1 class"):
            assert len(re.findall(r"(?<!\\)\|", line)) == 4


@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=3, max_size=3))
@settings(max_examples=10, deadline=None)
def test_any_names_give_well_formed_xml_and_inert_html(names: list[str]) -> None:
    data = report(names=names)
    ElementTree.fromstring(to_junit(data).encode())
    assert Page(to_html(data)).tags["script"] == 0


def test_the_page_is_self_contained_small_and_forbids_requests() -> None:
    html = to_html(report(names=[HOSTILE, "b", "c"]))
    assert all(address.startswith("data:") for address in Page(html).addresses)
    assert "default-src 'none'" in html and "@import" not in html and "url(" not in html
    assert len(html.encode()) < 3_000_000


def test_rendering_is_deterministic_and_writes_every_file(tmp_path: Path) -> None:
    first = write_report(report(), tmp_path / "a")
    second = write_report(report(), tmp_path / "b")
    assert [path.name for path in first] == ["report.json", "report.md", "report.html", "junit.xml", "report.sarif"]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes()


def test_absent_parts_leave_no_trace() -> None:
    bare = report(variants=(), latency=(), stages=(), blocks=(), curves=(), environment={}, notes=(), checks=())
    html = to_html(bare)
    for part in ("comparison", "stages", "blocks", "curves", "environment"):
        assert f'id="{part}"' not in html and f'id="{part}"' in to_html(report())


def test_the_schemas_in_the_package_are_current() -> None:
    folder = Path(gate.__file__).parent / "schemas"
    for name, text in schemas().items():
        assert (folder / name).read_text() == text, "run python -m compress.verification.schemas"


def test_a_picture_is_a_small_png() -> None:
    for shape in ((300, 200, 3), (28, 28), (28, 28, 1)):
        image = Image.open(io.BytesIO(base64.b64decode(picture(np.full(shape, 7, np.uint8)))))
        assert image.format == "PNG" and max(image.size) <= 96
    with pytest.raises(ValidationError, match="base64"):
        report(pictures={0: '"><script>'})


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=8))
def test_an_axis_shows_all_values_between_ascending_ticks(values: list[float]) -> None:
    made = axis(values)
    assert made.low <= min(values) and max(values) <= made.high
    places = [tick.at for tick in made.ticks]
    assert places == sorted(places) and all(0 <= place <= 100 for place in places)
    assert all(0 <= made.at(value) <= 100 for value in values)


def test_charts_place_points_in_order_and_find_the_front() -> None:
    chart = intervals([("a", -1.0, 0.0, 1.0, "plain"), ("b", 1.0, 2.0, 4.0, "bad")], [3.0, 1000.0])
    assert chart is not None
    a, b = chart.rows
    assert a.low < a.point == chart.zero < a.high == b.low < b.point < b.high
    assert a.limit is not None and b.limit is None
    points = [("big", 20.0, 92.0, "reference"), ("small", 5.0, 91.0, "candidate"), ("poor", 20.0, 80.0, "other")]
    plot = scatter(points, "Size", "Top-1", True)
    assert plot is not None
    dots = {dot.label: (dot.x, dot.y) for dot in plot.dots}
    assert list(plot.front) == [dots["small"], dots["big"]]
    assert scatter(points[:1], "Size", "Top-1", True) is None


@given(st.lists(st.tuples(st.text("abc ", max_size=40), st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=4))
def test_labels_in_a_scatter_plot_stay_within_it(points: list[tuple[str, float, float]]) -> None:
    plot = scatter([(*point, "other") for point in points], "Size", "Top-1", True)
    assert plot is not None
    for dot in plot.dots:
        width = 2.2 * len(dot.label)
        low = dot.x + dot.label_dx - {"start": 0.0, "middle": width / 2, "end": width}[dot.anchor]
        assert len(dot.label) <= 26 and low >= -11 and low + width <= 104


def test_two_versions_of_equal_accuracy_have_labels_apart() -> None:
    plot = scatter(
        [("the reference model", 10.7, 91.0, "reference"), ("the candidate", 9.6, 91.0, "candidate")], "x", "y", True
    )
    assert plot is not None
    one, other = plot.dots
    assert abs((one.y + one.label_dy) - (other.y + other.label_dy)) >= 6 or one.anchor != other.anchor


@pytest.mark.parametrize(
    ("count", "text"),
    [(None, "–"), (5, "5 B"), (1500, "1.5 kB"), (999_600, "1 MB"), (22_500_000, "22.5 MB"), (3 * 10**9, "3 GB")],
)
def test_sizes_read_as_people_write_them(count: int | None, text: str) -> None:
    assert size_text(count) == text


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0.0, 0.0, "–"),
        (None, None, "–"),
        (-0.53, 1.31, "-0.53 … 1.31"),
        (0.0, 0.0013, "0.0000 … 0.0013"),
        (-0.001, 0.71, "0.00 … 0.71"),
        (-1e-9, 1e-9, "-1e-09 … 1e-09"),
    ],
)
def test_an_interval_has_the_digits_that_its_width_needs(low: float | None, high: float | None, text: str) -> None:
    group = GroupDrift(name="a", samples=9, reference=None, candidate=None, drop=None, low=low, high=high)
    assert span_text(group) == text


def test_a_rise_of_nearly_nothing_is_not_minus_nothing() -> None:
    assert number_text(-0.001) == "0.00"


def shipped() -> tuple[Variant, ...]:
    return (
        Variant(name="original fp32", role="reference", bytes=20_000_000, metric=90.0, latency_ms=8.0),
        Variant(name="original int8 static", role="baseline", bytes=5_050_000, metric=89.8, latency_ms=5.0),
        Variant(name="model.onnx", role="candidate", bytes=5_000_000, metric=89.9, latency_ms=4.0),
    )


def test_the_headline_names_the_file_and_numbers_stand_beside_the_originals_own_int8() -> None:
    said = "on this workstation's CPU (AMD), not on jetson-orin-nano; one sample, without its preparation"
    data = report(variants=shipped(), timing=said)
    assert data.headline.startswith("model.onnx: Top-1 accuracy")
    tiles = " ".join(" ".join(Page(to_html(data)).content).split())
    assert f"Timed {said}" in tiles and "Latency 4.00 ms" in tiles
    assert "was 20 MB , 4× smaller original int8 static 5.05 MB , 1.01× smaller" in tiles
    assert "was 8.00 ms , 2× faster original int8 static 5.00 ms , 1.2× faster" in tiles
    assert f"Latency: {said}." in to_markdown(data)


def test_sizes_that_hardly_differ_are_about_the_same() -> None:
    small = Variant(name="a", role="reference", bytes=121_474), Variant(name="b", role="candidate", bytes=121_218)
    page = to_html(report(variants=small))
    assert "about the same" in page and "1× smaller" not in page


def test_no_axis_of_a_percentage_goes_beyond_100() -> None:
    points = [("a", 1.0, 99.9, "other"), ("b", 2.0, 91.0, "other")]
    plot = scatter(points, "x", "y", True, (0.0, 100.0))
    chart = lines("t", "x", "y (%)", [("a", (1.0, 2.0), (99.0, 100.0))], (0.0, 100.0))
    for ticks in (plot.y.ticks if plot else (), chart.y.ticks):
        assert ticks and max(float(tick.label) for tick in ticks) <= 100


def test_a_series_of_one_point_is_drawn() -> None:
    one = Curve(title="Accepted runs", x_label="Run", y_label="Top-1", series=(Series(name="a", x=(1,), y=(90,)),))
    assert "<circle" in to_html(report(curves=(one,), variants=()))


def test_a_report_says_how_many_copies_were_left_out() -> None:
    data = report()
    assert data.drift is not None
    copied = data.model_copy(update={"drift": data.drift.model_copy(update={"copies": 1800})})
    assert "600 different, 1,800 copies left out" in to_html(copied)
    assert "600 different samples (1,800 copies left out)" in to_markdown(copied)


needs_browser = pytest.mark.skipif(
    shutil.which("chromium") is None, reason="needs the chromium program (apt-get install chromium)"
)


def browse(tmp_path: Path, address: str, *flags: str) -> str:
    """Open a page in headless Chromium; its document after loading."""
    command = [
        "chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}", *flags, address,
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


@needs_browser
def test_the_page_opens_in_a_browser_and_asks_for_nothing(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(to_html(report(names=[HOSTILE, "b", "c"])), encoding="utf-8")
    log = tmp_path / "net.json"
    dom = browse(tmp_path, page.as_uri(), f"--log-net-log={log}", "--dump-dom")
    assert 'id="verdict"' in dom and "</svg>" in dom and "</html>" in dom.lower()
    events = json.loads(log.read_text())["events"]
    asked = {event["params"]["url"] for event in events if "url" in (event.get("params") or {})}
    browsers_own = re.compile(r"https?://[\w.]+\.(google|googleapis|gvt1)\.com/")
    assert [url for url in asked if url.startswith("http") and not browsers_own.match(url)] == []


@needs_browser
def test_the_page_fits_a_phone_and_loads_within_a_second(tmp_path: Path) -> None:
    names = ["a class with quite a long name", "b", "c"]
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(
        f'<iframe id="f" width="360" height="800" srcdoc="{html.escape(to_html(report(names=names)))}"></iframe>'
        "<script>onload=()=>{document.title=f.contentDocument.documentElement.scrollWidth+' '"
        "+Math.round(performance.now())}</script>",
        encoding="utf-8",
    )
    tries = []
    for _ in range(3):  # the machine may be busy with something else
        title = re.search(r"<title>(\d+) (\d+)</title>", browse(tmp_path, wrapper.as_uri(), "--dump-dom"))
        assert title is not None
        width, milliseconds = map(int, title.groups())
        assert width <= 360
        tries.append(milliseconds)
        if milliseconds < 1000:
            break
    assert min(tries) < 1000


@needs_browser
def test_the_page_is_light_or_dark_as_the_reader_has_it(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text(to_html(report()), encoding="utf-8")
    brightness = []
    for scheme in (0, 1):
        shot = tmp_path / f"{scheme}.png"
        flags = (f"--blink-settings=preferredColorScheme={scheme}", "--window-size=800,600", f"--screenshot={shot}")
        browse(tmp_path, page.as_uri(), *flags)
        pixels = np.asarray(Image.open(shot).convert("L"), dtype=np.float64)
        assert pixels.std() > 5, "the picture is not blank"
        brightness.append(pixels.mean())
    assert brightness[0] < 80 and brightness[1] > 200
