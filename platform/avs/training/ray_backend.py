"""Ray Train's trainer with what is ours of it: workers that listen, mistakes that end at once.

A module by itself that imports next to nothing of ours: Train's controller, a process that trains
nothing, takes the classes from here before it starts the workers, and they wait for it.
"""

from __future__ import annotations

import os
from typing import Any

import psutil
import ray
from ray.train import WorkerGroupError
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.execution.failure_handling import DefaultFailurePolicy, FailureDecision

from avs.errors import AvsError
from avs.training.notices import listen_to_sigterm

__all__ = ["ListeningConfig", "Trainer", "inner", "is_mistake"]


class ListeningConfig(TorchConfig):
    """Torch's process group on the nodes' own network, and a handler of SIGTERM on every worker.

    Python sets signal handlers in the main thread only, where Train runs the backend's start; the
    loop has a thread of its own.
    """

    @property
    def backend_cls(self) -> Any:
        """Torch's backend, which begins its start with the network and ends it by listening."""
        backend: Any = super().backend_cls

        class Listening(backend):  # type: ignore[misc]
            def on_start(self, worker_group: Any, backend_config: Any) -> None:
                worker_group.execute(_meet_at_node_address)
                super().on_start(worker_group, backend_config)
                worker_group.execute(listen_to_sigterm)

        return Listening


def _meet_at_node_address() -> None:
    """Gloo listens where the machine's name points to, which Debian's installer writes down as
    127.0.1.1: workers on other nodes would look for this one at home. Ray knows the address."""
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    wanted = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    for name, addresses in psutil.net_if_addrs().items():
        if any(address.address == wanted for address in addresses):
            os.environ["GLOO_SOCKET_IFNAME"] = name


class Trainer(TorchTrainer):
    """A TorchTrainer that starts workers again which were lost, but none that made a mistake: Ray
    tries both again, which hides a misspelt value for a minute. Trade-off: Ray has no public way to
    say so, and this one is for the version that requirements.txt names."""

    def _initialize_and_run_controller(self, **given: Any) -> Any:
        config: Any = self.run_config.failure_config  # the annotations are the old trainer's
        own = {**given, "failure_policy": _NoMistakes(config)}
        return super()._initialize_and_run_controller(**own)  # type: ignore[misc]


class _NoMistakes(DefaultFailurePolicy):
    def make_decision(self, training_failed_error: Any) -> FailureDecision:
        if isinstance(training_failed_error, WorkerGroupError):
            causes = training_failed_error.worker_failures.values()
            if any(is_mistake(inner(cause)) for cause in causes):
                return FailureDecision.RAISE
        return super().make_decision(training_failed_error)


def is_mistake(cause: BaseException) -> bool:
    """Whether a worker would fail again: not for storage, which may come back, nor for a loss."""
    return isinstance(cause, (AvsError, FloatingPointError)) and not isinstance(cause, OSError)


def inner(cause: BaseException) -> BaseException:
    """What a worker raised, without Ray's wrapping."""
    found: BaseException = getattr(cause, "cause", None) or cause
    return found
