"""The code part of a key: every file of the project that a function may run, found in the source alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from compress.pipeline import GraphError
from compress.pipeline.digest.reach import Code
from compress.pipeline.digest.scan import Source, scan

Write = Callable[..., set[str]]


@pytest.fixture
def reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes files of a package `far` and says which of its modules `far.start:run` reaches, by their names in it."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name: str = "run", **files: str) -> set[str]:
        for path, text in {"__init__": "", **files}.items():
            file = tmp_path / "far" / (path.replace("__of__", "/") + ".py")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        function = SimpleNamespace(__module__="far.start", __qualname__=name)
        return {name.removeprefix("far.") for name in Code().reached(function)} - {"far", "start"}

    return write


def test_nothing_is_imported_to_find_it(reached: Write) -> None:
    text = "raise SystemExit('imported')"
    assert reached(__init__=text, start=f"{text}\nimport far.leaf\ndef run(): ...", leaf=text) == {"leaf"}
    assert not any(name.startswith("far") for name in sys.modules)


@pytest.mark.parametrize(
    "text",
    [
        "import far.leaf\ndef run(): ...",
        "def run():\n    from far.leaf import x",
        "def run():\n    from far import leaf",
        "def run():\n    def inner():\n        import far.leaf\n    inner()",
        "def helper():\n    import far.leaf\ndef run():\n    helper()",
        "def helper():\n    import far.leaf\nTABLE = {1: helper}\ndef run(): ...",
        "from far.register import keep\n@keep\ndef helper():\n    import far.leaf\ndef run(): ...",
        "class A:\n    def answer(self):\n        import far.leaf\ndef run(it):\n    it.answer()",
        "class A:\n    def answer(self):\n        import far.leaf\ndef run(it):\n    getattr(it, 'answer')()",
        "class A:\n    @property\n    def answer(self):\n        import far.leaf\ndef run(it):\n    it.answer",
        "class A:\n    def __call__(self):\n        import far.leaf\ndef run(it):\n    it()",
        "import lib\nclass A(lib.M):\n    def forward(self):\n        import far.leaf\ndef run(it):\n    it()",
        "import lib\nclass A(lib.M): ...\nclass B(A):\n    def forward(self):\n        import far.leaf\ndef run(): ...",
        "from far.other import f as g\ndef run():\n    g()",
        "def helper():\n    import far.leaf\ndef run():\n    [helper for helper in []]\n    helper()",
        "def helper():\n    import far.leaf\ndef run():\n    def inner(helper): ...\n    helper()",
        "def run():\n    command = ['python', '-m', 'far.leaf']",
        "def run(x=__import__):\n    if x:\n        import far.leaf",
    ],
)
def test_a_module_that_may_run_is_found(reached: Write, text: str) -> None:
    files = {"register": "def keep(f): ...", "other": "def f():\n    import far.leaf"}
    assert "leaf" in reached(start=text, leaf="x = 1", **files)


@pytest.mark.parametrize(
    "text",
    [
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import far.leaf\ndef run(): ...",
        "def helper():\n    import far.leaf\ndef run(): ...",
        "def helper():\n    import far.leaf\ndef run(helper):\n    helper + 1",
        "def helper():\n    import far.leaf\ndef run():\n    for helper in []:\n        helper + 1",
        "class A:\n    def answer(self):\n        import far.leaf\ndef run(it):\n    it.ask()",
        "def helper() -> None:\n    import far.leaf\ndef run(x: helper) -> helper: ...",
    ],
)
def test_what_cannot_run_does_not_count(reached: Write, text: str) -> None:
    assert "leaf" not in reached(start=text, leaf="x = 1")


def test_a_package_that_lists_its_folder_imports_all_that_is_in_it(reached: Write) -> None:
    listing = "from far.spec import import_all\nimport_all(__name__, list(__path__))"
    files = {"methods__of____init__": listing, "methods__of__one": "", "methods__of__two": "import far.leaf"}
    assert reached(start="def run():\n    import far.methods", leaf="", spec="def import_all(): ...", **files) >= {
        "methods",
        "methods.one",
        "methods.two",
        "leaf",
    }


def test_the_packages_around_a_module_run_before_it(reached: Write) -> None:
    assert reached(
        start="def run():\n    import far.deep.er.leaf",
        deep__of____init__="",
        deep__of__er__of____init__="import far.other",
        deep__of__er__of__leaf="",
        other="",
    ) == {"deep", "deep.er", "deep.er.leaf", "other"}


def test_files_beside_a_module_count_when_it_names_them(reached: Write, tmp_path: Path) -> None:
    (tmp_path / "far" / "pages").mkdir(parents=True)
    (tmp_path / "far" / "pages" / "one.html").write_text("<p>")
    text = "from pathlib import Path\nPAGES = Path(__file__).parent / 'pages'\ndef run(): ..."
    assert reached(start=text) == {"far/pages/one.html"}


def test_a_function_without_a_source_file_is_refused_by_name() -> None:
    with pytest.raises(GraphError, match="builtins"):
        Code().reached(len)


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a package with a stage's function, `far.start:run`, that reaches `far.leaf`."""
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "far"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "start.py").write_text("import far.leaf\nclass A(far.leaf.B):\n    def f(self): ...\ndef run(): ...\n")
    (folder / "leaf.py").write_text("from pathlib import Path\nclass B: ...\ndef g(): import far.other\n")
    (folder / "other.py").write_text("x = 1\n")
    return folder


def remembered(memo: Path) -> dict[str, str]:
    code = Code(memo)
    found = code.reached(SimpleNamespace(__module__="far.start", __qualname__="run"))
    code.remember()
    return found


def no_parsing(monkeypatch: pytest.MonkeyPatch) -> None:
    def scan(text: bytes) -> NoReturn:
        raise AssertionError(f"parsed again: {text!r}")

    monkeypatch.setattr("compress.pipeline.digest.reach.scan", scan)


def test_what_a_file_says_is_remembered_until_the_file_changes(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memo = tmp_path / "scans.json"
    before = remembered(memo)
    assert set(before) == {"far", "far.start", "far.leaf"}
    with monkeypatch.context() as patch:
        no_parsing(patch)
        assert remembered(memo) == before
    (far / "start.py").write_text("import far.leaf\ndef run(): far.leaf.g()\n")
    assert set(remembered(memo)) == {*before, "far.other"}
    no_parsing(monkeypatch)
    assert set(remembered(memo)) == {*before, "far.other"}


@pytest.mark.parametrize("damage", ["cut", "garbage", "edited", "version", "folder"])
def test_a_memo_that_cannot_be_trusted_is_made_anew(
    far: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    memo = tmp_path / "scans.json"
    before = remembered(memo)
    written = memo.read_bytes()
    if damage == "cut":
        memo.write_bytes(written[:-9])
    elif damage == "garbage":
        memo.write_bytes(b"\xff\x00[" * 99)
    elif damage == "edited":
        memo.write_bytes(written.replace(b"far.leaf", b"far.laef"))
    elif damage == "version":
        monkeypatch.setattr("compress.pipeline.digest.reach.version", lambda: "of another Python")
    else:
        memo.unlink()
        memo.mkdir()
    assert remembered(memo) == before
    if damage != "folder":
        no_parsing(monkeypatch)
        assert remembered(memo) == before


def test_what_is_remembered_of_a_file_is_all_that_it_says() -> None:
    for file in sorted(Path(__file__).parents[2].joinpath("compress", "stages").glob("*.py")):
        source = scan(file.read_bytes())
        assert Source.read(json.loads(json.dumps(source.written()))) == source
