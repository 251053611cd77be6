"""python -m targets list | show NAME | check [NAME]."""

from __future__ import annotations

import targets
from targets.cli import Parser
from targets.errors import run_cli
from targets.spec import Target


def _list() -> int:
    rows = [("name", "alias", "memory", "precision", "backends")]
    rows += [
        (
            target.name,
            ", ".join(target.aliases),
            f"{target.hardware.memory_gb} GB",
            target.default_precision,
            ", ".join(target.backends),
        )
        for target in targets.load_all()
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _show(name: str) -> int:
    target = targets.load(name)
    hardware = target.hardware
    lines = {
        "name": ", ".join((target.name, *(f"alias {alias}" for alias in target.aliases))),
        "device": f"{target.title}, {hardware.arch}",
        "memory": f"{hardware.memory_gb} GB ({hardware.memory_kind}){_doubt(hardware.verified)}",
        "compute capability": hardware.compute_capability or "-",
        "backends": ", ".join(target.backends),
        "precisions": f"{', '.join(target.precisions)} (default {target.default_precision})",
        "threads": str(target.threads),
        "opset": f"at most {target.max_opset}",
        "engine shapes": ", ".join(
            f"{name} {low}..{high} (best {best})" for name, (low, best, high) in target.profile.spans().items()
        ),
    }
    if target.engine:
        lines["engines"] = (
            f"{' and '.join(target.engine.precisions)}, built on the workstation by TensorRT for RTX for compute"
            f" capability {' and '.join(target.engine.capabilities)}"
        )
    elif "tensorrt" in target.backends:
        lines["engines"] = "built on the device: python -m runtime.build BUNDLE"
    for label, text in lines.items():
        print(f"{label:22}{text}")
    for row in target.software:
        print(f"{'software':22}{row.describe()}, opset at most {row.max_opset}{_doubt(row.verified)}")
        print(f"{'':22}source: {row.source}")
    if target.power:
        modes = ", ".join(f"{mode.id} = {mode.name}" for mode in target.power.modes)
        print(f"{'power modes':22}{modes}{_doubt(target.power.verified)}")
        print(f"{'':22}source: {target.power.source}")
    return 0


def _doubt(verified: bool) -> str:
    return "" if verified else " [not verified]"


def _check(name: str | None) -> int:
    from targets.check import detect, lacking
    from targets.machine import probe

    wanted: Target | None = targets.load(name) if name else None
    machine = probe()
    target = wanted or detect(targets.load_all(), machine)
    print(f"checking this machine ({machine.device_model or machine.arch}) against {target.name}")
    missing = lacking(target, machine)
    for line in missing:
        print(f"lacking  {line}")
    if missing:
        return 3
    found = [f"ONNX Runtime {machine.onnxruntime} ({', '.join(machine.providers)})" if machine.onnxruntime else ""]
    found += [f"TensorRT {machine.tensorrt}" if machine.tensorrt else ""]
    print("ok  " + ", ".join(text for text in found if text))
    return 0


def main() -> int:
    """Run the command line; the exit code."""
    parser = Parser(prog="python -m targets", description="Devices that edgepress builds for.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="a table of all targets")
    show = commands.add_parser("show", help="everything known about one target")
    show.add_argument("name", metavar="NAME")
    check = commands.add_parser("check", help="hold this machine against a target; exit 3 if something is lacking")
    check.add_argument("name", metavar="NAME", nargs="?", help="default: the target that this machine looks like")
    args = parser.parse_args()
    if args.command == "list":
        return _list()
    if args.command == "show":
        return _show(args.name)
    return _check(args.name)


if __name__ == "__main__":
    run_cli(main)
