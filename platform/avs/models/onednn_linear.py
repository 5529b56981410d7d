"""Linear layers through oneDNN's matrix product on CPUs where torch's default is slow.

torch gives float32 matrix products to MKL, slower than oneDNN on processors with AVX-512 of
other makers than Intel (measured on an AMD EPYC, PVT-v2's layers: 95 against 212 GFLOP/s); its
convolutions already go through oneDNN. After the TPAVI factorisation these products are the
greatest single cost of a training step. Same parameters, same float32 arithmetic, another
summation order. The gradient of the weights is a node of the graph by itself, so that autograd
leaves it out where only that of an activation is asked for, as C3N's attention does; a node with
both would compute both. Trade-off: the product is an operator that torch keeps for its own
compiler, so whatever is not a plain float32 CPU product (autocast, a GPU, compiling and exporting,
a torch without it) takes the usual way.

Shapes: M rows, I inputs, O outputs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F  # noqa: N812

__all__ = ["OneDnnLinear", "is_worthwhile", "use_onednn", "use_torch"]

# Below this many products the calls cost more than they save.
_MIN_PRODUCTS = 2**22


class OneDnnLinear(nn.Linear):
    """``nn.Linear`` with the product of oneDNN where that can be."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]."""
        if not _can(x, self.weight):
            return F.linear(x, self.weight, self.bias)
        bias_O = None if self.bias is None else self.bias.detach()
        parameters = _apply(_Parameters, x.detach(), self.weight, self.bias)
        return _apply(_Linear, x, self.weight.detach(), bias_O, parameters)


def use_onednn(net: nn.Module) -> None:
    """Turn every plain ``nn.Linear`` of ``net`` into one of these, in place; names stay."""
    for module in net.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear


def use_torch(net: nn.Module) -> None:
    """The reverse of :func:`use_onednn`."""
    for module in net.modules():
        if type(module) is OneDnnLinear:
            module.__class__ = nn.Linear  # type: ignore[assignment]  # the parent has the same parts


def is_worthwhile(cpu_info: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's processor is x86 with AVX-512 and not Intel's."""
    if not cpu_info.exists():
        return False
    text = cpu_info.read_text()
    return "avx512f" in text and "GenuineIntel" not in text and _product_operator() is not None


class _Linear(torch.autograd.Function):
    """The product. Its gradient goes on to the input, and unchanged to ``parameters``."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None, parameters: Tensor
    ) -> Tensor:
        ctx.save_for_backward(weight_OI)
        return _product(x.reshape(-1, x.shape[-1]), weight_OI, bias_O).reshape(parameters.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, None, Tensor | None]:
        (weight_OI,) = ctx.saved_tensors
        to_x, _, _, to_parameters = ctx.needs_input_grad
        grad_x = None
        if to_x:
            grad_MI = _product(grad.reshape(-1, grad.shape[-1]), weight_OI.t().contiguous())
            grad_x = grad_MI.reshape(*grad.shape[:-1], -1)
        return grad_x, None, None, grad if to_parameters else None


class _Parameters(torch.autograd.Function):
    """What weight and bias add to the output, as a gradient only: a 0 of its shape, no memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(x)
        return x.new_zeros(()).expand(*x.shape[:-1], len(weight_OI))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, Tensor | None, Tensor | None]:
        (x,) = ctx.saved_tensors
        x_MI, grad_MO = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        _, to_weight, to_bias = ctx.needs_input_grad
        return (
            None,
            _product(grad_MO.t().contiguous(), x_MI.t().contiguous()) if to_weight else None,
            grad_MO.sum(dim=0) if to_bias else None,
        )


def _apply(function: type[torch.autograd.Function], *arguments: Tensor | None) -> Tensor:
    out: Tensor = function.apply(*arguments)  # type: ignore[no-untyped-call]
    return out


def _can(x: Tensor, weight_OI: Tensor) -> bool:
    if torch.compiler.is_compiling():
        return False
    plain = x.dtype == weight_OI.dtype == torch.float32 and x.device.type == "cpu"
    return (
        plain
        and x.numel() * weight_OI.shape[0] >= _MIN_PRODUCTS
        and not torch.is_autocast_enabled("cpu")
        and _product_operator() is not None
    )


def _product(a_MI: Tensor, b_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """a b^T + bias."""
    operator = _product_operator()
    assert operator is not None
    out: Tensor = operator(a_MI, b_OI, bias_O, "none", [], "")
    return out


def _product_operator() -> Any:
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None)
