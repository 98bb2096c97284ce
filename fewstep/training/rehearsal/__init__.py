"""What a run will take of memory: its rounds set up and stepped on tensors that have shapes and no values."""
