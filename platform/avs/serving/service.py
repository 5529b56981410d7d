"""Start and stop the service on the connected Ray cluster.

Everything that can be wrong with a configuration is checked in the driver first: in a replica it
would be a constructor that Serve tries again and again. Serve's address and time limits cannot
change while it runs, so a cluster with a running Serve is refused, not joined.
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
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.schema import ApplicationStatus, LoggingConfig

from avs.errors import AvsError, ConfigError
from avs.inference.predictor import Predictor
from avs.scale import ScaleConfig
from avs.serving.config import ServeConfig
from avs.serving.deployments import APP_NAME, INGRESS_CPUS, build_application
from avs.serving.limits import Limits
from avs.serving.tokens import TOKENS_VARIABLE, token_digests
from avs.training.resolve import find_checkpoint

__all__ = ["serve_checkpoint", "start", "stop"]

_CONTROLLER = ("SERVE_CONTROLLER_ACTOR", "serve")  # name and namespace
_POLL_S = 0.2
_STOP_TIMEOUT_S = 30.0


def serve_checkpoint(config: ServeConfig, *, say: Callable[[str], None] | None = None) -> None:
    """Serve until Ctrl-C or SIGTERM, then shut Serve down. ``say`` prints unless given.

    Raises:
        ConfigError, CheckpointError, AvsError: the service cannot start.
    """
    say = say or partial(print, flush=True)  # at once, into a log file too
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        found = find_checkpoint(config.checkpoint)
        say(f"serve: with {found}")
        url = start(replace(config, checkpoint=found.uri))
        try:
            for line in _greeting(url, has_tokens=bool(os.environ.get(TOKENS_VARIABLE))):
                say(line)
            threading.Event().wait()
        finally:
            stop()
    except KeyboardInterrupt:
        say("serve: stopped")
    finally:
        signal.signal(signal.SIGTERM, previous)


def start(config: ServeConfig, *, environ: Mapping[str, str] | None = None) -> str:
    """Deploy and wait until a request would be answered; returns the base URL.

    Needs ``ray.init`` before. ``environ`` (``os.environ``) holds AVS_API_TOKENS.

    Raises:
        ConfigError: no tokens for an open address, a taken port, too few CPUs or GPUs.
        CheckpointError: the checkpoint is missing, incomplete, of another version or does not fit.
        AvsError: Serve runs already, or the replicas did not come up.
    """
    digests = token_digests(os.environ if environ is None else environ, host=config.host)
    checkpoint = Predictor.from_checkpoint(config.checkpoint).checkpoint.uri
    num_segmenters = _num_segmenters(config.scale)
    _check_serve_is_free(config)
    limits = Limits(
        max_body_bytes=config.max_body_bytes,
        max_open_requests=num_segmenters + config.max_queued_requests,
        upload_timeout_s=config.upload_timeout_s,
        request_timeout_s=config.request_timeout_s,
        token_digests=digests,
    )
    application = build_application(
        checkpoint,
        limits=limits,
        max_duration_s=config.max_duration_s,
        num_segmenters=num_segmenters,
        scale=config.scale,
    )
    try:
        _deploy(application, config)
    except BaseException:
        stop()
        raise
    return _base_url(config)


def stop() -> None:
    """Shut Serve down: running requests end, replicas and proxies go. Does nothing without one."""
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


def _deploy(application: serve.Application, config: ServeConfig) -> None:
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    quiet = LoggingConfig(log_level="WARNING", enable_access_log=False)
    serve.start(
        proxy_location=ProxyLocation.HeadOnly,
        http_options=HTTPOptions(
            host=config.host,
            port=config.port,
            # The last resort behind the app's own limits, which answer in words.
            request_timeout_s=config.upload_timeout_s + config.request_timeout_s + 10,
        ),
        logging_config=quiet,
    )
    target = serve.RunTarget(target=application, name=APP_NAME, logging_config=quiet)
    serve.run_many([target], wait_for_applications_running=False)
    deadline_s = time.monotonic() + config.start_timeout_s
    while trouble := _trouble(_base_url(config) + "/readyz"):
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
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=5).close()
    except OSError as error:
        return f"GET {url}: {error}"
    return ""


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
    try:
        ray.get_actor(*_CONTROLLER)
    except ValueError:
        return False
    return True


def _num_segmenters(scale: ScaleConfig) -> int:
    """``scale.num_workers``, or as many as fit into the cluster beside the ingress."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    cpus, gpus = there.get("CPU", 0.0) - INGRESS_CPUS, there.get("GPU", 0.0)
    size = scale.num_workers
    for each, total in ((scale.cpus_per_worker, cpus), (scale.gpus_per_worker, gpus)):
        if each:
            size = min(size, int(total / each))
    if size < 1:
        raise ConfigError(
            f"scale asks for {scale.cpus_per_worker:g} CPUs and {scale.gpus_per_worker:g} GPUs a "
            f"segmenter, beside {INGRESS_CPUS} CPUs for the HTTP side; the cluster has "
            f"{there.get('CPU', 0):g} CPUs and {gpus:g} GPUs: lower scale.cpus_per_worker."
        )
    return size


def _base_url(config: ServeConfig) -> str:
    """Where this machine reaches the service: an address for "everywhere" is none to call."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(config.host, config.host)
    return f"http://[{host}]:{config.port}" if ":" in host else f"http://{host}:{config.port}"


def _greeting(url: str, *, has_tokens: bool) -> list[str]:
    token = '-H "Authorization: Bearer TOKEN" ' if has_tokens else ""
    curl = f"curl {token}-F file=@VIDEO.mp4"
    return [
        f"serve: ready at {url} (Ctrl-C stops it)",
        f"  masks:   {curl} {url}/v1/segment",
        f"  overlay: {curl} -o overlay.mp4 '{url}/v1/segment?format=overlay'",
    ]
