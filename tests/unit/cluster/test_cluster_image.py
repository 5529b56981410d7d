"""The Dockerfile, as far as it can be read without building it."""

from __future__ import annotations

import re
import shlex
from typing import Any

from cluster_files import CLUSTER, ROOT, containers, groups, manifests

TEXT = (CLUSTER / "Dockerfile").read_text()
LINES = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", TEXT, flags=re.M)).splitlines()
STEPS = [line.split(" ", 1) for line in LINES if line]


def arguments(instruction: str) -> list[str]:
    return [rest for name, rest in STEPS if name == instruction]


def test_it_copies_what_exists_and_what_is_let_in() -> None:
    ignore = (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines()
    let_in = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    assert "*" in ignore
    copied = {source for rest in arguments("COPY") for source in shlex.split(rest)[:-1]}
    assert copied == let_in
    assert all((ROOT / source).exists() for source in copied)


def test_jobs_of_the_manifests_lie_where_their_entrypoints_say() -> None:
    assert arguments("WORKDIR") == ["/app"]
    for manifest in manifests():
        entrypoint = manifest["spec"].get("entrypoint", "python /app/jobs/serve.py")
        script = entrypoint.split()[1]
        assert script.startswith("/app/jobs/")
        assert (ROOT / script.removeprefix("/app/")).is_file()


def test_it_runs_as_the_user_of_the_pods() -> None:
    [user] = arguments("USER")
    pods: list[dict[str, Any]] = [g["template"]["spec"] for m in manifests() for g in groups(m)]
    assert {str(pod["securityContext"]["runAsUser"]) for pod in pods} == {user}
    assert user != "0"
    assert all("command" not in container for m in manifests() for container in containers(m))


def test_it_has_what_kuberays_probes_run() -> None:
    [packages] = [rest for rest in arguments("RUN") if "apt-get install" in rest]
    assert {"bash", "wget"} <= set(packages.split())


def test_the_lock_is_installed_before_the_code_and_the_code_alone() -> None:
    installs = [rest for rest in arguments("RUN") if "pip install" in rest]
    assert ["-r requirements.txt" in rest for rest in installs] == [True, False]
    assert "--no-deps" in installs[1]
