"""The model registry: versions, aliases, lineage, checkout, the audit log, and the gate of promotion."""
