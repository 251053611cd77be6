"""edgepress, workstation side: read a trained transformer, rewrite it, heal it, prove it, ship it."""

from edgepress_siblings import check

check(__file__, "export", "runtime", "targets")
