"""Commands of `edgepress` that no other package has, one file each."""
