"""Output matching: what the student predicts at any noise level is what the live teacher predicts."""
