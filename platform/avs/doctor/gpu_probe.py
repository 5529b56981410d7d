"""Run as a script: what PyTorch makes of the GPUs, or one rank of an all_reduce, as JSON.

python gpu_probe.py look                     # driver, CUDA, a bfloat16 product on each GPU
python gpu_probe.py reduce nccl RANK SIZE URI
"""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

_SIDE = 512
_LIMIT = timedelta(seconds=60)


def look() -> dict[str, Any]:
    """The GPUs by name, memory, and the error of a product in bfloat16 (0 to 1)."""
    found: dict[str, Any] = {"torch": torch.__version__, "cuda": torch.version.cuda, "gpus": []}
    if not torch.cuda.is_available():
        return found
    version: tuple[int, ...] = torch.cuda.nccl.version()  # type: ignore[no-untyped-call]
    found["nccl"] = ".".join(str(part) for part in version)
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        a = torch.eye(_SIDE, device=f"cuda:{index}", dtype=torch.bfloat16)
        b = torch.rand(_SIDE, _SIDE, device=f"cuda:{index}").to(torch.bfloat16)
        wrong = float((a @ b - b).abs().max())
        one = {"name": about.name, "memory_bytes": about.total_memory, "error": wrong}
        found["gpus"].append(one)
    return found


def reduce(backend: str, rank: int, size: int, uri: str) -> dict[str, Any]:
    """The sum over ranks of rank + 1."""
    device = torch.device("cuda", rank) if backend == "nccl" else torch.device("cpu")
    if backend == "nccl":
        torch.cuda.set_device(device)
    dist.init_process_group(backend, init_method=uri, rank=rank, world_size=size, timeout=_LIMIT)
    value = torch.full((1024,), float(rank + 1), device=device)
    dist.all_reduce(value)
    total = float(value.mean())
    dist.destroy_process_group()
    return {"sum": total}


if __name__ == "__main__":
    what, *given = sys.argv[1:]
    if what == "look":
        print(json.dumps(look()))
    else:
        backend, rank, size, uri = given
        print(json.dumps(reduce(backend, int(rank), int(size), uri)))
