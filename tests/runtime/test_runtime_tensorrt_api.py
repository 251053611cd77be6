"""The engine code keeps to the API of TensorRT 10.13, which JetPack 7 ships and 10.3 is a part of.

No device is at hand, so the code is held to the published type stubs: install them with
`pip install --no-deps tensorrt-stubs==10.13.0.35.1`.
"""

import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from support.runtime_toys import REPO

CODE = [REPO / "runtime" / "engines" / name for name in ("engine.py", "engine_session.py", "trt.py")]
#: TensorRT for RTX alone has it; the code asks for it in one place, for that flavour only.
RTX_ONLY = {"ComputeCapability"}

needs_stubs = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_stubs") is None, reason="tensorrt-stubs is not installed (pip, with --no-deps)"
)


def stubs(package):
    """File name -> text of a package's stubs. Signatures of theirs that are not valid Python take anything here."""
    folder = Path(importlib.util.find_spec("tensorrt_stubs").origin).parents[1] / package
    return {path.name: "\n".join(map(mended, path.read_text().splitlines())) for path in folder.glob("*.pyi")}


def mended(line):
    if not re.match(r" *def \w+\(.*:$", line):
        return line
    try:
        ast.parse(f"{line.strip()} ...")
    except SyntaxError:
        return re.sub(r"\(.*", "(self, *args: typing.Any, **options: typing.Any) -> typing.Any:", line)
    return line


@needs_stubs
def test_the_engine_code_type_checks_against_the_stubs(tmp_path):
    for name in ("tensorrt", "tensorrt_bindings"):
        (tmp_path / "stubs" / name).mkdir(parents=True)
        for file, text in stubs(name).items():
            (tmp_path / "stubs" / name / file).write_text(text)
    wrong = tmp_path / "wrong.py"
    wrong.write_text(
        "import tensorrt\n\n\ndef f(builder: tensorrt.Builder) -> None:\n    builder.build_engine_of_version_7()\n"
    )
    config = tmp_path / "mypy.ini"
    config.write_text(
        f"[mypy]\nmypy_path = {tmp_path}/stubs\nstrict = True\nwarn_return_any = False\nfollow_imports = silent\n"
        f"cache_dir = {tmp_path}/cache\n[mypy-onnxruntime.*,tensorrt_libs]\nignore_missing_imports = True\n"
        "[mypy-tensorrt_bindings.*]\nignore_errors = True\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(config), *map(str, CODE), str(wrong)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPO, check=False)
    errors = [line for line in done.stdout.splitlines() if ": error: " in line]
    assert len(errors) == 1 and "build_engine_of_version_7" in errors[0], done.stdout + done.stderr


@needs_stubs
def test_every_name_that_is_taken_from_the_module_is_in_the_stubs():
    known = {}
    for node in ast.parse(stubs("tensorrt_bindings")["tensorrt.pyi"]).body:
        if isinstance(node, ast.ClassDef):
            names = [one.target for one in node.body if isinstance(one, ast.AnnAssign)]
            known[node.name] = {one.id for one in names if isinstance(one, ast.Name)}
    used = set()
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text())):
            chain = ast.unparse(node) if isinstance(node, ast.Attribute) else ""
            _, found, rest = chain.partition(".module.")
            if found and rest[0].isupper():
                used.add(tuple(rest.split(".")[:2]))
    assert len(used) > 8
    for name, *member in sorted(used):
        assert name in known or name in RTX_ONLY, f"TensorRT 10.13 has no {name}"
        if name in known and member and member[0].isupper():
            assert member[0] in known[name], f"TensorRT 10.13 has no {name}.{member[0]}"
