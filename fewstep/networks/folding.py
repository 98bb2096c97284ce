"""What was added to a network, folded back into a network of the original kind: adapters, further inputs."""

from __future__ import annotations

from dataclasses import replace

import torch

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.network_inputs import ExtraInputs, Given
from fewstep.networks.extra_inputs import embeds_scale, fold_inputs
from fewstep.networks.lora import merge_lora


def fold_additions(denoiser: Denoiser) -> Denoiser:
    """The denoiser with a network of the original kind: adapters merged, further inputs folded in at the clean end, at
    `default_scale` and at positive times. Itself if it is that already; otherwise a copy."""
    network = merge_lora(denoiser.network)
    if denoiser.inputs:
        angle = denoiser.angle(torch.tensor([denoiser.process.t_min], dtype=torch.float64))
        scale = denoiser.default_scale
        scale = None if scale is None else torch.tensor([scale], dtype=torch.float64)
        network = fold_inputs(network, Given(None, angle, scale, torch.zeros(1)))
    if network is denoiser.network:
        return denoiser
    folded = denoiser.around(network, ExtraInputs()).train(denoiser.training)
    if embeds_scale(denoiser) and denoiser.default_scale is not None:  # the scale that is given where nobody says one
        call = replace(denoiser.adapter.call, guidance_scale=denoiser.default_scale)
        folded.adapter = replace(denoiser.adapter, call=call)
    return folded
