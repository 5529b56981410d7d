"""Start and stop the service on the connected Ray cluster.

Everything that can be wrong with a configuration is checked in the driver first: in a replica it
would be a constructor that Serve tries again and again. Serve's address and time limits cannot
change while it runs, so a cluster with a running Serve is refused, not joined; a service that a
driver has left behind is ended first.
"""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.exceptions import RayServeException
from ray.serve.schema import ApplicationStatus

from avs.errors import AvsError, ConfigError
from avs.serving.batches_ray import check_job_server, with_program
from avs.serving.config import ServeConfig
from avs.serving.parts import APP_NAME
from avs.serving.rollout import QUIET, Rollout
from avs.serving.tokens import read_tokens

__all__ = ["serve_checkpoint", "start", "stop"]

_CONTROLLER = ("SERVE_CONTROLLER_ACTOR", "serve")  # name and namespace
_POLL_S = 0.2
_STOP_TIMEOUT_S = 30.0
_DRAIN_TIMEOUT_S = 60.0


def serve_checkpoint(
    config: ServeConfig, *, jobs: Path | None = None, say: Callable[[str], None] | None = None
) -> None:
    """Serve until Ctrl-C or SIGTERM, then finish what runs and shut Serve down.

    SIGHUP, and ``reload_s`` by itself, look for newer checkpoints in the same places. ``say``
    prints unless given. ``jobs``: the folder of jobs/serve.py, for the program of batches.

    Raises:
        ConfigError, CheckpointError, AvsError: the service cannot start.
    """
    say = say or partial(print, flush=True)  # at once, into a log file too
    look = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: look.set())
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        url, rollout = start(config, jobs=jobs, say=say)
        try:
            for line in _greeting(url, host=config.host, has_tokens=rollout.has_tokens):
                say(line)
            while True:
                was_asked = look.wait(config.reload_s)
                look.clear()
                if not rollout.look() and was_asked:
                    say("serve: no other checkpoint is taken over")
        finally:
            say("serve: finishing what runs, at most a minute; Ctrl-C again ends it now")
            stop(rollout)
    except KeyboardInterrupt:
        say("serve: stopped")
    finally:
        signal.signal(signal.SIGTERM, previous)


