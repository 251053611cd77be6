"""What a run was asked for, and what follows from it before anything runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from compress import tasks, zoo
from compress.pipeline.digest.tree import digest_tree
from compress.recipe import Recipe, others
from compress.tables import PrecisionMode
from compress.tasks.task import DataChoice, Part, Task
from runtime import backends
from runtime.measuring.power import cpu_name
from targets.errors import InputError
from targets.machine import usable_cpus
from targets.spec import Target
from targets.table import FOLDER as TARGETS

#: Highest opset that is ever asked for: what every listed device reads, and where Gelu is one node.
_OPSET = 20


@dataclass(frozen=True)
class Machine:
    """Where something is timed: the cores that a process may use there, and the processor's name."""

    cpus: int
    name: str

    @classmethod
    def here(cls) -> Machine:
        """This machine."""
        return cls(usable_cpus(), cpu_name())

    def __str__(self) -> str:
        return f"{self.name} with {self.cpus} cores"


@dataclass(frozen=True)
class Job:
    """What the user asked for. `recipe_name` is for the report; `memo` remembers digests of the user's files. Times are
    of the machine `timed_on`."""

    recipe: Recipe
    recipe_name: str
    target: Target
    seed: int
    memo: Path
    timed_on: Machine = field(default_factory=Machine.here)

    def check(self) -> None:
        """Raises InputError for what can be seen to be wrong before anything runs: a missing model, data that cannot be
        opened, loops that the task does not have; EnvironmentLacks for a model that does not fit into memory."""
        from compress.families import check_known
        from compress.families.memory import check_memory

        if not (self.model_folder / "structure.json").is_file():
            check_known(self.model_folder)
        check_memory(self.model_folder)
        loops, task = self.recipe.loops, self.task
        if loops.offer and task.keeps_state:
            raise InputError(f"loops.offer is refused for {task.name}: each loop keeps a state, so inputs would differ")
        if loops.exit is not None and not task.can_exit_early:
            raise InputError(f"loops.exit needs a classifier, whose answers have probabilities; this is {task.name}")
        self._check_width()
        _ = self.data, self.model, self.evaluation, self.healing, self.mode, self.engine_precisions

    def _check_width(self) -> None:
        """Raises InputError where healing would hold tokens to the original's that a rewrite leaves narrower."""
        from compress.rewrites import REWRITES

        heal = self.recipe.heal
        held = {
            "heal.attention_steps": heal.attention_steps,
            "heal.transfer_steps": heal.transfer_steps,
            "heal.hidden": heal.steps and heal.hidden,
        }
        names = [name for name, value in held.items() if value]
        for table in self.recipe.rewrite:
            method = REWRITES.get(str(table.get("use")))
            if names and method is not None and method.narrows:
                raise InputError(
                    f"{method.name} leaves tokens narrower than the original's, to which {' and '.join(names)} would "
                    f"hold them; set {' and '.join(f'{name} = 0' for name in names)}"
                )

    def remark(self) -> str | None:
        """What the user should know of the recipe before it runs: that it leaves the architecture as it is."""
        from compress.rewrites import REWRITES

        used = [str(table["use"]) for table in self.recipe.rewrite]
        if not all(REWRITES[name].exact for name in used):
            return None
        done = f"{', '.join(used)} are exact and remove next to nothing" if used else "it has no rewrites"
        return (
            f"recipe {self.recipe_name} keeps the architecture of this {self.task.name} model ({done}) and ships it in "
            f"{self.mode}. For a smaller architecture try --recipe {' or '.join(others(self.task.recipes))}; "
            "they heal for longer, best on a GPU."
        )

    @property
    def model_folder(self) -> Path:
        return zoo.locate(self.recipe.model.source)

    @property
    def model_name(self) -> str:
        """What reports call the model."""
        return zoo.named(self.recipe.model.source)

    @cached_property
    def task(self) -> Task:
        return tasks.of_folder(self.model_folder)

    @property
    def data(self) -> DataChoice:
        """Raises InputError if no data were given and the model brings none."""
        table = self.recipe.data
        source = table.source or zoo.data_of(self.recipe.model.source)
        if source is None:
            raise InputError(f"the model {self.recipe.model.source} brings no data of its own; give some with --data")
        return DataChoice(source, table.limit, table.skip_corrupt, self.seed)

    @property
    def mode(self) -> PrecisionMode:
        """The precision that ships. Raises InputError if the target has no such precision."""
        mode = self.recipe.precision.mode or self.target.default_precision
        if mode not in self.target.precisions:
            raise InputError(f"target {self.target.name} has no {mode}; it takes {', '.join(self.target.precisions)}")
        return mode

    @property
    def engine_precisions(self) -> tuple[PrecisionMode, ...]:
        """Precisions of the files for TensorRT: the one that ships, then the others that the target's engines have,
        then those that the recipe wants beside. Where the target has no engine in that one (fp32), its others are not
        added. Raises InputError for one that the target does not have."""
        every = self.target.engine.precisions if self.target.engine else ()
        others = [one for one in every if self.mode in every]
        beside = self.recipe.precision.beside
        for one in beside:
            if one not in self.target.precisions:
                taken = ", ".join(self.target.precisions)
                raise InputError(
                    f"precision.beside has {one}, which target {self.target.name} has not; it takes {taken}"
                )
        return tuple(dict.fromkeys([self.mode, *others, *beside]))

    @property
    def forms(self) -> tuple[str, ...]:
        """Forms of files that the target's backends want, in their order. Raises InputError for an unknown backend."""
        return tuple(dict.fromkeys(backends.get(name).form for name in self.target.backends))

    @property
    def opset(self) -> int:
        return min(_OPSET, min(row.max_opset for row in self.target.software))

    @cached_property
    def model(self) -> dict[str, str]:
        """Digest of the model's folder, as a source of a stage."""
        return {"model": digest_tree(self.model_folder, self.memo)}

    @cached_property
    def evaluation(self) -> dict[str, str]:
        """Digest of the samples that gates are judged on, as a source of a stage."""
        return {"evaluation": self._digest("evaluation")}

    @cached_property
    def healing(self) -> dict[str, str]:
        """Digest of the samples to calibrate and heal on, as a source of a stage."""
        return {"healing": self._digest("healing")}

    @cached_property
    def target_file(self) -> dict[str, str]:
        """Digest of what is known of the device, as a source of a stage."""
        return {"target": digest_tree(TARGETS / f"{self.target.name}.toml", self.memo)}

    def _digest(self, part: Part) -> str:
        try:
            return self.task.digest(self.data, part, self.memo)
        except InputError as error:
            raise InputError(f"{error} (the model is for {self.task.name})") from error
