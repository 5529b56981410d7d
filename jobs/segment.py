r"""Segment a video, a folder or an s3:// prefix: masks, indexed PNGs and overlays with sound.

Here:
    python jobs/segment.py checkpoint=RUN input=VIDEO out=DIR "outputs=[rle_json,png,overlay]"
On a cluster:
    ray job submit --address http://HEAD:8265 --runtime-env cluster/runtime_env.yaml -- \
        python jobs/segment.py scale=cluster checkpoint=s3://BUCKET/run input=s3://BUCKET/videos \
        out=s3://BUCKET/masks
"""

import hydra
from _launch import connect, run
from omegaconf import DictConfig

from avs.config import parse
from avs.inference.config import SegmentConfig


@hydra.main(version_base="1.3", config_path="../configs", config_name="segment")
def main(cfg: DictConfig) -> None:
    config = parse(cfg, SegmentConfig)
    with connect():
        from avs.inference.bucket.run import segment_bucket

        segment_bucket(config)


if __name__ == "__main__":
    run(main, SegmentConfig)