def start(
    config: ServeConfig,
    *,
    environ: Mapping[str, str] | None = None,
    jobs: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[str, Rollout]:
    """Deploy and wait until a request would be answered; returns the base URL, and what takes over
    newer checkpoints.

    Needs ``ray.init`` before. ``environ`` (``os.environ``) holds AVS_API_TOKENS.

    Raises:
        ConfigError: no tokens for an open address, a taken port, too few CPUs or GPUs.
        CheckpointError: a checkpoint is missing, incomplete, of another version or does not fit.
        AvsError: Serve runs already, or the replicas did not come up.
    """
    environ = os.environ if environ is None else environ
    tokens = read_tokens(environ, access=config.access, host=config.host)
    if not tokens:
        say(f"serve: no tokens: whoever can reach {config.host} on this machine may use it")
    if _is_left_behind():
        say("serve: a driver that was killed has left its service behind; ending it")
        stop()
    _check_serve_is_free(config)
    config = replace(config, batches=with_program(config.batches, jobs=jobs))
    check_job_server(config.batches)
    rollout = Rollout(config, tokens=tokens, say=say)
    try:
        _deploy(rollout, config)
    except BaseException:
        stop()
        raise
    return rollout.url, rollout


def stop(rollout: Rollout | None = None) -> None:
    """Finish what runs of ``rollout``, within ``_DRAIN_TIMEOUT_S``, then end replicas and proxies.
    Does nothing where none are."""
    with suppress(KeyboardInterrupt):  # a second one: do not wait
        if rollout is not None:
            _drain(rollout)
    # serve.shutdown alone waits in a call that the dying controller never answers, which Ray then
    # reports on the terminal as a failed task.
    try:
        controller: Any = ray.get_actor(*_CONTROLLER)
        ray.get(controller.graceful_shutdown.remote(wait=False))
        deadline_s = time.monotonic() + _STOP_TIMEOUT_S
        while _is_serve_running() and time.monotonic() < deadline_s:
            time.sleep(_POLL_S)
    except (ValueError, ray.exceptions.RayActorError):
        pass  # it is gone already
    serve.shutdown()  # type: ignore[no-untyped-call]
    if rollout is not None:
        rollout.scratch.clear()


def _drain(rollout: Rollout) -> None:
    """Wait until nothing runs: Serve alone would end decoders under their requests.

    By HTTP, because a handle in the driver would keep a call to the controller open, which Ray
    reports on the terminal when the controller goes.
    """
    try:
        rollout.deploy(is_open=False)
        deadline_s = time.monotonic() + _DRAIN_TIMEOUT_S
        while time.monotonic() < deadline_s and "stopped" not in _ready_answer(rollout.url):
            time.sleep(_POLL_S)
    except (OSError, ray.exceptions.RayError, RayServeException):
        pass  # it is gone already, or going


def _ready_answer(url: str) -> str:
    """What /readyz says, empty when it is ready; raises OSError where nobody answers."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url + "/readyz", timeout=5).close()
    except urllib.error.HTTPError as error:
        with error:
            return error.read().decode(errors="replace")
    return ""


def _deploy(rollout: Rollout, config: ServeConfig) -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        # No time limit here: it would end live sessions; the app has its own, which say why.
        http_options=HTTPOptions(host=config.host, port=config.port),
        logging_config=QUIET,
    )
    rollout.deploy()
    deadline_s = time.monotonic() + config.start_timeout_s
    while trouble := _trouble(rollout.url):
        if time.monotonic() > deadline_s:
            raise AvsError(
                f"the service did not start within start_timeout_s={config.start_timeout_s:g}: "
                f"{trouble}"
            )
        time.sleep(_POLL_S)


def _trouble(url: str) -> str:
    """What is not there yet, empty when a request would be answered.

    Raises AvsError when it will never be.
    """
    application = serve.status().applications[APP_NAME]
    parts = application.deployments.items()
    messages = {name: part.message.strip() for name, part in parts}
    # The last line of a failed constructor's traceback is the error itself.
    what = "; ".join(f"{name}: {m.splitlines()[-1]}" for name, m in messages.items() if m)
    if application.status is ApplicationStatus.DEPLOY_FAILED:
        raise AvsError(f"the service could not start: {what or application.message}")
    if application.status is not ApplicationStatus.RUNNING:
        return what or application.status.value
    try:
        return _ready_answer(url)
    except OSError as error:
        return f"GET {url}: {error}"


def _check_serve_is_free(config: ServeConfig) -> None:
    if _is_serve_running():
        raise AvsError(
            "Ray Serve already runs in this cluster; its address cannot be changed: stop it with "
            "`serve shutdown`, or use another cluster."
        )
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            config.host, config.port, type=socket.SOCK_STREAM
        )[0]
    except OSError as error:
        raise ConfigError(f"host={config.host} is not an address: {error.strerror}") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise ConfigError(f"port={config.port} is taken: give another port.") from None
            # Not this machine's address: the driver may run beside the head node.


def _is_serve_running() -> bool:
    return _controller() is not None


def _is_left_behind() -> bool:
    """Whether Serve runs for a service of ours alone, and the driver that started it is dead.

    Serve outlives its driver, which leaves nobody who could stop, drain or reload the service.
    """
    controller = _controller()
    if controller is None:
        return False
    owner = controller._ray_actor_id.job_id.hex()  # Ray has no public way to ask without dashboard
    dead = {job["JobID"] for job in ray._private.state.jobs() if job["IsDead"]}  # type: ignore[no-untyped-call]
    return owner in dead and set(serve.status().applications) <= {APP_NAME}


def _controller() -> Any:
    """Serve's controller; None where Serve does not run."""
    try:
        return ray.get_actor(*_CONTROLLER)
    except ValueError:
        return None


def _greeting(url: str, *, host: str, has_tokens: bool) -> list[str]:
    also = " and at every address of this machine" if host in ("0.0.0.0", "::") else ""
    token = '-H "Authorization: Bearer TOKEN" ' if has_tokens else ""
    curl = f"curl {token}-F file=@VIDEO.mp4"
    return [
        f"serve: ready at {url}{also} (Ctrl-C stops it)",
        f"  page:    {url}/   (documentation: {url}/docs)",
        f"  masks:   {curl} {url}/v1/segment",
        f"  overlay: {curl} -o overlay.mp4 '{url}/v1/segment?format=overlay'",
    ]
