"""edgepress, device side: open a bundle, run it, time it, test it."""

from edgepress_siblings import check

check(__file__, "targets")
