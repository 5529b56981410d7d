r"""Train a segmentation model on prepared clips; the same command resumes a run that was killed.

Here:
    python jobs/train.py model=tpavi model.audio_weights=vggish.pth data.prepared=DIR out=DIR
    python jobs/train.py experiment=tpavi_s4_pvt model.audio_weights=... data.prepared=... out=...
On a cluster:
    ray job submit --address http://HEAD:8265 --runtime-env cluster/runtime_env.yaml -- \
        python jobs/train.py model=tiny scale=cluster data.prepared=s3://BUCKET/s4 out=s3://BUCKET/run
"""

import hydra
from _launch import connect, run
from omegaconf import DictConfig

from avs.config import parse
from avs.training import TrainConfig


@hydra.main(version_base="1.3", config_path="../configs", config_name="train")
def main(cfg: DictConfig) -> None:
    config = parse(cfg, TrainConfig)
    with connect():
        from avs.training.distributed import train_distributed

        train_distributed(config)


if __name__ == "__main__":
    run(main, TrainConfig)
