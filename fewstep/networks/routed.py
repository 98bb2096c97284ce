"""Several UNets that share the labels among them: one network, of which each sample sees the one its label belongs to.

This file travels with the weights and needs torch and diffusers only.
"""

from collections.abc import Callable

import torch
from diffusers import ConfigMixin, ModelMixin, UNet2DModel
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput


def dispatch(
    experts: list[torch.nn.Module], chosen: torch.Tensor, call: Callable[[torch.nn.Module, torch.Tensor], torch.Tensor]
) -> torch.Tensor:
    """call(expert, rows) of every expert on the rows (n,) of the batch that chose it, `chosen` (N,), put in order.

    Of an empty batch the first expert tells the shape.
    """
    out = None
    for number, expert in enumerate(experts):
        rows = (chosen == number).nonzero().flatten()
        if len(rows) or number == len(chosen) == 0:
            part = call(expert, rows)
            out = part.new_empty((len(chosen), *part.shape[1:])) if out is None else out
            out = out.index_copy(0, rows, part)
    return out


class RoutedUNet(ModelMixin, ConfigMixin):
    """`count` UNet2DModels of one configuration; sample i goes through number route[label i].

    Args:
        expert: configuration of one of them. route: number of the expert, by label.
        sample_size, in_channels, num_class_embeds: the experts', where loaders of a UNet2DModel look for them.
    """

    @register_to_config
    def __init__(self, expert, count, route, sample_size=None, in_channels=3, num_class_embeds=None):
        super().__init__()
        self.experts = torch.nn.ModuleList(UNet2DModel.from_config(expert) for _ in range(count))

    def forward(self, sample, timestep, class_labels=None, return_dict=True):
        """As UNet2DModel: sample (N, C, H, W), timestep a number or (N,), class_labels (N,) int64."""
        if class_labels is None:
            raise ValueError("these networks share the labels among them: give class_labels")
        timestep = torch.as_tensor(timestep, device=sample.device).expand(len(sample))
        chosen = torch.tensor(self.config.route, device=sample.device)[class_labels]

        def call(expert, rows):
            return expert(sample[rows], timestep[rows], class_labels=class_labels[rows], return_dict=False)[0]

        out = dispatch(self.experts, chosen, call)
        return UNet2DOutput(sample=out) if return_dict else (out,)
