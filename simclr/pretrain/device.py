"""Settings -> where a run computes, and in which precision. Starts nothing."""

import torch

from simclr.errors import ConfigError, reason
from simclr.pretrain import distributed
from simclr.pretrain.config import PretrainConfig


def device_and_dtype(config: PretrainConfig) -> tuple[torch.device, torch.dtype]:
    """Where and in which precision to run. Raises ConfigError for a device that is not there."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if device.index is not None and distributed.on_this_machine() > 1:
            raise ConfigError(
                f"device {config.device!r} is one for {distributed.on_this_machine()} processes. Use --device "
                f"{device.type}: each process takes its own."
            )
        if device.type == "cuda" and device.index is None:
            device = distributed.own_gpu()
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as exc:
        raise ConfigError(
            f"device {config.device!r} cannot be used ({reason(exc)}). Use --device cpu."
        ) from exc
    bf16 = config.precision == "bf16" or (
        config.precision == "auto" and device.type == "cuda" and torch.cuda.is_bf16_supported()
    )
    return device, torch.bfloat16 if bf16 else torch.float32
