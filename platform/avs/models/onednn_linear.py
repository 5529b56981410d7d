"""Linear layers through oneDNN's matrix product on CPUs where torch's default is slow.

torch gives float32 matrix products to MKL, slower than oneDNN on processors with AVX-512 of
other makers than Intel (measured on an AMD EPYC, PVT-v2's layers: 95 against 212 GFLOP/s); its
convolutions already go through oneDNN. After the TPAVI factorisation these products are the
greatest single cost of a training step. Same parameters, same float32 arithmetic, another
summation order. Trade-off: the product is an operator that torch keeps for its own compiler, so
whatever is not a plain float32 CPU product (autocast, a GPU, compiling and exporting, a torch
without it) takes the usual way.

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
        out: Tensor = _Linear.apply(x, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return out


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
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight_OI: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight_OI)
        return _product(x.reshape(-1, x.shape[-1]), weight_OI, bias_O).reshape(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight_OI = ctx.saved_tensors
        x_MI, grad_MO = x.reshape(-1, x.shape[-1]), grad.reshape(-1, grad.shape[-1])
        to_x, to_weight, to_bias = ctx.needs_input_grad
        return (
            _product(grad_MO, weight_OI.t().contiguous()).reshape(x.shape) if to_x else None,
            _product(grad_MO.t().contiguous(), x_MI.t().contiguous()) if to_weight else None,
            grad_MO.sum(dim=0) if to_bias else None,
        )


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
