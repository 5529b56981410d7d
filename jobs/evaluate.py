r"""Score a checkpoint: J and F with the true, a silent and another clip's sound, and a report.

Here:
    python jobs/evaluate.py checkpoint=RUN data.prepared=DIR split=test out=DIR
With every visible object and how much it sounds (avsc):
    python jobs/evaluate.py checkpoint=RUN data.prepared=DIR split=test out=DIR objects=true
On a cluster:
    ray job submit --address http://HEAD:8265 --runtime-env cluster/runtime_env.yaml -- \
        python jobs/evaluate.py scale=cluster checkpoint=s3://BUCKET/run \
        data.prepared=s3://BUCKET/s4 split=test out=s3://BUCKET/eval
"""

import hydra
from _launch import connect, run
from omegaconf import DictConfig

from avs.config import parse
from avs.inference.config import EvaluateConfig


@hydra.main(version_base="1.3", config_path="../configs", config_name="evaluate")
def main(cfg: DictConfig) -> None:
    config = parse(cfg, EvaluateConfig)
    with connect():
        from avs.inference.evaluation import evaluate

        evaluate(config)


if __name__ == "__main__":
    run(main, EvaluateConfig)
