"""Submit lines of the documentation: each is found, known, and composes as the job would do it."""

from __future__ import annotations

from pathlib import Path

import pytest
from heads import ROOT, Head
from submit_chain import CHECKS, Chain
from submit_lines import JOBS, SubmitLine, documents, found_in, in_order, parsed

from avs.errors import ConfigError

LINES = [line for lines in documents().values() for line in lines]
LAPTOP_ONLY = {"_launch", "demo"}
HEAD = Head(address="http://127.0.0.1:1", env={})


def fill(line: SubmitLine) -> SubmitLine:
    return line.filled(Chain(HEAD, "s3://bucket-1/data", Path("here")).table())


def made_up(tmp_path: Path, text: str) -> list[SubmitLine]:
    page = tmp_path / "page.md"
    page.write_text(text)
    return found_in(page)


@pytest.mark.parametrize("line", LINES, ids=lambda line: f"{line.source}-{line.words[-1]}")
def test_settings_compose_and_parse(line: SubmitLine) -> None:
    parsed(fill(line))


def test_every_job_of_a_cluster_has_a_line_and_every_line_a_check() -> None:
    scripts = {path.stem for path in (ROOT / "jobs").glob("*.py")} - LAPTOP_ONLY
    told = documents()
    assert {line.job for line in told["jobs"]} == scripts | {"features"} == JOBS.keys()
    assert CHECKS.keys() | {"serve"} == JOBS.keys()
    assert {"README.md", "cluster/README.md"} < told.keys()


def test_lines_are_found_wherever_they_stand(tmp_path: Path) -> None:
    text = "a\n```\nray job submit --address A -- \\\n    python jobs/train.py out=b\n```\n"
    [line] = made_up(tmp_path, text)
    assert " ".join(line.words) == "ray job submit --address A -- python jobs/train.py out=b"
    assert made_up(tmp_path, "Jobs go through `ray job submit`.\n") == []
    with pytest.raises(AssertionError, match=r"page\.md: a line is hidden"):
        made_up(tmp_path, "| `ray job submit -- python jobs/train.py` |\n")


def test_jobs_come_behind_what_makes_their_input(tmp_path: Path) -> None:
    text = "".join(f"ray job submit -- python jobs/{job}.py\n" for job in reversed(JOBS))
    lines = made_up(tmp_path, text.replace("features.py", "prepare.py stage=features"))
    assert [line.job for line in in_order(lines)] == list(JOBS)


@pytest.mark.parametrize(
    "unknown", ["out=s3://SHELF/x", "checkpoint=RUN", "official=...", "a=MY_X"]
)
def test_an_unknown_placeholder_is_told(tmp_path: Path, unknown: str) -> None:
    [line] = made_up(tmp_path, f"ray job submit -- python jobs/segment.py {unknown}\n")
    with pytest.raises(AssertionError, match="nothing here says what stands for"):
        fill(line)


def test_an_unknown_job_is_told(tmp_path: Path) -> None:
    [line] = made_up(tmp_path, "ray job submit -- python jobs/weigh.py\n")
    with pytest.raises(AssertionError, match="nothing here says how to run weigh"):
        fill(line)


def test_a_wrong_setting_would_be_found() -> None:
    line = next(line for line in LINES if line.job == "train")
    with pytest.raises(ConfigError, match=r"scale\.num_worker\b"):
        parsed(fill(line).with_settings("++scale.num_worker=2"))
