"""GPT-2's initialisation: N(0, 0.02²); projections into the residual stream N(0, (0.02/√(2L))²).

Source: Radford et al. 2019, §2.3 ("we scale the weights of residual layers at initialization by a factor of
1/√N where N is the number of residual layers", N = 2L), and the released code for 0.02, zero biases, unit gains.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from gptwo.config import GPT2Config
from gptwo.model.gpt2 import GPT2

STANDARD_DEVIATION = 0.02


@torch.no_grad()
def initialise(model: GPT2, generator: torch.Generator) -> None:
    """Fill every parameter in place, in the order of ``named_parameters``, from a CPU generator.

    Numbers are drawn on the CPU in float32 whatever the model's device, so a seed means the same weights everywhere.
    """
    residual = STANDARD_DEVIATION / math.sqrt(2 * model.config.n_layer)
    for name, parameter in model.named_parameters():
        if name.endswith("norm.weight"):
            nn.init.ones_(parameter)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
        else:
            scale = (
                residual
                if name.endswith(("attention.output.weight", "mlp.down.weight"))
                else STANDARD_DEVIATION
            )
            drawn = torch.empty(parameter.shape, device="cpu").normal_(0.0, scale, generator=generator)
            parameter.copy_(drawn)


def build_model(
    config: GPT2Config,
    *,
    seed: int,
    device: torch.device | str,
    dtype: torch.dtype = torch.float32,
    checkpoint_activations: bool = False,
) -> GPT2:
    """A freshly initialised GPT-2 on ``device``. Built on meta first, so that nothing is initialised twice."""
    model = GPT2(config, device="meta", dtype=dtype, checkpoint_activations=checkpoint_activations)
    # What ``model.to_empty(device=device)`` does, which does not work under FakeTensorMode.
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            setattr(module, name, nn.Parameter(torch.empty_like(parameter, device=device)))
    initialise(model, torch.Generator(device="cpu").manual_seed(seed))
    return model
