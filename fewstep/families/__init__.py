"""The kinds of pipelines that people have, by one contract: what a stock diffusers pipeline hands to its denoiser is
recorded, and replayed from a state, a time and the row of a condition."""
