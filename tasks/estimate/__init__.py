"""What a run would take before it runs: bytes on the device by role and kind, and those of its sets on disk."""
