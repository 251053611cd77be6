"""Looped models from scratch at equal parameters: what the papers' claims are worth with a fair looped baseline.

Usage, from the root of the repository:
    python -m benchmarks loops-from-scratch run IMAGES TEXT FOLDER --seconds 50     # start several to share the rows
    python -m benchmarks loops-from-scratch collect FOLDER RESULT.json

IMAGES is CIFAR-10 as for `compress.data.load`; TEXT is a text file (tinyshakespeare), whose last tenth is kept for the
test. Tasks: `vision` (top-1), `text` (next character, nats) and `translation` (zoo:m30k, BLEU written greedily and nats
a token; what is said here of blocks is so in either stack). All models of a task but `vanilla-6x` hold the same number
of parameters (that is, of numbers that ship) to 2 %: each has the width that makes it so.

    vanilla-1        one block, run once                         vanilla-deep   six blocks of their own, narrow
    vanilla-6x       six blocks, as wide as the looped one: six times the parameters
    looped           one block, run six times, all shared (every half reads normed tokens)
    looped-one-norm  the same, but the feed-forward reads un-normed tokens. The published looped baseline of Xu and Sato
                     did so too; its second slip, un-normed values in attention, is not made here
    looped-norms     looped, with norms and biases of each loop's own
    timestep         gains from an encoding of the loop index (Xu and Sato 2024): an MLP on sinusoids, trained, stored
                     as a table; starts as the identity
    timestep-table   the same table, trained as it is
    ring             level signals of rank D/16, norms of each loop's own (Heo et al. 2025); signals read normed tokens
    deltas           low-rank deltas of rank D/16 (Bae et al. 2024)

Every model trains for as long (`--seconds`) or for as many steps (`--steps`), with the same rate and schedule. A run
that is cut goes on where it was; `--known RESULT.json` takes over the rows of an earlier result.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import sacrebleu
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.lab import images as vit_lab
from benchmarks.lab import record
from benchmarks.train import m30k, m30k_forms
from compress.data.pairs.prepared import PreparedPairs
from compress.heal import HealOptions, ImageFeed
from compress.model import Step, Structure, Transformer
from compress.model.block import BlockSpec
from compress.model.crosses.softmax import SoftmaxCrossSpec
from compress.model.embeds.patch import PatchEmbedSpec
from compress.model.embeds.token import TokenEmbedSpec
from compress.model.ffns.mlp import MlpSpec
from compress.model.heads.classifier import ClassifierSpec
from compress.model.heads.language_model import LanguageModelSpec
from compress.model.heads.tokens import TokensSpec
from compress.model.mixers.softmax_attention import SoftmaxAttentionSpec
from compress.model.norms import NormSpec
from compress.model.per_loop import PerLoopSpec
from compress.model.scores.projected import ProjectedScoresSpec
from compress.model.values.projected import ProjectedValuesSpec

DEPTH, WIDTH, HEADS = 6, 256, 4
VARIANTS = (
    "looped", "timestep", "ring", "vanilla-1", "vanilla-deep", "looped-norms", "deltas", "timestep-table",
    "looped-one-norm", "vanilla-6x",
)  # fmt: skip
TASKS = ("vision", "text", "translation")
CONTEXT = 256
TEST_BATCH = 500
#: Fields that no structure here needs.
BARE: dict[str, Any] = {"labels": (), "preprocessing": {}}
#: Fields of a stack's structure, by whether its attention is causal and whether it reads a source.
StackOf = Callable[[bool, bool], dict[str, Any]]
#: Of translation: places, the share of tokens that a training pair loses (there are few pairs), and what stands there.
PLACES, LOST, LOST_ID = 64, 0.1, 1


class TimestepEncoding(nn.Module):
    """t -> (a1, a2, 1 + s1, 1 + s2), each (T,D): W5 SiLU(MLP(sinusoids(t))) + b5, after Xu and Sato 2024.

    W5 = 0 at the start, and b5 = 0 except for the scales: every loop starts as the identity.
    """

    features_T: Tensor

    def __init__(self, loops: int, hidden_size: int, sinusoids: int = 256) -> None:
        super().__init__()
        frequency_S = torch.exp(-math.log(10_000) * torch.arange(sinusoids // 2) / (sinusoids // 2))
        angle_TS = torch.arange(loops)[:, None] * frequency_S
        self.register_buffer("features_T", torch.cat([angle_TS.cos(), angle_TS.sin()], dim=-1), persistent=False)
        self.embed = nn.Sequential(nn.Linear(sinusoids, hidden_size), nn.SiLU(), nn.Linear(hidden_size, hidden_size))
        self.table = nn.Linear(hidden_size, 4 * hidden_size)
        nn.init.zeros_(self.table.weight)
        with torch.no_grad():
            self.table.bias.copy_(torch.cat([torch.zeros(2 * hidden_size), torch.ones(2 * hidden_size)]))

    def forward(self) -> tuple[Tensor, ...]:
        return self.table(F.silu(self.embed(self.features_T))).chunk(4, dim=-1)

    @torch.no_grad()
    def fit(self, tables: tuple[Tensor, ...]) -> None:
        """Set W5 and b5 to the least squares for given tables (T,D each); exact while T is at most D."""
        wanted_TE = torch.cat(tables, dim=-1).double()
        features_TD = F.silu(self.embed(self.features_T)).double()
        ones_TD = torch.cat([features_TD, features_TD.new_ones(len(features_TD), 1)], dim=-1)
        solution_DE = torch.linalg.lstsq(ones_TD, wanted_TE, driver="gelsd").solution
        self.table.weight.copy_(solution_DE[:-1].T)
        self.table.bias.copy_(solution_DE[-1])


class Encoded(nn.Module):
    """A looped model whose timestep tables, one a stack, come from encodings while it trains."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self.prefixes = ["", *(["encoder."] if model.encoder is not None else [])]
        self.encodings = nn.ModuleList(TimestepEncoding(DEPTH, model.structure.hidden_size) for _ in self.prefixes)
        for name in self._table():
            model.get_parameter(name).requires_grad_(False)

    def _table(self) -> dict[str, Tensor]:
        tables = ("mixer_gain.value", "ffn_gain.value", "mixer_norm.weight", "ffn_norm.weight")
        return {
            f"{prefix}blocks.0.{table}.{loop}": row_D
            for prefix, encoding in zip(self.prefixes, self.encodings, strict=True)
            for table, rows_TD in zip(tables, encoding(), strict=True)
            for loop, row_D in enumerate(rows_TD)
        }

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(self.model, self._table(), (inputs,))

    @torch.no_grad()
    def baked(self) -> Transformer:
        """The model with the table as constants."""
        for name, row_D in self._table().items():
            self.model.get_parameter(name).copy_(row_D)
        return self.model


