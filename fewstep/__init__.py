"""What distillation is: processes, networks, objectives, sampling, metrics. PyTorch and diffusers only."""
