"""What a diffusion or flow model is: noise processes, predictions, the denoiser around a network, its conditions and
guidance, solvers, and keyed randomness."""
