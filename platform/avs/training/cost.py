"""What an epoch took besides time, told in its metrics: workers, device, memory."""

from __future__ import annotations

import resource
from typing import Any

import torch

from avs.training.over_ranks import max_over_ranks
from avs.training.state import Worker

__all__ = ["epoch_cost"]

_UNIT_BYTES = 1024  # Linux tells ru_maxrss in KiB


def epoch_cost(worker: Worker) -> dict[str, Any]:
    """The keys of an epoch's metrics about its cost; every rank must call this.

    ``peak_memory_bytes``: host memory (resident set) of the largest worker since it started;
    ``peak_gpu_memory_bytes``: what torch had allocated there at most, None without GPU.
    """
    on_gpu = worker.device.type == "cuda"
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT_BYTES
    gpu = torch.cuda.max_memory_allocated(worker.device) if on_gpu else 0
    host_bytes, gpu_bytes = max_over_ranks([host, gpu], worker.device)
    return {
        "workers": worker.world_size,
        "device": torch.cuda.get_device_name(worker.device) if on_gpu else "CPU",
        "peak_memory_bytes": int(host_bytes),
        "peak_gpu_memory_bytes": int(gpu_bytes) if on_gpu else None,
    }
