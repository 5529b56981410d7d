r"""Search fusion hyperparameters: the best trial as a YAML for jobs/train.py, and its checkpoint.

Killed or stopped, the same command goes on; with a larger budget it searches further.
Here, with the space that configs/search has for the model, or with your own:
    python jobs/tune.py data.prepared=DIR out=DIR search.num_trials=8
    python jobs/tune.py data.prepared=DIR out=DIR model=avsc_tiny search.sampler=tpe \
        search.num_trials=null search.max_seconds=3600 "search.objectives=[j,latency]"
    python jobs/tune.py data.prepared=DIR out=DIR search.sampler=grid search.num_trials=null \
        "search.space=[{key: model.options.fusion_width, choice: [16, 32]}]"
On a cluster:
    ray job submit --address http://HEAD:8265 --runtime-env cluster/runtime_env.yaml -- \
        python jobs/tune.py scale=cluster search=full data.prepared=s3://BUCKET/ms3 \
        out=s3://BUCKET/sweep
"""

import hydra
from _launch import connect, run
from omegaconf import DictConfig

from avs.config import parse
from avs.tuning import TuneConfig


@hydra.main(version_base="1.3", config_path="../configs", config_name="tune")
def main(cfg: DictConfig) -> None:
    config = parse(cfg, TuneConfig)
    with connect():
        from avs.tuning.sweep import tune_sweep

        tune_sweep(config)


if __name__ == "__main__":
    run(main, TuneConfig)
