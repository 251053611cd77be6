"""Turn SmolLM2-135M (a dequantized Q4_1 teacher) into a hybrid of linear and windowed attention, and heal it.

Usage, from the root of the repository, on one GPU:
    python -m benchmarks linear-smollm2 MODEL OUT --evaluate valid.txt --text input.txt movie_reviews.zip --seconds 480
    python -m benchmarks linear-smollm2 MODEL OUT --evaluate valid.txt --text input.txt --smoke         # on a CPU

MODEL: SmolLM2-135M-Instruct.Q4_1.gguf (needs the packages gguf and accelerate) or a Hugging Face folder.
`--evaluate`: WikiText-2's validation text; nothing is trained or chosen on it. `--text`: what is trained on, beside
text that the original writes in the run itself (`--write` seconds of it). `--softmax K`: the K layers whose transfer
leaves most unexplained keep softmax attention. `--lengths`: tokens of a training row; several take turns, with the same
tokens in a batch. `--keep FOLDER` saves the healed model there; if there is one already, healing goes on from it, from
step 3. `--known RESULT.json`: an earlier result, whose figures of the original are taken over. OUT gets result.json
and, with `--lora`, structure.json and difference.safetensors (fp16): the weights that the original does not have.

1. All layers become hybrids; attention transfer trains feature maps and gates (a quarter of the time).
2. The K worst layers get softmax attention back.
3. KL to the original end to end, of all weights or through LoRA (the rest of the time).
4. Perplexity at 1,024 tokens, by position up to 4,096, and recall of a number that was said once.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as tensor_bytes
from tokenizers import Tokenizer
from torch import Tensor

from benchmarks.lab import record
from benchmarks.lab import texts as text_lab
from compress.heal.attention_transfer import AttentionTransfer
from compress.heal.lora import lora_parameters, merged, with_lora
from compress.model import Transformer, load, save
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.mixers.windowed_linear_attention import WindowedLinearAttentionSpec
from compress.rewrites import Calibration, parse_options, run_rewrite
from compress.rewrites.mixer_swap import transfer_errors
from compress.tasks import read_checkpoint
from compress.zoo.wheels import from_gguf
from runtime.files import write_atomic

CONTEXT, LONG = 1024, 4096
EDGES = (0, 64, 256, 512, 1024, 2048, 3072, 4095)
DISTANCES = (8, 24, 56, 96, 192, 384, 768)
NAMES = ("Alice", "Robert", "Maria", "David", "Sarah", "Thomas", "Laura", "Peter", "Emma", "Daniel")
OPENINGS = (
    "The history of", "In the early", "The city of", "He was born in", "The film was", "According to the",
    "The species is", "During the war", "The album", "The first season", "The river", "In mathematics",
    "The company was founded", "She began her career", "The battle of", "The church was", "The game is",
    "A study of", "The song was", "The storm", "The road runs", "The team finished", "The novel tells", "The ship was",
)  # fmt: skip


def original(path: Path) -> tuple[Transformer, Any]:
    """The model in fp32 and its tokenizer."""
    if path.is_dir():
        return read_checkpoint(path, {}), Tokenizer.from_file(str(path / "tokenizer.json"))
    with tempfile.TemporaryDirectory() as folder:
        from_gguf(path, Path(folder))
        return read_checkpoint(Path(folder), {}), Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))


def written(model: Transformer, tokenizer: Any, args: argparse.Namespace, device: str) -> Tensor:
    """Rows (B,CONTEXT) of the original's own text."""
    if not args.write:
        return torch.empty(0, args.context, dtype=torch.long)
    starts = [tokenizer.encode(opening, add_special_tokens=False).ids[:2] for opening in OPENINGS]
    starts_BN = torch.tensor(starts * (1 + args.rows // len(starts)), device=device)[: args.rows]
    generator = torch.Generator(device=device).manual_seed(args.seed)
    begun, parts = time.monotonic(), []
    while time.monotonic() - begun < args.write:
        parts.append(text_lab.sampled(model, starts_BN, args.context, generator).cpu())
        print(f"wrote {parts[-1].numel():,} tokens by {time.monotonic() - begun:.0f} s", flush=True)
    return torch.cat(parts)


def recall(
    model: Transformer, tokenizer: Any, filler_N: Tensor, device: str, count: int
) -> dict[str, dict[str, float]]:
    """For each distance, how often all four digits of a number come back that was said that many tokens before."""

    def ids(text: str) -> list[int]:
        return list(tokenizer.encode(text, add_special_tokens=False).ids)

    generator = torch.Generator().manual_seed(0)
    results = {}
    for distance in DISTANCES:
        right, total = 0, 0.0
        for _ in range(count):
            order = torch.randperm(len(NAMES), generator=generator)[:4].tolist()
            codes = [
                "".join(str(digit) for digit in torch.randint(10, (4,), generator=generator).tolist()) for _ in order
            ]
            facts = [f" The secret code of {NAMES[name]} is {code}." for name, code in zip(order, codes, strict=True)]
            start = int(torch.randint(len(filler_N) - 2000, (1,), generator=generator))
            question = ids(f" Remember: the secret code of {NAMES[order[-1]]} is")
            answer = ids(f" {codes[-1]}")
            between = filler_N[start : start + max(0, distance - len(question))].tolist()
            before = filler_N[start + 1000 : start + 1100].tolist()
            text = [*before, *(token for fact in facts for token in ids(fact)), *between, *question, *answer]
            with torch.no_grad():
                logits_NV = model({"input_ids": torch.tensor([text], device=device)})[0, -len(answer) - 1 : -1].float()
            wanted_N = torch.tensor(answer, device=device)
            right += int((logits_NV.argmax(dim=-1) == wanted_N).all())
            total += float(logits_NV.log_softmax(dim=-1).gather(1, wanted_N[:, None]).mean())
        results[str(distance)] = {"right": right / count, "mean_log_p": round(total / count, 4)}
    return results


def measured(
    model: Transformer, tokenizer: Any, ids_N: Tensor, args: argparse.Namespace, device: str
) -> dict[str, Any]:
    """Perplexities and recall of a model."""
    rows_BN = text_lab.rows_of(ids_N, args.context).to(device)[: args.evaluation_rows]
    long_BN = text_lab.rows_of(ids_N, args.long).to(device)[: args.evaluation_rows]
    with autocast_on(device):
        at_context = text_lab.losses(model, rows_BN, args.batch)
        beyond = text_lab.losses(model, long_BN, 1)
        return {
            "perplexity": round(text_lab.perplexity(at_context), 4),
            "tokens": at_context.numel(),
            "by_position": text_lab.by_position(beyond, EDGES),
            "recall": recall(model, tokenizer, ids_N, device, args.probes),
        }


def converted(teacher: Transformer, rows_BN: Tensor, args: argparse.Namespace, notes: list[str]) -> Transformer:
    """All layers as hybrids."""
    calibration = calibration_of(teacher, rows_BN, notes)
    table = {"use": "hybrid", "feature": args.feature, "window": args.window}
    return run_rewrite(*parse_options(table), teacher, calibration)


def calibration_of(teacher: Transformer, rows_BN: Tensor, notes: list[str]) -> Calibration:
    """A few rows."""
    return Calibration(teacher, lambda: iter([{"input_ids": part} for part in rows_BN[:8].split(2)]), notes.append)


def kept(teacher: Transformer, student: Transformer, layers: list[int]) -> Transformer:
    """The student with the original's attention in these layers."""
    blocks = tuple(
        (teacher if layer in layers else student).structure.blocks[layer]
        for layer in range(len(student.structure.blocks))
    )
    result = Transformer(student.structure.replace(blocks=blocks))
    state = student.state_dict()
    result.load_state_dict({name: state[name] for name in result.state_dict()})
    return result.to(next(student.parameters()).device)


def training_batches(ids_N: Tensor, args: argparse.Namespace) -> Iterator[Tensor]:
    """Random rows of the training text without end; the lengths take turns, with as many tokens in each batch."""
    streams = [
        text_lab.batches(text_lab.rows_of(ids_N, length), max(1, args.batch * args.lengths[0] // length), args.seed)
        for length in args.lengths
    ]
    while True:
        for stream in streams:
            yield next(stream)


def transferred(
    teacher: Transformer,
    held_BN: Tensor,
    stream: Iterator[Tensor],
    args: argparse.Namespace,
    begun: float,
    result: dict[str, Any],
) -> Transformer:
    """All layers as hybrids after attention transfer, the worst of them as they were."""
    notes: list[str] = []
    student = converted(teacher, held_BN, args, notes).requires_grad_(False)
    transfer = AttentionTransfer.of(student, teacher)
    for parameter in transfer.parameters:
        parameter.requires_grad_(True)
    autocast = autocast_on(held_BN.device.type)

    def loss(part_BN: Tensor) -> Tensor:
        with autocast:
            return transfer.loss({"input_ids": part_BN}, args.rows_weight)

    left = args.seconds - (time.monotonic() - begun) - args.reserve
    result["transfer"] = text_lab.train(
        transfer.parameters, loss, stream, args.transfer_lr, seconds=max(1.0, args.share * left)
    )
    with torch.no_grad(), autocast:
        layers = list(range(len(student.structure.blocks)))
        errors = transfer_errors(teacher, student, calibration_of(teacher, held_BN, notes), layers)
    keep = sorted(sorted(errors, key=lambda layer: -errors[layer])[: args.softmax])
    result |= {"unexplained": {str(layer): round(error, 4) for layer, error in errors.items()}, "softmax_layers": keep}
    print(result["unexplained"], "softmax:", keep, f"by {time.monotonic() - begun:.0f} s", flush=True)
    return kept(teacher, student, keep)


def distilled(
    teacher: Transformer,
    student: Transformer,
    stream: Iterator[Tensor],
    args: argparse.Namespace,
    begun: float,
    result: dict[str, Any],
) -> Transformer:
    """The student after KL to the original, of all weights or through low-rank products."""
    student = student.requires_grad_(not args.lora)
    if args.lora:
        student = with_lora(student, args.lora, args.seed).requires_grad_(False)
    parameters = lora_parameters(student) if args.lora else list(student.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    autocast = autocast_on(parameters[0].device.type)

    def loss(part_BN: Tensor) -> Tensor:
        with autocast:
            with torch.no_grad():
                target_BNV = teacher({"input_ids": part_BN})
            return text_lab.kl_per_token(student({"input_ids": part_BN}), target_BNV)

    left = args.seconds - (time.monotonic() - begun) - args.reserve
    result["distil"] = text_lab.train(parameters, loss, stream, args.lr, seconds=max(1.0, left))
    if args.lora:
        save_difference(teacher, student, args.out)
        student = merged(student)
    return student.eval().requires_grad_(False)


def autocast_on(device: str) -> torch.autocast:
    """bf16 on a GPU."""
    return torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda")


def main() -> None:
    """Convert, heal, measure."""
    args = arguments()
    begun = time.monotonic()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(args.seed)
    torch.backends.cuda.matmul.allow_tf32 = True
    if device == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)
    teacher, tokenizer = original(args.model)
    teacher = teacher.to(device).eval().requires_grad_(False)
    evaluation_N = text_lab.token_ids(tokenizer, text_lab.read_text(args.evaluate))
    print(f"loaded by {time.monotonic() - begun:.0f} s", flush=True)
    result: dict[str, Any] = {
        "command": record.command("linear-smollm2"),
        **record.surroundings(),
        "teacher": "SmolLM2-135M-Instruct, dequantized Q4_1",
        "settings": {name: said(value) for name, value in vars(args).items()},
        "original": json.loads(args.known.read_text())["original"]
        if args.known
        else measured(teacher, tokenizer, evaluation_N, args, device),
    }
    print("original", result["original"], flush=True)
    with autocast_on(device):
        own_BN = written(teacher, tokenizer, args, device)
    texts = [text_lab.token_ids(tokenizer, text_lab.read_text(path)) for path in args.text]
    rows_BN = torch.cat([own_BN, *(text_lab.rows_of(ids_N, args.context) for ids_N in texts)]).to(device)
    result["trained_on"] = {"rows": len(rows_BN), "own_rows": len(own_BN), "tokens": rows_BN.numel()}
    print(result["trained_on"], f"by {time.monotonic() - begun:.0f} s", flush=True)
    stream = training_batches(torch.cat([own_BN.flatten(), *texts]).to(device), args)

    if args.keep and (args.keep / "structure.json").is_file():
        student = load(args.keep).to(device)
        result["begun_from"] = json.loads((args.keep / "result.json").read_text())
    else:
        held_BN = rows_BN[torch.randperm(len(rows_BN), generator=torch.Generator().manual_seed(args.seed))[:16]]
        student = transferred(teacher, held_BN, stream, args, begun, result)
        result["transferred"] = measured(student, tokenizer, evaluation_N, args, device)
        print("transferred", result["transferred"], flush=True)

    student = distilled(teacher, student, stream, args, begun, result)
    result["healed"] = measured(student, tokenizer, evaluation_N, args, device)
    result["perplexity_ratio"] = round(result["healed"]["perplexity"] / result["original"]["perplexity"], 4)
    kinds = [spec.mixer.kind if spec.mixer else "" for spec in student.structure.blocks]
    result["mixers"] = {
        kind: kinds.count(kind)
        for kind in (SoftmaxAttentionSpec, WindowedLinearAttentionSpec)
        for kind in [kind.model_fields["kind"].default]
    }
    result["seconds"] = round(time.monotonic() - begun, 1)
    print("healed", result["healed"], "ratio", result["perplexity_ratio"], flush=True)
    record.save(args.out / "result.json", result)
    if args.keep:
        save(student, args.keep)
        record.save(args.keep / "result.json", result)


def said(value: Any) -> str:
    """A setting, files without their folders."""
    if isinstance(value, list):
        return " ".join(said(one) for one in value)
    return value.name if isinstance(value, Path) else str(value)


def save_difference(teacher: Transformer, student: Transformer, folder: Path) -> None:
    """The structure, low-rank products and all, and the weights that the original does not have, in fp16."""
    old = teacher.state_dict()
    new = {name: tensor.half().cpu().contiguous() for name, tensor in student.state_dict().items() if name not in old}
    write_atomic(folder / "difference.safetensors", tensor_bytes(new))
    write_atomic(folder / "structure.json", (student.structure.model_dump_json(indent=1) + "\n").encode())


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--evaluate", type=Path, required=True)
    parser.add_argument("--text", type=Path, nargs="*", default=[])
    parser.add_argument("--seconds", type=float, default=480)
    parser.add_argument("--reserve", type=float, default=40, help="seconds kept for measuring at the end")
    parser.add_argument("--write", type=float, default=45, help="seconds of the original's own text")
    parser.add_argument("--rows", type=int, default=512, help="texts written at once")
    parser.add_argument("--share", type=float, default=0.25, help="share of the time for attention transfer")
    parser.add_argument("--softmax", type=int, default=0)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--feature", default="hedgehog")
    parser.add_argument("--rows-weight", type=float, default=0.0)
    parser.add_argument("--transfer-lr", type=float, default=1e-2)
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--lora", type=int, default=0)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=CONTEXT)
    parser.add_argument("--long", type=int, default=LONG)
    parser.add_argument("--evaluation-rows", type=int, default=1000)
    parser.add_argument("--probes", type=int, default=50)
    parser.add_argument("--lengths", type=int, nargs="+", help="tokens of training rows (default: those of --context)")
    parser.add_argument("--keep", type=Path, help="folder of the healed model")
    parser.add_argument("--known", type=Path, help="an earlier result with the original's figures")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="small settings, to see that it runs")
    args = parser.parse_args()
    if args.smoke:
        small = {"seconds": 60, "reserve": 1, "write": 0.1, "rows": 2, "batch": 1, "context": 96, "long": 160}
        vars(args).update(small | {"evaluation_rows": 1, "probes": 1})
    args.lengths = args.lengths or [args.context]
    return args


if __name__ == "__main__":
    main()
