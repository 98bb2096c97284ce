"""Regression on what the teacher's solver made: cached ends and states, progressive targets, its denoised samples."""
