r"""Measure a stage beside a bare loop or the published form, or what every model costs, in turns.

Here (quick=true for a smoke run; videos=DIR for your own instead of synthetic ones):
    python jobs/benchmark.py stage=prepare num_clips=600 "out='outputs/benchmark'"
    python jobs/benchmark.py stage=models "models.cases=[step,forward]" models.cost=false
    python jobs/benchmark.py stage=models "models.cases=[]" repeats=3  # the cost table alone
    python jobs/benchmark.py stage=train repeats=7 "train.cases=[scaling]"
    python jobs/benchmark.py stage=train 'train.overrides=["model=tpavi","train.batch_size=2"]'
    python jobs/benchmark.py stage=serve "serve.models=[tiny]"
    python jobs/benchmark.py stage=segment num_clips=400 "segment.models=[tiny,tpavi]"
On a cluster it measures the head node:
    ray job submit --address http://HEAD:8265 --runtime-env cluster/runtime_env.yaml \
        --entrypoint-num-cpus 2 -- python jobs/benchmark.py stage=prepare out=/tmp/benchmark
"""

from pathlib import Path

import hydra
from _launch import run
from omegaconf import DictConfig

from avs.benchmark import BenchmarkConfig, run_benchmark
from avs.config import parse


@hydra.main(version_base="1.3", config_path="../configs", config_name="benchmark")
def main(cfg: DictConfig) -> None:
    config = parse(cfg, BenchmarkConfig)
    run_benchmark(config, jobs=Path(__file__).parent)


if __name__ == "__main__":
    run(main, BenchmarkConfig)
