"""The processes that share a unit of work: those of a machine, and those that other nodes start for it."""
