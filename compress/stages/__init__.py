"""The stages of edgepress, on top of the generic stage graph: source, baseline, calibrate, rewrite, heal, export,
precision, verify, bundle and report."""
