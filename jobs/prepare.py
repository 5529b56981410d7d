r"""Prepare videos or an AVSBench folder: Parquet clip rows, rejects and a manifest.

Here:
    python jobs/prepare.py data=s4 data.root=DIR out=DIR
On a cluster (absolute paths or s3:// prefixes that all nodes reach):
    ray job submit --address http://HEAD:8265 --runtime-env cluster/runtime_env.yaml -- \
        python jobs/prepare.py data=s4 data.root=s3://BUCKET/Single-source out=s3://BUCKET/s4
The same command again does what is missing. ``dry_run=true`` only shows the plan,
``retry_rejects=true`` tries rejected clips again. Exit code 3: more rejects than max_reject_ratio.

Then, where the audio network is frozen, once instead of in every epoch what it makes of the sound:
    python jobs/prepare.py stage=features prepared=DIR \
        model.audio_network=vggish model.audio_weights=vggish.pth
    ray job submit --address http://HEAD:8265 --runtime-env cluster/runtime_env.yaml -- \
        python jobs/prepare.py stage=features prepared=s3://BUCKET/s4 \
        model.audio_network=vggish model.audio_weights=s3://BUCKET/weights/vggish-10086976.pth
Training on DIR with this network uses it and says so; ``scale=gpu`` computes it on GPUs.
"""

import hydra
from _launch import connect, run
from omegaconf import DictConfig

from avs.prepare import PrepareConfig
from avs.prepare.stages import parse_stage, run_stage


@hydra.main(version_base="1.3", config_path="../configs", config_name="prepare")
def main(cfg: DictConfig) -> None:
    config = parse_stage(cfg)
    with connect():
        run_stage(config)


if __name__ == "__main__":
    run(main, PrepareConfig)
