"""The page of a store that came back from a device says what its records say."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from support.runtime_toys import LABELS

from runtime.field.store import Store


class Rows(HTMLParser):
    """Title of each table -> its rows of cells."""

    def __init__(self):
        super().__init__()
        self.tables, self.path = {}, []

    def handle_starttag(self, tag, attributes):
        self.path.append(tag)
        if tag == "tr":
            list(self.tables.values())[-1].append([])
        if tag in ("td", "th"):
            list(self.tables.values())[-1][-1].append("")

    def handle_endtag(self, tag):
        while self.path and self.path.pop() != tag:
            pass

    def handle_data(self, data):
        if self.path and self.path[-1] == "h2":
            self.tables[data] = []
        if self.path and self.path[-1] in ("td", "th"):
            list(self.tables.values())[-1][-1][-1] += data


def rows_of(path):
    parser = Rows()
    parser.feed(path.read_text())
    return parser.tables


@pytest.fixture
def store(run_module, maker, tmp_path):
    """A store with two bundles, and the records of a run with a shadow that answers otherwise."""
    labels = ["<b>ant</b>", *LABELS[1:]]
    old, new = maker.write("old", labels=labels), maker.write("new", labels=labels, model="another")
    other = maker.write("other", labels=["v", "w", "x", "y", "z"])
    (tmp_path / "in").mkdir()
    for at in range(30):
        noise = np.random.default_rng(at).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "in" / f"{at:02}.png")
    (tmp_path / "in" / "30.png").write_bytes(b"no picture")
    root = tmp_path / "store"
    for bundle in (old, new):
        assert run_module("runtime.deploy", root, bundle).returncode == 0
    watching = ("--watch", tmp_path / "in", "--out", root / "results.jsonl", "--once")
    shadow = ("--shadow", other, "--shadow-share", "0.5", "--shadow-record", root / "shadow.jsonl")
    done = run_module("runtime.run", root / "current", *watching, *shadow, "--metrics", root / "metrics.prom")
    assert (root / "results.jsonl").is_file(), done.stderr
    return root


def test_the_page_has_the_numbers_of_the_records(run_module, store):
    done = run_module("runtime.report", store)
    assert done.returncode == 0 and done.stdout == f"{store / 'report.html'}\n", done.stderr
    tables = rows_of(store / "report.html")
    history = Store(store).history()
    assert [row[:2] for row in tables["Bundles"][1:]] == [[history[1], "current"], [history[0], "before"]]
    assert tables["Results in results.jsonl"][1] == ["31", "30", "1"]
    lines = [json.loads(line) for line in (store / "results.jsonl").read_text().splitlines()]
    tops = [line["top"][0] for line in lines if "top" in line]
    classes = {row[0]: row[1:] for row in tables["Classes in results.jsonl"][1:]}
    assert set(classes) == {top["label"] for top in tops}
    for label, (count, share, certainty, least) in classes.items():
        some = [top["probability"] for top in tops if top["label"] == label]
        assert int(count) == len(some) and float(share) == pytest.approx(len(some) / 30, abs=1e-3)
        assert float(certainty) == pytest.approx(np.mean(some), rel=1e-3)
        assert float(least) == pytest.approx(min(some), rel=1e-3)
    assert [row[0] for row in tables["Failed in results.jsonl"][1:]] == ["30.png"]
    [shadow] = tables["Shadow in shadow.jsonl"][1:]
    compared = len((store / "shadow.jsonl").read_text().splitlines())
    assert shadow[1:5] == [str(compared), str(compared), "0.05", "above"] and compared >= 15
    assert len(tables["Last differences in shadow.jsonl"]) == 1 + min(20, compared)
    metrics = dict(tables["Metrics in metrics.prom"][1:])
    assert (
        metrics['edgepress_inputs_total{result="answered"}'] == "30"
        and "half of the inputs took at most, in seconds" in metrics
    )


def test_lines_that_cannot_be_read_are_counted_and_labels_are_text(run_module, store, tmp_path):
    with (store / "results.jsonl").open("a") as stream:
        stream.write("[1]\n{torn")
    assert run_module("runtime.report", store, "--out", tmp_path / "page.html").returncode == 0
    page = (tmp_path / "page.html").read_text()
    assert "2 lines could not be read." in page and "<b>" not in page
    assert rows_of(tmp_path / "page.html")["Results in results.jsonl"][1] == ["31", "30", "1"]


def test_a_folder_that_is_no_store_is_refused_in_one_line(run_module, tmp_path):
    done = run_module("runtime.report", tmp_path)
    assert done.returncode == 2 and done.stderr.startswith("error: no store at ")
    assert not (tmp_path / "report.html").exists()
