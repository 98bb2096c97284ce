"""The student, the settings of its sampler, and its export as a diffusers pipeline folder."""
