"""Adapters as a file that `load_lora_weights` of a stock pipeline takes, and back."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import nn

from fewstep.util.errors import SettingsError

LORA_FILE = "pytorch_lora_weights.safetensors"  # the name by which pipelines look for them in a folder
_METADATA = "lora_adapter_metadata"  # where diffusers looks for peft's configuration


def adapted_layers(network: nn.Module) -> frozenset[str]:
    """Names of the layers that have adapters."""
    return frozenset(name for name, layer in network.named_modules() if hasattr(layer, "lora_A"))


def save_lora(network: nn.Module, path: Path, pipeline: type, part: str) -> dict[str, Any]:
    """Write the adapters of a network, which is this part of a pipeline of this class, the same bytes for the same
    weights; returns their rank and alpha, for `load_lora`."""
    import peft  # slow to import, and only here

    config = network.peft_config["default"]
    settings = {"rank": config.r, "alpha": config.lora_alpha}
    # one entry at most: safetensors writes several in an order of its own
    metadata = {"format": "pt"} if config.lora_alpha == config.r else {_METADATA: json.dumps({
        f"{part}.r": config.r, f"{part}.lora_alpha": config.lora_alpha,
        f"{part}.target_modules": sorted(adapted_layers(network)),
    }, sort_keys=True)}  # fmt: skip
    state = {name: value.detach().cpu().contiguous() for name, value in peft.get_peft_model_state_dict(network).items()}
    pipeline.save_lora_weights(
        path.parent, **{f"{part}_lora_layers": state}, weight_name=path.name,
        save_function=partial(safetensors.torch.save_file, metadata=metadata),
    )  # fmt: skip
    return settings


def load_lora(network: nn.Module, path: Path, part: str, settings: dict[str, Any]) -> nn.Module:
    """Gives a network, in place, the adapters that `save_lora` wrote of this part and described in `settings`.

    Raises SettingsError for a file that does not fit the network.
    """
    import peft  # slow to import, and only here

    try:
        state = {name.removeprefix(f"{part}."): value for name, value in safetensors.torch.load_file(path).items()}
        layers = sorted({name.removesuffix(".lora_A.weight") for name in state if name.endswith(".lora_A.weight")})
        config = peft.LoraConfig(r=settings["rank"], lora_alpha=settings["alpha"], target_modules=layers)
        peft.inject_adapter_in_model(config, network)
        unknown = peft.set_peft_model_state_dict(network, state).unexpected_keys
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, safetensors.SafetensorError) as error:
        told = " ".join(str(error).split()) or type(error).__name__
        raise SettingsError(f"{path}: no adapters of a {type(network).__name__}: {told}") from error
    if unknown or adapted_layers(network) != set(layers):
        raise SettingsError(f"{path}: these adapters are not of this {type(network).__name__}, such as {unknown[:1]}")
    return network.eval()
