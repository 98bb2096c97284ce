"""The terms that objectives are made of: one folder each, which holds its settings (`settings.py`, torch-free), its loss
(`loss.py`) and their helpers. `common` holds what several terms use."""
