"""A graph of cached, resumable stages. It knows nothing about what the stages do.

See docs/develop/pipeline.md. The views are in `compress.pipeline.view` and `compress.pipeline.log`.
"""

from compress.pipeline.artifact import Artifact
from compress.pipeline.cache import Cache
from compress.pipeline.errors import GraphError
from compress.pipeline.graph import Graph
from compress.pipeline.run import PlanRow, Runner
from compress.pipeline.stage import Stage, StageContext

__all__ = ["Artifact", "Cache", "Graph", "GraphError", "PlanRow", "Runner", "Stage", "StageContext"]
