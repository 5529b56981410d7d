r"""Make a checkpoint of the authors' weights, for evaluate, segment and serve; nothing is trained.

Here (experiment= and data= are those that the file was trained with):
    python jobs/import_official.py experiment=tpavi_s4_pvt data=s4 official=S4_pvt.pth \
        model.audio_weights=vggish-10086976.pth out=DIR
    python jobs/import_official.py experiment=tpavi_avss_r50 data=avss official=AVSS_resnet.pth \
        model.audio_weights=... out=...
On a cluster:
    ray job submit --address http://HEAD:8265 --runtime-env cluster/runtime_env.yaml -- \
        python jobs/import_official.py experiment=tpavi_s4_pvt data=s4 \
        official=s3://BUCKET/weights/S4_pvt.pth \
        model.audio_weights=s3://BUCKET/weights/vggish-10086976.pth out=s3://BUCKET/official
"""

import hydra
from _launch import run
from omegaconf import DictConfig

from avs.config import parse
from avs.training.official_checkpoint import ImportConfig, import_checkpoint


@hydra.main(version_base="1.3", config_path="../configs", config_name="import_official")
def main(cfg: DictConfig) -> None:
    import_checkpoint(parse(cfg, ImportConfig))


if __name__ == "__main__":
    run(main, ImportConfig)
