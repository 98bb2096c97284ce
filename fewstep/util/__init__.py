"""What every layer uses and what knows nothing of distillation: errors, typed settings, files, imports, threads."""
