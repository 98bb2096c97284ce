"""The commands of `fewstep`, one module each."""