@dataclass(frozen=True)
class Images:
    """CIFAR-10 on a device."""

    source: str
    device: torch.device
    batch_size: int
    limit: int | None

    metric = "top1"

    def structure(self, stack_of: StackOf) -> Structure:
        embed = PatchEmbedSpec(channels=3, image_size=(32, 32), patch_size=(4, 4))
        head = ClassifierSpec(num_labels=10)
        return Structure(**BARE, **stack_of(False, False), embed=embed, head=head, task="image-classification")

    @cached_property
    def _preprocessing(self) -> Any:
        return vit_lab.original("vit-cifar10").structure.preprocessing

    @cached_property
    def _train(self) -> ImageFeed:
        train = vit_lab.training_parts(self.source)[0]
        if self.limit:
            train = train.subset(np.arange(0, len(train), max(1, len(train) // self.limit)))
        return ImageFeed(train, self._preprocessing, 0, self.device)

    @cached_property
    def _test(self) -> ImageFeed:
        return ImageFeed(vit_lab.test_images(self.source, self.limit), self._preprocessing, 0, self.device)

    def loss(self, model: Callable[..., Tensor], step: int) -> Tensor:
        drawn = self._train.draw(step, HealOptions(batch_size=self.batch_size))
        inputs, shares_BK = self._train.batch({name: tensor.to(self.device) for name, tensor in drawn.items()})
        return F.cross_entropy(model(inputs).float(), shares_BK, label_smoothing=0.1)

    def score(self, model: nn.Module) -> dict[str, float]:
        """Top-1 on the test images."""
        logits_SC = torch.cat([model(inputs).float() for inputs in self._test.plain(TEST_BATCH)])
        labels_S = torch.from_numpy(self._test.dataset.labels).to(self.device)
        return {
            "top1": float((logits_SC.argmax(-1) == labels_S).float().mean()),
            "nats": float(F.cross_entropy(logits_SC, labels_S)),
        }


@dataclass(frozen=True)
class Text:
    """Characters of a text on a device."""

    path: Path
    device: torch.device
    batch_size: int
    limit: int | None

    metric = "nats"

    @cached_property
    def _ids(self) -> tuple[Tensor, Tensor, int]:
        text = self.path.read_text(encoding="utf-8")
        names = sorted(set(text))
        ids = torch.tensor([names.index(character) for character in text[: self.limit and 100 * self.limit]])
        cut = len(ids) * 9 // 10
        return ids[:cut].to(self.device), ids[cut:].to(self.device), len(names)

    def structure(self, stack_of: StackOf) -> Structure:
        count = self._ids[2]
        embed = TokenEmbedSpec(vocab_size=count, max_positions=CONTEXT)
        head = LanguageModelSpec(vocab_size=count, tied=False)
        return Structure(**BARE, **stack_of(True, False), embed=embed, head=head, task="causal-lm")

    def loss(self, model: Callable[..., Tensor], step: int) -> Tensor:
        train = self._ids[0]
        starts = np.random.default_rng((0, step)).integers(0, len(train) - CONTEXT - 1, self.batch_size)
        places_BN = torch.from_numpy(starts)[:, None] + torch.arange(CONTEXT + 1)
        return self._nats(model, train[places_BN.to(self.device)])

    def score(self, model: nn.Module) -> dict[str, float]:
        """Nats and bits a character on the test text, in windows that do not overlap."""
        test = self._ids[1]
        count = (len(test) - 1) // CONTEXT
        places_BN = (torch.arange(count) * CONTEXT)[:, None] + torch.arange(CONTEXT + 1)
        windows = test[places_BN.to(self.device)].split(TEST_BATCH // 4)
        total = sum(float(self._nats(model, window_BN)) * len(window_BN) for window_BN in windows)
        return {"nats": total / count, "bits": total / count / math.log(2)}

    def _nats(self, model: Callable[..., Tensor], window_BN: Tensor) -> Tensor:
        logits_BNV = model({"input_ids": window_BN[:, :-1]}).float()
        return F.cross_entropy(logits_BNV.flatten(0, 1), window_BN[:, 1:].flatten())


@dataclass(frozen=True)
class Translation:
    """Captions of zoo:m30k on a device, those of up to 32 tokens a side in training."""

    device: torch.device
    batch_size: int
    limit: int | None

    metric = "bleu"

    @cached_property
    def _train(self) -> tuple[Tensor, Tensor]:
        data = m30k_forms.prepared(m30k_forms.DATA, self.limit, "healing")
        pairs = [data.texts[index] for index in m30k_forms.short(data)]
        sides = ([pair[side] for pair in pairs] for side in (0, 1))
        source_SN, target_SN = (_rows(one, m30k_forms.LONGEST).to(self.device) for one in sides)
        return source_SN, target_SN

    @cached_property
    def _test(self) -> PreparedPairs:
        return m30k_forms.prepared(m30k_forms.DATA, self.limit, "evaluation")

    def structure(self, stack_of: StackOf) -> Structure:
        size = self._test.spec.vocab_size
        embed = TokenEmbedSpec(vocab_size=size, max_positions=PLACES)
        source = Structure(
            **BARE,
            **stack_of(False, False),
            embed=embed.replace(borrowed=True),
            head=TokensSpec(),
            task="text-to-text",
        )
        head = LanguageModelSpec(vocab_size=size)
        return Structure(**BARE, **stack_of(True, True), embed=embed, head=head, task="text-to-text", encoder=source)

    def loss(self, model: Callable[..., Tensor], step: int) -> Tensor:
        source_SN, target_SN = self._train
        random = np.random.default_rng((0, step))
        index_B = torch.from_numpy(random.integers(0, len(source_SN), self.batch_size)).to(self.device)
        source_BN, target_BN = source_SN[index_B], target_SN[index_B]
        lost = [torch.from_numpy(random.random(one.shape) < LOST).to(self.device) for one in (source_BN, target_BN)]
        given_BN = torch.where(lost[0] & (source_BN != m30k.PAD), LOST_ID, source_BN)
        before_BN = torch.where(lost[1] & (target_BN != m30k.PAD), LOST_ID, target_BN)
        logits_BNV = self._logits(model, given_BN, source_BN, before_BN)
        return self._nats(logits_BNV, target_BN, 0.1)

    @torch.no_grad()
    def score(self, model: nn.Module) -> dict[str, float]:
        """BLEU of what is written greedily for the test's sources, and nats a token of its targets."""
        data, nats, tokens = self._test, 0.0, 0
        assert data.tokenizer is not None
        written: list[str] = []
        for start in range(0, len(data), TEST_BATCH):
            pairs = data.texts[start : start + TEST_BATCH]
            source_BN, target_BN = (_rows([pair[side] for pair in pairs], PLACES).to(self.device) for side in (0, 1))
            real = int((target_BN != m30k.PAD).sum())
            logits_BNV = self._logits(model, source_BN, source_BN, target_BN)
            nats, tokens = nats + float(self._nats(logits_BNV, target_BN, 0.0)) * real, tokens + real
            for ids in self._written(model, source_BN).tolist():
                end = ids.index(m30k.END) if m30k.END in ids else len(ids)
                written.append(data.tokenizer.decode(ids[:end]))
        wanted = [row.texts[1] for row in data.dataset.rows]
        return {"bleu": sacrebleu.corpus_bleu(written, [wanted]).score, "nats": nats / tokens}

    def _written(self, model: nn.Module, source_BN: Tensor) -> Tensor:
        """The likeliest token each time (B,N), up to the places that there are."""
        ids_BN = torch.full_like(source_BN[:, :1], m30k.PAD)
        real_BN = source_BN != m30k.PAD
        ended_B = torch.zeros(len(ids_BN), dtype=torch.bool, device=ids_BN.device)
        while ids_BN.shape[1] < PLACES and not bool(ended_B.all()):
            inputs = {"input_ids": source_BN, "attention_mask": real_BN, "decoder_input_ids": ids_BN}
            scores_BV = model(inputs)[:, -1].float()
            scores_BV[:, m30k.PAD] = -torch.inf
            next_B = scores_BV.argmax(dim=-1)
            ended_B |= next_B == m30k.END
            ids_BN = torch.cat([ids_BN, next_B[:, None]], dim=1)
        return ids_BN[:, 1:]

    def _logits(self, model: Callable[..., Tensor], given_BN: Tensor, source_BN: Tensor, before_BN: Tensor) -> Tensor:
        """Of the tokens of a target, each behind those before it. `source`: where the given ones are real."""
        first_B1 = torch.full_like(before_BN[:, :1], m30k.PAD)
        fed_BN = torch.cat([first_B1, before_BN[:, :-1]], dim=1)
        mask_BN = source_BN != m30k.PAD
        return model({"input_ids": given_BN, "attention_mask": mask_BN, "decoder_input_ids": fed_BN}).float()

    def _nats(self, logits_BNV: Tensor, target_BN: Tensor, smoothing: float) -> Tensor:
        return F.cross_entropy(
            logits_BNV.flatten(0, 1), target_BN.flatten(), ignore_index=m30k.PAD, label_smoothing=smoothing
        )


Task = Images | Text | Translation


def _rows(texts: Sequence[Sequence[int]], length: int) -> Tensor:
    """Token ids (S,N), padded at the end to a length, or cut there."""
    return torch.tensor([[*one[:length], *[m30k.PAD] * (length - len(one))] for one in texts])


def built(variant: str, width: int, task: Task) -> Transformer:
    """A model of a variant; see the top of the file."""
    looped = not variant.startswith("vanilla")
    depth = 1 if variant == "vanilla-1" else DEPTH
    rank = max(1, width // 16)
    own: dict[str, Any] = {
        "timestep": {"timestep": True},
        "timestep-table": {"timestep": True},
        "ring": {"signal_rank": rank},
        "deltas": {"delta_rank": rank},
    }.get(variant, {})
    scores = ProjectedScoresSpec(
        num_heads=HEADS, num_kv_heads=HEADS, head_dim=width // HEADS, scale=(width // HEADS) ** -0.5
    )
    values = ProjectedValuesSpec(num_kv_heads=HEADS, head_dim=width // HEADS)
    places = [(0, loop) for loop in range(depth)] if looped else [(index, 0) for index in range(depth)]

    def stack_of(causal: bool, reads_source: bool) -> dict[str, Any]:
        block = BlockSpec(
            mixer=SoftmaxAttentionSpec(scores=scores, values=values, causal=causal),
            mixer_norm=NormSpec(),
            ffn=MlpSpec(intermediate_size=4 * width),
            ffn_norm=None if variant == "looped-one-norm" else NormSpec(),
            cross=SoftmaxCrossSpec(scores=scores, values=values) if reads_source else None,
            cross_norm=NormSpec() if reads_source else None,
            loops=depth if looped else 1,
            per_loop=PerLoopSpec(**own),
        )
        return {
            "hidden_size": width,
            "blocks": (block,) * (1 if looped else depth),
            "schedule": tuple(Step(block=index, loop=loop, origin=at) for at, (index, loop) in enumerate(places)),
            "final_norm": NormSpec(),
        }

    model = Transformer(task.structure(stack_of))
    for stack in [model] if model.encoder is None else [model, model.encoder]:
        if variant in ("looped", "looped-one-norm"):
            share_loops(stack)
        if variant == "timestep-table":
            for gain in (stack.block(0).mixer_gain, stack.block(0).ffn_gain):
                assert gain is not None
                for value_D in gain.value:
                    nn.init.zeros_(value_D)
    return model


def share_loops(model: Transformer) -> None:
    """Let all loops read the norms and biases of the first."""
    for module in model.block(0).modules():
        for name, child in list(module.named_children()):
            if isinstance(child, nn.ParameterList) and len(child):
                setattr(module, name, nn.ParameterList([child[0]] * len(child)))


def width_of(variant: str, task: Task, width: int) -> int:
    """The width, a multiple of 4, at which a variant holds as many parameters as the looped model of `width`."""
    if variant in ("looped", "vanilla-6x"):
        return width
    built(variant, HEADS, task)  # reads the data, which must not happen on the meta device
    with torch.device("meta"):
        wanted = built("looped", width, task).num_parameters()
        sizes = {size: built(variant, size, task).num_parameters() for size in range(HEADS, 2 * width, HEADS)}
    return min(sizes, key=lambda size: abs(sizes[size] - wanted))


def measure(args: argparse.Namespace, task: Task, variant: str) -> dict[str, Any]:
    """Train a variant and score it."""
    torch.manual_seed(args.seed)
    width = width_of(variant, task, args.width)
    model = built(variant, width, task).to(task.device).train()
    module: nn.Module = Encoded(model).to(task.device) if variant == "timestep" else model
    on_gpu = task.device.type == "cuda"
    trained = torch.compile(module) if on_gpu else module
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.05, fused=on_gpu)

    def update(step: int, share: float) -> float:
        for group in optimizer.param_groups:
            group["lr"] = args.lr * min(1.0, share / 0.05) * 0.5 * (1 + math.cos(math.pi * min(1.0, share)))
        with torch.autocast(task.device.type, torch.bfloat16, enabled=on_gpu):
            loss = task.loss(trained, step)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()) if step % 50 == 0 else 0.0

    for step in range(3):  # compile and warm up at a rate of zero, outside the clock
        update(step, 0.0)
    start, step, share = time.monotonic(), 0, 0.0
    curve: list[list[float]] = []
    while share < 1:
        loss = update(step, max(share, 1e-3))
        if step % 50 == 0:
            curve.append([step, round(time.monotonic() - start, 2), round(loss, 4)])
        step += 1
        share = step / args.steps if args.steps else (time.monotonic() - start) / args.seconds
    final = module.baked() if isinstance(module, Encoded) else model
    with torch.no_grad():
        scores = task.score(final.eval())
    return {
        "variant": variant,
        "width": width,
        "parameters": final.num_parameters(),
        "block_parameters": vit_lab.block_parameters(final),
        "trained_parameters": sum(parameter.numel() for parameter in parameters),
        "steps": step,
        "seconds": round(time.monotonic() - start, 1),
        **{name: round(value, 5) for name, value in scores.items()},
        "curve": curve[:: max(1, len(curve) // 20)],
    }


def run(args: argparse.Namespace) -> None:
    """Train every model that no other process is at."""
    if torch.cuda.is_available():
        torch.backends.cuda.enable_cudnn_sdp(False)  # its bf16 backward pass has open fault reports on Hopper
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tasks: dict[str, Task] = {
        "vision": Images(args.images, device, args.batch, args.limit),
        "text": Text(args.text, device, max(1, args.batch // 4), args.limit),
        "translation": Translation(device, max(1, args.batch // 2), args.limit),
    }
    chosen = {name: task for name, task in tasks.items() if name in args.tasks}
    args.folder.mkdir(parents=True, exist_ok=True)
    shared = {"command": record.command("loops-from-scratch"), **record.surroundings()}
    options = {key: value for key, value in vars(args).items() if isinstance(value, int | float) or value is None}
    conditions = {**shared, **options, "depth": DEPTH, "context": CONTEXT}
    record.write_json(args.folder / "conditions.json", conditions)
    settings = ("steps", "batch", "width", "lr", "limit", "seed", "depth", "context")
    known = {(one["task"], one["variant"]): one for one in record.known_rows(args.known, conditions, settings)}
    for number, variant in enumerate(VARIANTS):
        for name, task in chosen.items():
            path = args.folder / f"{number:02d}-{name}-{variant}.json"
            if (name, variant) not in known and variant not in args.only:
                continue
            with record.claimed(path) as mine:
                if mine:
                    record.write_json(path, known.get((name, variant)) or _measured(args, name, task, variant))


def _measured(args: argparse.Namespace, name: str, task: Task, variant: str) -> dict[str, Any]:
    result = {"task": name, **measure(args, task, variant)}
    print({key: value for key, value in result.items() if key != "curve"}, flush=True)
    return result


def collect(args: argparse.Namespace) -> None:
    """Put the rows that are done into one file and print them, the best of each task first."""
    files = sorted(args.folder.glob("[0-9][0-9]-*.json"))
    rows = [json.loads(file.read_text()) for file in files if file.stat().st_size]
    record.save(args.result, {**json.loads((args.folder / "conditions.json").read_text()), "rows": rows})
    for row in sorted(rows, key=lambda one: (one["task"], one["nats"])):
        print(
            row["task"],
            row["variant"],
            row["width"],
            row["parameters"],
            row["steps"],
            row.get("top1", row.get("bleu")),
            row["nats"],
        )


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True)
    running = verbs.add_parser("run")
    running.set_defaults(run=run)
    running.add_argument("images")
    running.add_argument("text", type=Path)
    running.add_argument("folder", type=Path)
    running.add_argument("--seconds", type=float, default=50.0, help="of training for each model")
    running.add_argument("--steps", type=int, help="the same number for each model, in place of --seconds")
    running.add_argument("--batch", type=int, default=512, help="images; half as many pairs, a quarter as many texts")
    running.add_argument("--width", type=int, default=WIDTH, help="of the looped model")
    running.add_argument("--lr", type=float, default=1e-3)
    running.add_argument("--limit", type=int, help="about how many images and hundreds of characters, for smoke tests")
    running.add_argument("--only", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    running.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    running.add_argument("--known", nargs="+", type=Path, default=[], help="results whose rows are taken over")
    running.add_argument("--seed", type=int, default=0)
    collecting = verbs.add_parser("collect")
    collecting.set_defaults(run=collect)
    collecting.add_argument("folder", type=Path)
    collecting.add_argument("result", type=Path)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
