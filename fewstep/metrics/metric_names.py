"""How solvers are called in tables and pictures. No torch here."""

MOTION = "motion"
"""Name of the features that say how a video moves, as in `kid@motion`."""
_NAMES = {"ddim": "DDIM", "ddpm": "DDPM", "dpmsolver++": "DPM-Solver++", "euler": "Euler", "heun": "Heun",
          "unipc": "UniPC"}  # fmt: skip


def solver_name(solver: str) -> str:
    """The name in print of a solver's setting; a diffusers class name stays as it is."""
    return _NAMES.get(solver, solver)


def counted(n: int, noun: str) -> str:
    """`1 step`, `2 steps`."""
    return f"{n} {noun}{'' if n == 1 else 's'}"


def metric_name(metric: str, features: str) -> str:
    """A metric's name in print. A Fréchet distance is called FID in Inception's features only, else FD with its own
    (FD-classifier-16); a kernel distance in CLIP's features with CMMD's kernel is called CMMD."""
    known = {"kid": "KID", "mmd": "MMD", "cmmd": "CMMD"}
    if metric in ("fd", "fd_infinite", "fd_bias"):
        name = "FID" if features == "inception" else f"FD-{features}"
        return name + {"fd": "", "fd_infinite": "∞", "fd_bias": " bias"}[metric]
    return known.get(metric, metric.replace("_", " "))
