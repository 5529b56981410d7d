r"""Serve a checkpoint over HTTP until Ctrl-C: POST /v1/segment, GET /healthz, GET /readyz.

Here:
    python jobs/serve.py checkpoint=RUN host=127.0.0.1 port=8000
    curl -F file=@VIDEO.mp4 http://127.0.0.1:8000/v1/segment
Open to other machines (tokens, comma-separated, are then needed):
    AVS_API_TOKENS=TOKEN python jobs/serve.py checkpoint=RUN host=0.0.0.0
On a cluster:
    ray job submit --address http://HEAD:8265 --runtime-env cluster/runtime_env.yaml -- \
        python jobs/serve.py scale=cluster checkpoint=s3://BUCKET/run
"""

import os
from pathlib import Path

import hydra
from _launch import connect, run
from omegaconf import DictConfig

from avs.config import parse
from avs.serving.config import ServeConfig
from avs.serving.tokens import read_tokens


@hydra.main(version_base="1.3", config_path="../configs", config_name="serve")
def main(cfg: DictConfig) -> None:
    config = parse(cfg, ServeConfig)
    read_tokens(
        os.environ, access=config.access, host=config.host
    )  # an open door is refused before Ray starts
    with connect(has_jobs=config.batches.is_on):
        from avs.serving.service import serve_checkpoint

        serve_checkpoint(config, jobs=Path(__file__).parent)


if __name__ == "__main__":
    run(main, ServeConfig)
