"""What is told about a run: MLflow, run records, redaction of secrets."""
