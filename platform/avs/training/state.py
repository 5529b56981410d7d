"""What a rank of training holds: its place among the others, networks, optimiser, clips, history.

Everything is derived from the configuration and the prepared data, before the first step; resuming
then replaces weights, optimiser state and history. What the data decides (classes, frames, padding)
is taken from its manifest, so that a checkpoint tells it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler

from avs.losses import LossConfig
from avs.models import AUDIO_NETWORKS, AvsSystem, build_system
from avs.training.compute import prepare_networks
from avs.training.config import Precision, TrainConfig
from avs.training.ema import WeightAverage
from avs.training.feed import ClipReader, Stream, prefetch
from avs.training.from_data import (
    category_names,
    check_num_classes,
    check_off_screen,
    clip_spec,
    loss_of,
    with_val,
)
from avs.training.lane_buffers import LaneBuffers
from avs.training.lanes import lanes_of
from avs.training.lineage import Lineage
from avs.training.mixture import epoch_size
from avs.training.observers import Observer
from avs.training.optimiser import build_optimizer
from avs.training.plan import Cut, steps_per_epoch
from avs.training.run import EpochMetrics
from avs.training.tally import Tally

__all__ = ["HasTrainingState", "TrainingState", "Worker"]


@runtime_checkable
class HasTrainingState(Protocol):
    """A segmenter that training needs more of than inference does, and that is not trained: it
    goes into trainer_state.pt instead of the weights. The same on every rank."""

    def after_step(self) -> None:
        """Take in what the optimiser has changed; once a step, however it was cut."""

    def training_state(self) -> dict[str, Tensor]:
        """Copies on the CPU; the names are the segmenter's own."""

    def load_training_state(self, state: dict[str, Tensor]) -> None:
        """Go on from what :meth:`training_state` gave, after the weights were loaded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worker:
    """What the launcher gives a rank.

    ``wrap`` makes the module distributed; ``check_lease`` raises when the run no longer owns its
    folder; ``after_epoch`` is called on every rank with the epoch's metrics. ``commits_first``:
    the epoch's checkpoint is whole by then; False lets the next epoch begin meanwhile. ``stream``
    reads the batches. ``observers`` look on, on rank 0 only.

    ``told`` is asked after every step: was this rank told that it ends soon, since it was asked
    last? ``ask_cluster`` is asked by all ranks at once, now and then, and gives all the same answer
    to the same question about any of them.

    ``num_lanes`` of a step: workers that were configured, None for as many as there are.
    """

    rank: int = 0
    world_size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    check_lease: Callable[[], None] = lambda: None
    after_epoch: Callable[[EpochMetrics], None] = lambda _: None
    commits_first: bool = True
    stream: Stream = prefetch
    observers: Sequence[Observer] = ()
    told: Callable[[], bool] = lambda: False
    ask_cluster: Callable[[], bool] = lambda: False
    num_lanes: int | None = None

    @property
    def lanes(self) -> range:
        """The lanes of a step that this rank takes."""
        count = self.num_lanes or self.world_size
        return lanes_of(self.rank, world_size=self.world_size, num_lanes=count)


class TrainingState:
    """Networks, optimiser, readers and history of one rank; epochs change it in place.

    Raises DataError, ConfigError or WeightsError for what cannot be trained.
    """

    def __init__(self, config: TrainConfig, worker: Worker) -> None:
        self.config, self.worker = config, worker
        size_px = config.train.image_size_px
        read = partial(
            ClipReader,
            image_size_px=size_px,
            input_kind=AUDIO_NETWORKS[config.model.audio_network].build.input_kind,
        )
        self.reader = read(config.data.folders, split="train")
        class_names = self.reader.manifest.format.class_names
        validated = with_val(self.reader)
        check_off_screen(config, self.reader)
        self.val_reader = read(validated, split="val") if validated else None
        semantic = len(class_names) > 2
        check_num_classes(config.model.num_classes, class_names)
        self.model_config = replace(
            config.model,
            num_classes=len(class_names) if semantic else 1,
            category_names=category_names(config.model, self.reader),
        )
        self.loss_config: LossConfig = loss_of(config.loss, class_names)
        self.clip = clip_spec(self.reader.manifest, size_px)
        torch.manual_seed(config.seed)
        self.system: AvsSystem = build_system(self.model_config).to(worker.device)
        if config.train.sync_batch_norm:
            _synchronise(self.system)
        prepare_networks(self.system, model=self.model_config, loop=config.train)
        self.optimizer = build_optimizer(self.system, config.train)
        self.scaler = GradScaler(
            worker.device.type, enabled=config.train.precision is Precision.FP16
        )
        self.average: WeightAverage | None = None
        if config.train.ema_decay is not None:
            self.average = WeightAverage(self.system, decay=config.train.ema_decay)
        self.ddp: nn.Module  # of an epoch: start_epoch() makes it
        self._backbone = self.system.segmenter.get_submodule("backbone")
        self._trainable = [p for p in self._backbone.parameters() if p.requires_grad]
        self._frozen: bool | None = None
        self.history: list[EpochMetrics] = []
        self.tally: Tally | None = None  # of an epoch that was begun
        self.goes_on = False  # from a checkpoint, until the next step
        self.lineage: Lineage | None = None  # of rank 0, which writes it
        self.gradient_norm: float | None = None  # of the last step, where clipping measures it
        self.num_lanes = worker.num_lanes or worker.world_size
        self.statistics = LaneBuffers(
            self.system,
            lanes=worker.lanes,
            num_rounds=self.num_parts // config.train.accumulate_steps,
            several=self.num_lanes != worker.world_size,
        )
        self.cut = Cut(
            num_lanes=self.num_lanes,
            batch_size=config.train.batch_size,
            accumulate_steps=config.train.accumulate_steps,
        )
        self.num_steps = steps_per_epoch(
            epoch_size(self.folder_sizes, config.data.weights), global_batch=self.cut.global_batch
        )

    @property
    def parts(self) -> list[tuple[int, int]]:
        """The lane and the place in it of each micro-batch of this rank in a step, in order."""
        count = self.config.train.accumulate_steps
        return [(lane, part) for lane in self.worker.lanes for part in range(count)]

    @property
    def num_parts(self) -> int:
        """Micro-batches of a step on the first rank, which has the most."""
        first = replace(self.worker, rank=0)
        return len(first.lanes) * self.config.train.accumulate_steps

    @property
    def folder_sizes(self) -> list[int]:
        """Train clips of each folder, as the rows of the reader follow each other."""
        return [sum(own) for own in self.reader.shard_sizes]

    def weights(self) -> dict[str, Tensor]:
        """What is validated and saved: the average where there is one."""
        if self.average is None:
            return self.system.state_dict()
        return self.average.state_dict(self.system)

    def start_epoch(self, epoch: int) -> None:
        """Put the networks in training mode for an epoch (from 1), the backbone as it says."""
        frozen = epoch <= self.config.train.frozen_backbone_epochs
        if frozen is not self._frozen:
            self._frozen = frozen
            for parameter in self._trainable:
                parameter.requires_grad_(not frozen)
            self.ddp = self.worker.wrap(self.system)  # DDP looks once at what there is to share
        if self.tally is None:  # else the epoch was begun, and each lane has its own
            self.statistics.begin()
        self.ddp.train()
        if frozen:
            self._backbone.eval()


def _synchronise(system: AvsSystem) -> None:
    """Batch norms over all workers, but for the audio network: frozen ones keep their statistics,
    the small one its own rule."""
    convert = nn.SyncBatchNorm.convert_sync_batchnorm
    system.segmenter = convert(system.segmenter)  # type: ignore[no-untyped-call]
