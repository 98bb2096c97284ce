"""params.yaml: its schema, the file, and the checks before any work."""
