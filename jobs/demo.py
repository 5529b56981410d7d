"""Run every stage once on synthetic videos with sound: what `make demo` runs.

Here (about five minutes on two cores; a second run does only what is missing):
    python jobs/demo.py
"""

import hydra
from _launch import connect, run
from omegaconf import DictConfig

from avs.config import parse
from avs.demo import DemoConfig


@hydra.main(version_base="1.3", config_path="../configs", config_name="demo")
def main(cfg: DictConfig) -> None:
    config = parse(cfg, DemoConfig)
    with connect():
        from avs.demo.stages import run_demo

        run_demo(config)


if __name__ == "__main__":
    run(main, DemoConfig)
