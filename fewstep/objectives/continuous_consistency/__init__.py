"""Continuous-time consistency: the student's tangent along the flow vanishes."""
