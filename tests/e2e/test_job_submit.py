"""Jobs sent with ``ray job submit`` to a running head node, as the documentation says.

One head node for each authentication mode: Ray turns tokens on by itself where it finds one, so
both ways must work.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from heads import Head, running_head
from submit_chain import Chain
from submit_inputs import make_inputs, upload
from submit_lines import documents, in_order


@pytest.fixture(scope="module", params=["disabled", "token"])
def head(request: pytest.FixtureRequest, s3_address: str) -> Iterator[Head]:
    """A head node whose jobs reach the made-up S3."""
    secrets = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    places = {"AWS_ENDPOINT_URL": s3_address, "AWS_DEFAULT_REGION": "us-east-1"}
    with running_head(request.param, env=secrets | places) as found:
        yield found


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the lines expect it in their bucket."""
    return make_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.mark.timeout(600)
def test_submitted_job_prepares_clips(head: Head, tmp_path: Path) -> None:
    out = tmp_path / "prepared"
    printed = head.submit(
        *("python", "jobs/prepare.py", "data=synthetic", f"data.root={tmp_path / 'raw'}"),
        *(f"out={out}", "data.image_size_px=64", "data.synthetic.size_px=64"),
        *(
            f"data.synthetic.num_{split}={n}"
            for split, n in (("train", 4), ("val", 2), ("test", 2))
        ),
    )
    assert "8 ok, 0 rejected" in printed
    counts = json.loads((out / "manifest.json").read_text())["counts"]
    assert (counts["input"], counts["ok"], counts["rejected"]) == (8, 8, 0)
    assert {name: split["ok"] for name, split in counts["by_split"].items()} == {
        "train": 4,
        "val": 2,
        "test": 2,
    }


@pytest.mark.timeout(600)
def test_workers_import_the_uploaded_code(head: Head) -> None:
    if head.env["RAY_AUTH_MODE"] == "token":
        assert head.status("/api/jobs/", token="") == 401
    code = "import avs, ray; ray.init(); print(ray.get(ray.remote(lambda: avs.__file__).remote()))"
    assert "/runtime_resources/py_modules_files/" in head.submit("python", "-c", code)


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("document", documents())
def test_every_line_of_the_documentation_runs(
    head: Head, document: str, inputs: Path, s3_folder: str, tmp_path: Path
) -> None:
    """In the order in which one needs what another makes; ``-s`` shows the seconds of each."""
    upload(inputs, s3_folder)
    chain = Chain(head=head, uri=s3_folder, folder=tmp_path)
    for line in in_order(documents()[document]):
        print(f"\n{head.env['RAY_AUTH_MODE']}: {line.source}: {line.job}: ", end="", flush=True)
        print(f"{chain.run(line):.0f} s", flush=True)
