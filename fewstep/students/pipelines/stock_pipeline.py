"""A distilled student of a stock diffusers pipeline: that pipeline, called with the student's own settings.

This file travels with the weights and needs torch and diffusers only:

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    images = pipe("a red apple").images

`FewstepStableDiffusionPipeline` is diffusers' StableDiffusionPipeline, and so for any other. What it needs to know, the
plan, stands in the folder's model_index.json: arguments of the call that hold where the caller gives none (steps,
guidance off, sizes), and, where no stock scheduler steps as the student does, the factors of each step.
"""

import inspect
from contextlib import contextmanager
from functools import wraps

import diffusers
import torch
from diffusers.schedulers.scheduling_utils import SchedulerOutput
from diffusers.utils.torch_utils import randn_tensor

PREFIX = "Fewstep"
ADAPTER = "fewstep"
STEPS = {"num_inference_steps", "timesteps", "sigmas"}  # who says one of these says all of the steps


def __getattr__(name):
    base = getattr(diffusers, name.removeprefix(PREFIX), None) if name.startswith(PREFIX) else None
    if not (isinstance(base, type) and issubclass(base, diffusers.DiffusionPipeline)):
        raise AttributeError(f"{name}: no pipeline of diffusers {diffusers.__version__} with {PREFIX} before its name")
    made = globals()[name] = _student_of(name, base)
    return made


def _student_of(name, base):
    """The class `name`: `base` with a plan."""
    parts, arguments = inspect.signature(base.__init__), inspect.signature(base.__call__)

    def __init__(self, *values, plan=None, **named):
        base.__init__(self, *values, **named)
        self.register_to_config(plan=plan)

    further = inspect.Parameter("plan", inspect.Parameter.KEYWORD_ONLY, default=None)
    __init__.__signature__ = parts.replace(parameters=[*parts.parameters.values(), further])

    @wraps(base.__call__)
    def __call__(self, *values, **named):
        plan = self.config.plan
        if plan["lora"] and not any(ADAPTER in names for names in self.get_list_adapters().values()):
            # they lie beside the teacher's weights in the folder that these were loaded from
            self.load_lora_weights(self.config._name_or_path, adapter_name=ADAPTER)
        given = arguments.bind_partial(self, *values, **named).arguments
        said = STEPS & set(given)
        if said == {"num_inference_steps"} and given["num_inference_steps"] == plan["steps"]:
            said = set()
        dropped = {*given, *STEPS} if said else given
        own = {key: value for key, value in plan["arguments"].items() if key not in dropped}
        with _stepping(self, plan):
            return base.__call__(self, *values, **named, **own)

    wanted = [one for one, told in parts.parameters.items() if one != "self" and told.default is told.empty]
    return type(name, (base,), {
        "__init__": __init__, "__call__": __call__, "__module__": __name__,
        # the teacher's folder may lack one that is asked for, such as a third encoder
        "_optional_components": list(dict.fromkeys([*base._optional_components, *wanted])),
    })  # fmt: skip


@contextmanager
def _stepping(pipe, plan):
    """The plan's steps in the place of the pipeline's scheduler, where the plan has some."""
    if not plan["rows"]:
        yield
        return
    stock, made = pipe.scheduler, getattr(pipe, "prepare_latents", None)
    steps = PlannedSteps(stock, plan)
    replaced = {"scheduler": steps}
    if made is not None and plan["initial"] != 1:

        def scaled(*values, **named):
            found = made(*values, **named)
            return found if steps.asked else steps.begun(found)

        replaced["prepare_latents"] = scaled
    pipe.__dict__ |= replaced
    try:
        yield
    finally:
        pipe.scheduler = stock
        pipe.__dict__.pop("prepare_latents", None)


class PlannedSteps:
    """Steps by factors: the network is given c_in x, and of its raw output F follow x0 = c_skip x + c_out F and
    ε = e_skip x + e_out F. The last step returns x0; any other next_alpha x0 + next_sigma ε, with the predicted ε (kind
    "ode") or a fresh one (kind "renoise"). All else is the stock scheduler's."""

    order = 1

    def __init__(self, stock, plan):
        self.stock, self.rows, self.kind, self.at = stock, plan["rows"], plan["kind"], 0
        self.begins = self.initial = plan["initial"]
        self.still, self.asked = plan.get("still"), False
        times = [(row["timestep"] - plan.get("time_offset", 0)) / plan["time_factor"] for row in self.rows]
        whole = all(time == round(time) for time in times) and not stock.timesteps.is_floating_point()
        self.timesteps = torch.tensor(times, dtype=torch.int64 if whole else torch.float32)

    def __getattr__(self, name):
        return getattr(self.stock, name)

    @property
    def init_noise_sigma(self):
        self.asked = True
        return self.initial

    def begun(self, prepared):
        """What `prepare_latents` returned, scaled as sampling begins: some pipelines, those of flows, do not ask for it
        whatever their scheduler knows. Who asks later gets 1."""
        self.initial = 1.0
        if self.still:  # tokens that a mask says stand clean
            given = prepared[1].to(prepared[0])[..., None]
            return (prepared[0] * (given + (1 - given) * self.begins), *prepared[1:])
        if isinstance(prepared, tuple):
            return (prepared[0] * self.begins, *prepared[1:])
        return prepared * self.begins

    def set_timesteps(self, num_inference_steps=None, device=None, sigmas=None, mu=None, timesteps=None):
        count = next(len(one) if one is not None else None for one in (sigmas, timesteps, self.rows) if one is not None)
        wanted = count if num_inference_steps is None else num_inference_steps
        if wanted != len(self.rows):
            raise ValueError(f"this student samples in {len(self.rows)} steps, not in {wanted}")
        self.timesteps, self.at = self.timesteps.to(device), 0

    def set_begin_index(self, begin_index=0):
        if begin_index:
            raise ValueError("this student samples from noise; it begins at no later step")

    def scale_model_input(self, sample, timestep=None):
        return sample * self.rows[self.at]["c_in"]

    def step(self, model_output, timestep, sample, generator=None, return_dict=True):
        row, x, raw = self.rows[self.at], sample.float(), model_output.float()
        self.at += 1
        x = self._next(row, x, raw, generator).to(model_output.dtype)
        return SchedulerOutput(prev_sample=x) if return_dict else (x,)

    def _next(self, row, x, raw, generator):
        x0 = row["c_skip"] * x + row["c_out"] * raw
        if self.at == len(self.rows):
            return x0
        if self.kind == "ode":
            epsilon = row["e_skip"] * x + row["e_out"] * raw
        else:
            epsilon = randn_tensor(x.shape, generator=generator, device=x.device, dtype=torch.float32)
        return row["next_alpha"] * x0 + row["next_sigma"] * epsilon
