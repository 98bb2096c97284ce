"""Few-step sampling of a distilled UNet2DModel, for folders that no stock diffusers pipeline can sample.

This file travels with the weights and needs torch and diffusers only:

    pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    images = pipe(batch_size=4, class_labels=[0, 1, 2, 3]).images

What it needs to know, the plan, stands in the folder's model_index.json.
"""

import hashlib

import torch
from diffusers import DiffusionPipeline, ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor


class FewstepPipeline(DiffusionPipeline):
    """A UNet and its sampling plan: for each number of steps, the factors of what is computed at each of them.

    x = initial · noise; at each step F = unet(c_in x, timestep, label) and x0 = c_skip x + c_out F. The last step
    returns x0; any other goes on with x = next_alpha x0 + next_sigma ε, where ε is the predicted noise e_skip x +
    e_out F (kind "ode") or fresh noise keyed by (seed, step, sample) (kind "renoise"). Where there is a guide, a small
    UNet, its output joins the input of the large one as further channels.
    """

    _optional_components = ["guide"]

    def __init__(self, unet, scheduler, guide, plan=None):
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler, guide=guide)
        self.register_to_config(plan=plan)

    @torch.no_grad()
    def __call__(
        self,
        batch_size=1,
        class_labels=None,
        num_inference_steps=None,
        generator=None,
        noise=None,
        seed=0,
        output_type="pil",
        return_dict=True,
    ):
        """Sample images.

        class_labels: one label, a list or an int64 tensor of batch_size labels; None draws "no condition" where the
        network knows it. num_inference_steps: one of the plan's. noise: N(0, I) of shape (batch_size, C, H, W) instead
        of a draw from `generator`. generator: one, or a list with one for each sample, from which re-noising draws too;
        else `seed` keys the re-noising. output_type: "pil", "np" or "pt" in [0, 1], or "raw" as the network made it.
        """
        plan = self.config.plan
        steps = plan["steps"] if num_inference_steps is None else num_inference_steps
        if str(steps) not in plan["grids"]:
            raise ValueError(f"num_inference_steps must be one of {', '.join(plan['grids'])}, got {steps}")
        device, dtype = self._execution_device, self.unet.dtype
        if noise is None:
            shape = (batch_size, *plan["sample_shape"])
            noise = randn_tensor(shape, generator=generator, dtype=torch.float32)
        labels = self._labels(class_labels, len(noise), device)
        x = noise.to(device, torch.float32) * plan["initial"][str(steps)]
        rows = plan["grids"][str(steps)]
        for step, row in enumerate(self.progress_bar(rows)):
            time = torch.full((len(x),), row["timestep"], dtype=torch.float32, device=device)
            raw = self._network((row["c_in"] * x).to(dtype), time, labels)
            raw = raw[:, : x.shape[1]].float()
            x0 = row["c_skip"] * x + row["c_out"] * raw
            if step + 1 == len(rows):
                break
            if plan["kind"] == "ode":
                epsilon = row["e_skip"] * x + row["e_out"] * raw
            elif isinstance(generator, list):
                epsilon = randn_tensor(x.shape, generator=generator, dtype=torch.float32).to(device)
            else:
                epsilon = _keyed_noise(seed, f"{plan['purpose']}/{step}", x.shape).to(device)
            x = row["next_alpha"] * x0 + row["next_sigma"] * epsilon
        images = self._convert(x0, output_type)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _network(self, x, time, labels):
        if self.guide is not None:
            x = torch.cat([x, self.guide(x, time, class_labels=labels, return_dict=False)[0]], 1)
        return self.unet(x, time, class_labels=labels, return_dict=False)[0]

    def _labels(self, labels, count, device):
        embedded = self.unet.config.num_class_embeds
        if embedded is None:
            if labels is not None:
                raise ValueError("this network is unconditional; leave class_labels out")
            return None
        if labels is None:
            null = self.config.plan["null_class"]
            if null is None:
                raise ValueError("this network needs class_labels")
            labels = null
        given = torch.as_tensor(labels, device=device)
        given = given.expand(count) if given.ndim == 0 else given
        found = given.to(torch.int64)
        if found.shape != (count,) or not ((found == given) & (found >= 0) & (found < embedded)).all():
            raise ValueError(f"class_labels must be {count} integers of 0 … {embedded - 1}, got {labels}")
        return found

    def _convert(self, x0, output_type):
        if output_type == "raw":
            return x0
        images = (x0 / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return images
        images = images.cpu().permute(0, 2, 3, 1).numpy()
        return images if output_type == "np" else self.numpy_to_pil(images)


def _keyed_noise(seed, purpose, shape):
    """Noise of sample i: float64 normals from a generator seeded with 63 bits of SHA-256 of (seed, purpose, i)."""
    out = torch.empty(shape, dtype=torch.float64)
    for index in range(shape[0]):
        digest = hashlib.sha256("\0".join([str(seed), purpose, str(index)]).encode()).digest()
        source = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
        torch.randn(out[index].shape, generator=source, dtype=torch.float64, out=out[index])
    return out.float()
