"""Stage ``serve``: the service beside an empty graph, a bare loop and a plain server.

What Serve and the service cost a request is seen at one client, where all contenders run and get
the same clip within a second or two: a request's overhead is what it takes longer than the bare
loop with that clip, and that of the empty graph is all of its time. What Ray uses at rest slows the
bare loop then, too, so the difference is the request's own; how much it is, is told. What many
clients get is measured with one contender at a time on the machine, started for it: what Ray uses
at rest is in the service's rate and in no other.
"""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from avs.benchmark.clips import synthetic_videos
from avs.benchmark.config import BenchmarkConfig
from avs.benchmark.frame import Contender, interleave, machine, machine_line
from avs.benchmark.serve_figures import loop_figures, turn_figures
from avs.benchmark.serve_load import Send, closed_loop, take_turns
from avs.benchmark.serve_models import random_checkpoint
from avs.benchmark.serve_report import AVS, BARE, EMPTY, PLAIN, WHAT, serve_report
from avs.benchmark.serve_services import Contenders, idle_cores
from avs.benchmark.serve_sizes import empty_sizes
from avs.errors import AvsError
from avs.storage import write_bytes, write_json

__all__ = ["benchmark_serve"]

_WARM_TURNS = 3
_IDLE_S, _QUICK_IDLE_S = 10.0, 0.5

ModelRuns = dict[str, Any]


def benchmark_serve(
    config: BenchmarkConfig, *, jobs: Path, say: Callable[[str], None] = print
) -> str:
    """Measure; write ``benchmark.json`` and ``benchmark.md`` below ``config.out``; returns the md.

    ``jobs`` is the folder of the jobs. To be called inside a Hydra main: the models are composed
    from their files.

    Raises:
        ConfigError: an unknown model. AvsError: a contender failed, or gave other masks.
    """
    # By default Python would end at once, and leave the contenders behind.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    stage, here, out = config.serve, machine(), Path(config.out).absolute()
    clips = synthetic_videos(out / f"clips-{stage.num_clips}", count=stage.num_clips)
    checkpoints = {
        model: random_checkpoint(model, out / "checkpoints", num_threads=stage.num_threads)
        for model in stage.models
    }
    results: dict[str, ModelRuns] = {}
    text = ""
    for model, checkpoint in checkpoints.items():
        contenders = Contenders(
            jobs=jobs,
            checkpoint=checkpoint,
            clips=clips,
            logs=out / "logs" / model,
            max_clients=stage.clients,
        )
        say(f"benchmark: {model}")
        results[model] = _one_client(config, contenders, say)
        results[model]["many"] = _many_clients(config, contenders, results[model]["windows"], say)
        report, plain = serve_report(config, results)
        text = f"{report}\n{machine_line(here)}"  # what stands, before the next model
        write_json(f"{out}/benchmark.json", {"machine": here, "settings": asdict(stage), **plain})
        write_bytes(f"{out}/benchmark.md", text.encode())
    say(text)
    return text


def _one_client(
    config: BenchmarkConfig, contenders: Contenders, say: Callable[[str], None]
) -> ModelRuns:
    """``one``: figures by contender and repeat, all of which run side by side. windows: of a clip.
    idle_cores: of the service."""
    stage = config.serve
    with ExitStack() as running:
        avs, pid = running.enter_context(contenders.avs())
        idle = idle_cores(pid, seconds=_QUICK_IDLE_S if config.quick else _IDLE_S)
        senders: dict[str, Send] = {
            AVS: avs,
            PLAIN: running.enter_context(contenders.plain()),
            BARE: running.enter_context(contenders.bare()),
        }
        bodies = _same_masks(senders, num_clips=stage.num_clips)
        sizes = empty_sizes(contenders.checkpoint, bodies)
        senders[EMPTY] = running.enter_context(contenders.empty(sizes))
        take_turns(senders, num_requests=_WARM_TURNS, round_s=stage.round_s)
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in senders}
        for repeat in range(config.repeats):
            turns = take_turns(senders, num_requests=stage.requests, round_s=stage.round_s)
            for name, figures in turn_figures(turns, base=BARE, without=(EMPTY,)).items():
                runs[name].append(figures)
            shown = ", ".join(f"{n} {f[-1]['p50_ms']:.4g} ms" for n, f in runs.items())
            say(f"benchmark: {repeat + 1}/{config.repeats} one client: {shown}")
    return {"one": runs, "windows": sizes.num_windows, "idle_cores": idle}


def _many_clients(
    config: BenchmarkConfig,
    contenders: Contenders,
    num_windows: int,
    say: Callable[[str], None],
) -> dict[str, list[dict[str, float]]]:
    """Figures by contender and repeat, each alone on the machine."""

    def contender(name: str) -> Contender:
        def run(_: int) -> Mapping[str, float]:
            with ExitStack() as running:
                send: Send
                if name == AVS:
                    send, _pid = running.enter_context(contenders.avs())
                elif name == PLAIN:
                    send = running.enter_context(contenders.plain())
                else:
                    send = running.enter_context(contenders.bare())
                num_clients = 1 if name == BARE else config.serve.clients
                answers = closed_loop(
                    send,
                    num_clients=num_clients,
                    num_requests=config.serve.requests,
                    round_s=config.serve.round_s,
                )
            return loop_figures(
                answers, num_clients=num_clients, num_windows=num_windows, name=name
            )

        return Contender(name=name, what=WHAT[name], run=run)

    names = (AVS, PLAIN, BARE)
    return interleave([contender(name) for name in names], repeats=config.repeats, say=say)


def _same_masks(senders: Mapping[str, Send], *, num_clips: int) -> Sequence[bytes]:
    """One answer of the service for each clip. Raises AvsError where others' masks differ."""
    bodies = []
    for index in range(num_clips):
        answers = {name: send(index) for name, send in senders.items()}
        for name, answer in answers.items():
            if answer.status != 200:
                said = answer.body[-300:].decode(errors="replace")
                raise AvsError(f"{name} answered {answer.status}: {said}")
        masks = {name: json.loads(a.body)["masks"] for name, a in answers.items()}
        wrong = [name for name in masks if masks[name] != masks[AVS]]
        if wrong:
            raise AvsError(f"{', '.join(wrong)} gave other masks than {AVS}: no comparison")
        bodies.append(answers[AVS].body)
    return bodies
