"""The terms that objectives are made of. A folder with settings (`settings.py`, torch-free) and a loss (`loss.py`) is a
term by being there (`registry`); `common` holds what several terms use."""
