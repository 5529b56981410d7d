"""Torch's process group as Ray Train starts it, on workers that take SIGTERM for a notice.

A module by itself that imports next to nothing of ours: Train's controller, a process that trains
nothing, takes the class from here before it starts the workers, and they wait for it.
"""

from __future__ import annotations

from typing import Any

from ray.train.torch import TorchConfig

from avs.training.notices import listen_to_sigterm

__all__ = ["ListeningConfig"]


class ListeningConfig(TorchConfig):
    """Torch's process group, and a handler of SIGTERM on every worker.

    Python sets signal handlers in the main thread only, where Train runs the backend's start; the
    loop has a thread of its own.
    """

    @property
    def backend_cls(self) -> Any:
        """Torch's backend, which ends its start by listening."""
        backend: Any = super().backend_cls

        class Listening(backend):  # type: ignore[misc]
            def on_start(self, worker_group: Any, backend_config: Any) -> None:
                super().on_start(worker_group, backend_config)
                worker_group.execute(listen_to_sigterm)

        return Listening
