"""How solvers are called in tables and pictures. No torch here."""

_NAMES = {"ddim": "DDIM", "ddpm": "DDPM", "dpmsolver++": "DPM-Solver++", "euler": "Euler", "heun": "Heun",
          "unipc": "UniPC"}  # fmt: skip


def solver_name(solver: str) -> str:
    """The name in print of a solver's setting; a diffusers class name stays as it is."""
    return _NAMES.get(solver, solver)


def counted(n: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"
