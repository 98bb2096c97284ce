"""A run from its start to its end, in this checkout or a workspace of its own, and what a person sees of it."""
