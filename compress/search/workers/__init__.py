"""Who does the work of a search: this process, or the machines of a cluster."""
