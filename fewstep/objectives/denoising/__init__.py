"""Denoising score matching: what trains a teacher on data, and a fake score on the student's samples."""
