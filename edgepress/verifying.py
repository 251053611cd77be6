"""`edgepress.verify`: hold one model against another, or fail."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from edgepress.results import Verified


def verify(
    reference: Any,
    candidate: Any,
    data: Any = None,
    *,
    processor: Any = None,
    part: Literal["evaluation", "all"] = "evaluation",
    max_drop: float | None = None,
    gate: str | Path | None = None,
    report: str | Path | None = None,
) -> Verified:
    """Compare `candidate` with `reference` on the same data; the result is true only if nothing speaks against it.

    Each side is a model folder, a bundle, an ONNX file or folder, a file of predictions, or a live model of
    `transformers` (with `processor`). `data`: as for `edgepress.compress`. `max_drop` or `gate` (a gate.toml) sets the
    bound. `report`: where to write an HTML page.

    Raises InputError for a wrong argument or input, EnvironmentLacks where a side cannot run here.
    """
    from compress.judging.evaluate import evaluate
    from compress.judging.options import Options
    from compress.verification.report import to_html
    from edgepress.given import data as datas
    from edgepress.results import Verified
    from runtime.files import cache_root, write_atomic

    root = cache_root()
    options = Options(
        _side(reference, processor, root),
        _side(candidate, processor, root),
        datas.source_of(data, root),
        part=part,
        gate=None if gate is None else Path(gate),
        max_drop=max_drop,
    )
    found = evaluate(options).report
    if report is not None:
        write_atomic(Path(report), to_html(found).encode())
    return Verified(found)


def _side(model: Any, processor: Any, root: Path) -> str:
    """What the command takes; the processor goes with live models alone."""
    from edgepress.given.models import source_of

    return str(model) if isinstance(model, str | Path) else source_of(model, processor, root) or ""
