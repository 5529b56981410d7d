"""A service whose driver was killed: the next one ends it, and takes its place."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
import ray
from serving_service import serve_config

from avs.serving import service


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.usefixtures("ray_cluster")
def test_a_new_service_ends_the_one_that_a_killed_driver_left(tiny_checkpoint: Path) -> None:
    address = ray.get_runtime_context().gcs_address
    command = [sys.executable, __file__, str(tiny_checkpoint), address]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as driver:
        assert driver.stdout is not None
        left = driver.stdout.readline().strip()
        assert httpx.get(f"{left}/readyz", trust_env=False).status_code == 200
        assert not service._is_left_behind()
        driver.kill()
    deadline_s = time.monotonic() + 60
    while not service._is_left_behind():
        assert time.monotonic() < deadline_s, "Ray does not see that the driver is dead"
        time.sleep(0.1)
    assert httpx.get(f"{left}/readyz", trust_env=False).status_code == 200  # it still answers

    said: list[str] = []
    url, _ = service.start(serve_config(tiny_checkpoint), environ={}, say=said.append)
    try:
        assert any("left its service behind" in line for line in said)
        assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
        with pytest.raises(httpx.ConnectError):
            httpx.get(f"{left}/readyz", trust_env=False)
    finally:
        service.stop()


def _serve(checkpoint: str, address: str) -> None:
    ray.init(address, log_to_driver=False, logging_level="warning")
    url, _ = service.start(serve_config(Path(checkpoint)), environ={})
    print(url, flush=True)
    signal.pause()


if __name__ == "__main__":
    _serve(*sys.argv[1:])
