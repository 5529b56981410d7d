r"""Look for what keeps jobs from working, here and on a cluster: a line each, with the cure.

Here, with the storage and the checkpoint that jobs will have:
    python jobs/doctor.py
    python jobs/doctor.py storage=s3://BUCKET/PREFIX checkpoint=RUN
A cluster from outside, or from one of its machines:
    python jobs/doctor.py address=http://HEAD:8265
    python jobs/doctor.py address=auto
On a cluster:
    ray job submit --address http://HEAD:8265 --runtime-env cluster/runtime_env.yaml -- \
        python jobs/doctor.py storage=s3://BUCKET/PREFIX
Exit code 1 where something must be mended, else 0; json=true prints one JSON document.
"""

import sys

import hydra
from _launch import run
from omegaconf import DictConfig

from avs.config import parse
from avs.doctor import DoctorConfig, run_doctor


@hydra.main(version_base="1.3", config_path="../configs", config_name="doctor")
def main(cfg: DictConfig) -> None:
    sys.exit(run_doctor(parse(cfg, DoctorConfig)))


if __name__ == "__main__":
    run(main, DoctorConfig)
