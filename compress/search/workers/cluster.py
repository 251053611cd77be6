"""The work of a search as tasks of a Ray cluster. The only file that imports ray, and only where --cluster is given.

A task is given to another worker when its worker is lost. Nothing of worth is in the cluster: all results are in the
cache, in a folder that all machines see, so a search whose head was lost goes on when it is started again.
"""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from compress.pipeline import Cache
from compress.pipeline.events import Event, Sink, StageProgress, StageWorking
from compress.search.workers.executor import Made, Place, Work, in_turn, made
from compress.search.workers.nodes import Seen, check, check_alike, check_versions, look, versions
from compress.stages.job import Machine
from runtime.files import write_atomic
from targets.errors import EdgepressError, EnvironmentLacks, InputError

#: How often a task is given to another worker after its worker was lost.
RETRIES = 20
#: The resource of machines that timings run on, one at a time.
TIMING = "timing"
#: Most cores of a task that heals without a GPU.
_CORES = 4
#: Seconds to wait for a cluster to answer, and for a node to say what it is.
_ANSWER, _LOOK = 5.0, 300.0


class Ray:
    """The cluster at an address: "auto", or HOST:PORT of its head. `needed`: what every worker must see beside the
    cache.

    Raises InputError if there is no such cluster, ModuleNotFoundError without ray, EnvironmentLacks for a worker that
    cannot do the work, and for a cluster without a machine for timings.
    """

    def __init__(self, address: str, cache: Cache, sinks: Sequence[Sink], seed: int, needed: Sequence[Path]) -> None:
        self.cache, self.sinks, self.seed = cache, tuple(sinks), seed
        self._ray = _connected(address)
        cache.share()
        nodes = [node for node in self._ray.nodes() if node["Alive"] and _gets_work(node)]
        timing, self._unit = [node for node in nodes if _has(node, TIMING)], "CPU"
        if not timing:
            raise EnvironmentLacks(
                f"the cluster {address} has no machine for timings; start one with: ray start --address HOST:PORT "
                f"--num-cpus 0 --resources '{{\"{TIMING}\": 1}}'"
            )
        if any(_has(node, "GPU") for node in nodes):
            self._unit = "GPU"
        healing = [node for node in nodes if _has(node, self._unit)]
        if not healing:
            raise EnvironmentLacks(f"the cluster {address} has no worker with a core; start one with ray start")
        least = min(int(node["Resources"][self._unit]) for node in healing)
        self._units = 1 if self._unit == "GPU" else min(_CORES, least)
        self.at_once = sum(int(node["Resources"][self._unit]) // self._units for node in healing)
        seen = self._looked(nodes, needed)
        self._machines = {
            Place.LIGHT: seen[healing[0]["NodeID"]].machine,
            Place.HEAVY: seen[healing[0]["NodeID"]].machine,
            Place.TIMING: check_alike([seen[node["NodeID"]] for node in timing]),
        }

    def machine(self, place: Place) -> Machine:
        """Where work of this kind is done; of workers that differ one."""
        return self._machines[place]

    def each(self, works: Sequence[Work]) -> Iterator[Made]:
        """What comes of each, in their order; all are begun when the first is asked for."""
        begun = {place: self._begun(works[place]) for place in in_turn(works)}
        try:
            for place in range(len(works)):
                outcome, events = self._got(begun[place])
                del begun[place]
                for event in events:
                    for sink in self.sinks:
                        sink(event)
                yield outcome
        finally:
            for reference in begun.values():
                self._ray.cancel(reference, force=True)

    def _begun(self, work: Work) -> Any:
        asked: dict[Place, dict[str, Any]] = {
            Place.LIGHT: {"num_cpus": 1},
            Place.HEAVY: {f"num_{self._unit.lower()}s": self._units},
            Place.TIMING: {"num_cpus": 0, "resources": {TIMING: 1}},
        }
        cores = self._units if work.place == Place.HEAVY and self._unit == "CPU" else None
        task = self._ray.remote(max_retries=RETRIES, **asked[work.place])(_task)
        return task.remote(work, self.cache, self.seed, Path.cwd(), cores, versions())

    def _got(self, reference: Any) -> tuple[Made, list[Event]]:
        try:
            return self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, EdgepressError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayError as error:
            reason = str(error).strip().partition("\n")[0]
            lost = f"the cluster was lost, or one of its tasks {RETRIES + 1} times"
            raise EnvironmentLacks(f"{lost} ({reason}); see `ray status`, then give the same command again") from error

    def _looked(self, nodes: Sequence[dict[str, Any]], needed: Sequence[Path]) -> dict[str, Seen]:
        """What each node is, by its id, after it was checked."""
        ray, written = self._ray, uuid.uuid4().hex
        token = self.cache.root / f".{written}.token"
        write_atomic(token, written.encode())
        pinned = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
        try:
            asked = {
                node["NodeID"]: ray.remote(num_cpus=0, scheduling_strategy=pinned(node["NodeID"], soft=False))(
                    look
                ).remote(token, written, tuple(needed))
                for node in nodes
            }
            here, found = look(token, written, needed), {}
            for node in nodes:
                try:
                    found[node["NodeID"]] = ray.get(asked[node["NodeID"]], timeout=_LOOK)
                except ray.exceptions.RayError as error:
                    reason = str(error).strip().splitlines()[-1]
                    name = node["NodeManagerHostname"]
                    raise EnvironmentLacks(
                        f"worker {name} cannot run edgepress: {reason}; install the same version there"
                    ) from error
                check(found[node["NodeID"]], here, self.cache.root)
        finally:
            token.unlink(missing_ok=True)
        return found


def _connected(address: str) -> Any:
    """The module ray, which knows the cluster."""
    import ray
    import ray.util.scheduling_strategies

    advice = "give HOST:PORT of its head, such as 10.0.0.1:6379, or auto on a machine of the cluster"
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), _ANSWER).close()
        except (OSError, ValueError, OverflowError) as error:
            raise InputError(f"no Ray cluster answers at --cluster {address[:60]}; {advice}") from error
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise InputError(f"--cluster {address[:60]} is not a Ray cluster to work with ({reason}); {advice}") from error
    return ray


def _has(node: dict[str, Any], resource: str) -> bool:
    return bool(node["Resources"].get(resource, 0) >= 1)


def _gets_work(node: dict[str, Any]) -> bool:
    return any(_has(node, resource) for resource in ("CPU", "GPU", TIMING))


def _task(
    work: Work, cache: Cache, seed: int, folder: Path, cores: int | None, wanted: dict[str, str]
) -> tuple[Made, list[Event]]:
    """What comes of the work in this process, which may have joined the cluster long after the others were checked."""
    check_versions(socket.gethostname(), versions(), wanted)
    with suppress(OSError):  # paths that matter were seen to be there
        os.chdir(folder)
    os.environ["EDGEPRESS_CACHE"] = str(cache.root)
    if cores is not None:
        import torch

        torch.set_num_threads(cores)
    events: list[Event] = []
    outcome = made(work, cache, [lambda event: _kept(event, events)], seed)
    return outcome, events


def _kept(event: Event, events: list[Event]) -> None:
    if not isinstance(event, StageProgress | StageWorking):
        events.append(event)
