r"""Train variants of a model with several seeds, and compare how they listen, with intervals.

Here:
    python jobs/study.py data.prepared=DIR "tests={held_back: DIR}" out=DIR
    python jobs/study.py study=frozen "data.prepared=[S4,MS3]" "tests={s4: S4, ms3: MS3}" \
        'more=["model.backbone_weights=FILE","model.audio_weights=FILE"]' out=DIR
Your own variants, in DIR/study/mine.yaml:
    python jobs/study.py --config-dir DIR study=mine ...
On a cluster:
    ray job submit --address http://HEAD:8265 --runtime-env cluster/runtime_env.yaml -- \
        python jobs/study.py scale=cluster data.prepared=s3://BUCKET/ms3 \
        "tests={ms3: s3://BUCKET/ms3}" out=s3://BUCKET/study
"""

import hydra
from _launch import connect, run
from omegaconf import DictConfig

from avs.config import parse
from avs.overrides import compose_as
from avs.training import TrainConfig
from avs.tuning.study_config import StudyConfig


@hydra.main(version_base="1.3", config_path="../configs", config_name="study")
def main(cfg: DictConfig) -> None:
    config = parse(cfg, StudyConfig)
    # The study sets the folders; the keys must be there to be parsed.
    shared = ["data.prepared=set-by-the-study", "out=set-by-the-study", *config.overrides]
    variants = {
        name: compose_as(
            TrainConfig, "train", [*shared, *own, *config.more], key=f"variants.{name}"
        )
        for name, own in config.variants.items()
    }
    with connect():
        from avs.tuning.study import run_study

        run_study(config, variants)


if __name__ == "__main__":
    run(main, StudyConfig)
