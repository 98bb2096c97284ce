"""What networks are made of and what is done to them: small networks of our own, LoRA, further inputs, smaller sizes, a
guide network, blocks and features."""
