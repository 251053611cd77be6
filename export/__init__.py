"""edgepress: from a torch model to graph files, and from these to a bundle."""

from edgepress_siblings import check

check(__file__, "runtime", "targets")
