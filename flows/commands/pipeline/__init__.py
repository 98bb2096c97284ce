"""Commands that run the pipeline and show its results."""
