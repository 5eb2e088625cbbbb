"""Linear layers in 8-bit integers, for evaluation on a CPU whose vectors multiply those several times faster.

Each output's weights have a scale of their own, and so has each token's input at the time when it comes (dynamic
quantisation, as of Dettmers et al. 2022, LLM.int8(), section 3, without its outliers). So a row's logits do not depend
on the rows beside it: a scale for the whole batch, as torch.ao has it, would make them.

Suffixes: N tokens, I inputs, O outputs.
"""

import torch
from torch import Tensor, nn

from pref_dist.models.layers import list_layers

LARGEST = 127.0


class Int8Linear(nn.Module):
    """Returns what a linear layer returns, but for the rounding of weights and inputs to 255 values.

    weight: (O, I) int8. scale: (O,) of each output's weights. bias: (O,).
    """

    weight: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight_OI = linear.weight.detach().float()
        scale_O1 = find_scale(weight_OI)
        self.register_buffer("weight", (weight_OI / scale_O1).round().to(torch.int8))
        self.register_buffer("scale", scale_O1.squeeze(1))
        bias = torch.zeros(len(weight_OI)) if linear.bias is None else linear.bias.detach().float()
        self.register_buffer("bias", bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return (..., O) of inputs (..., I), in fp32, or in fp64 for such inputs."""
        inputs_NI = inputs.flatten(0, -2).float()
        scale_N1 = find_scale(inputs_NI)
        # torch's own product of int8 matrices, exact in int32.
        products_NO = torch._int_mm((inputs_NI / scale_N1).round().to(torch.int8), self.weight.t())
        scaled_NO = products_NO * scale_N1
        outputs_NO = torch.addcmul(self.bias, scaled_NO, self.scale, out=scaled_NO)
        return outputs_NO.to(torch.promote_types(inputs.dtype, torch.float32)).view(*inputs.shape[:-1], -1)


def find_scale(values_NI: Tensor) -> Tensor:
    """Return (N, 1) what the largest of each line is to be divided by to become 127; 1 for a line of zeros."""
    scale_N1 = values_NI.abs().amax(dim=1, keepdim=True) / LARGEST
    return torch.where(scale_N1 > 0, scale_N1, 1.0)


def quantize_layers(module: nn.Module) -> int:
    """Put an `Int8Linear` into the place of every linear layer of a model's transformer layers; return how many.

    Embeddings, norms, attention itself and the head stay as they are.
    """
    count = 0
    for layer in list_layers(module).values():
        for parent in list(layer.modules()):
            for name, part in list(parent.named_children()):
                if type(part) is nn.Linear:
                    parent.add_module(name, Int8Linear(part))
                    count += 1
    return count
