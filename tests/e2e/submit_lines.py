"""Every ``ray job submit`` line of the documentation, found and made runnable here.

A line is run as it stands, with its capitals and addresses filled in by one table and settings put
behind that make it small. What no table knows is an error: a new line cannot be forgotten.
"""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from heads import ROOT
from hydra import compose, initialize_config_dir

from avs.benchmark import BenchmarkConfig
from avs.config import parse
from avs.doctor import DoctorConfig
from avs.inference.config import EvaluateConfig, SegmentConfig
from avs.overrides import values_forced
from avs.prepare import PrepareConfig
from avs.prepare.stages import parse_stage
from avs.serving.config import ServeConfig
from avs.training import TrainConfig
from avs.training.official_checkpoint import ImportConfig
from avs.tuning import TuneConfig
from avs.tuning.study_config import StudyConfig

__all__ = ["JOBS", "SubmitLine", "documents", "found_in", "in_order", "parsed"]

SUBMIT = "ray job submit"
# Jobs by name: what their settings become. In the order in which one needs another's output.
JOBS: dict[str, tuple[type[Any], Callable[[Any], Any]]] = {
    "prepare": (PrepareConfig, parse_stage),
    "features": (PrepareConfig, parse_stage),
    "train": (TrainConfig, partial(parse, schema=TrainConfig)),
    "tune": (TuneConfig, partial(parse, schema=TuneConfig)),
    "study": (StudyConfig, partial(parse, schema=StudyConfig)),
    "evaluate": (EvaluateConfig, partial(parse, schema=EvaluateConfig)),
    "segment": (SegmentConfig, partial(parse, schema=SegmentConfig)),
    "serve": (ServeConfig, partial(parse, schema=ServeConfig)),
    "benchmark": (BenchmarkConfig, partial(parse, schema=BenchmarkConfig)),
    "import_official": (ImportConfig, partial(parse, schema=ImportConfig)),
    "doctor": (DoctorConfig, partial(parse, schema=DoctorConfig)),
}

_ONE_CPU = ("scale.num_workers=1", "scale.cpus_per_worker=1", "scale.gpus_per_worker=0")
_SMALL_MODEL = ("model.backbone=test_resnet", "model.options.fusion_width=16")
_VARIANTS = yaml.safe_load((ROOT / "configs/study/switches.yaml").read_text())["variants"]
# Settings behind those of the line: two CPUs without a GPU, few and small clips, small networks.
# YAMNet stands in for VGGish, whose weights are twenty times as large.
SMALL: dict[str, tuple[str, ...]] = {
    "prepare": ("data.image_size_px=64", *_ONE_CPU),
    "features": ("model.audio_network=yamnet", *_ONE_CPU),
    "train": (
        *("train.epochs=1", "train.batch_size=2", "train.image_size_px=64"),
        *("logging.report_clips=0", *_ONE_CPU, "scale.num_workers=2"),
    ),
    "tune": ("search.num_trials=1", "train.epochs=1", *_ONE_CPU),
    "study": (
        *("seeds=[0]", 'more=["train.epochs=1"]', *_ONE_CPU),
        *(f"~variants.{name}" for name in _VARIANTS if name != "tpavi"),
    ),
    "evaluate": _ONE_CPU,
    "segment": _ONE_CPU,
    "serve": ("scale.num_workers=1", "scale.cpus_per_worker=0.5", "scale.gpus_per_worker=0"),
    "benchmark": ("quick=true",),
    "import_official": ("model.audio_network=yamnet", *_SMALL_MODEL),
    "doctor": (),
}
# A published network in a line of its own: small, and its weights from nowhere.
SMALL_TPAVI = ("model.audio_network=yamnet", "model.backbone_weights=random", *_SMALL_MODEL)
# What is left of a placeholder: capitals, dots that stand for something.
_UNKNOWN = re.compile(r"(?<![\w.])[A-Z][A-Z_]+(?![\w.])|\.\.\.")


@dataclass(frozen=True)
class SubmitLine:
    """``source``: the file that has it. ``words``: as a shell splits it."""

    source: str
    words: tuple[str, ...]

    @property
    def settings(self) -> tuple[str, ...]:
        """Behind ``python jobs/NAME.py``."""
        return self.words[self.words.index("--") + 3 :]

    def value(self, key: str) -> str:
        """Of a setting; the last one counts."""
        values = [word.partition("=")[2] for word in self.settings if word.startswith(f"{key}=")]
        assert values, f"{key}= is not in {self.words}"
        return values[-1].strip("'")

    @property
    def job(self) -> str:
        """Its name in ``JOBS``: that of the script, or of the stage."""
        python, script = self.words[self.words.index("--") + 1 :][:2]
        name = Path(script).stem
        assert (python, script) == ("python", f"jobs/{name}.py"), self.words
        name = "features" if "stage=features" in self.settings else name
        assert name in JOBS, f"{self.source}: nothing here says how to run {name}"
        return name

    def filled(self, table: Mapping[str, str]) -> SubmitLine:
        """With the placeholders of ``table`` replaced, and small. Fails where one is unknown."""
        words = tuple(_filled(word, table) for word in self.words)
        return replace(self, words=(*words, *self._small()))

    def with_options(self, *options: str) -> SubmitLine:
        """With more of ``ray job submit``'s own."""
        index = self.words.index("--")
        return replace(self, words=(*self.words[:index], *options, *self.words[index:]))

    def with_settings(self, *settings: str) -> SubmitLine:
        """With more of the job's."""
        return replace(self, words=(*self.words, *settings))

    def _small(self) -> tuple[str, ...]:
        return (*SMALL[self.job], *(SMALL_TPAVI if "model=tpavi" in self.settings else ()))


def documents() -> dict[str, list[SubmitLine]]:
    """Lines by where they stand: a page, or ``jobs`` for all docstrings there."""
    pages = [*ROOT.glob("*.md"), *ROOT.glob("cluster/*.md")]
    found = {str(page.relative_to(ROOT)): found_in(page) for page in pages}
    scripts = sorted((ROOT / "jobs").glob("*.py"))
    found["jobs"] = [line for script in scripts for line in found_in(script)]
    return {name: lines for name, lines in found.items() if lines}


def in_order(lines: Iterable[SubmitLine]) -> list[SubmitLine]:
    """Each behind what makes its input."""
    return sorted(lines, key=lambda line: list(JOBS).index(line.job))


def found_in(path: Path) -> list[SubmitLine]:
    """Those of a page, or of a module's docstring."""
    text = path.read_text()
    if path.suffix == ".py":
        text = ast.get_docstring(ast.parse(text)) or ""
    whole = re.sub(r"\\\n\s*", " ", text)
    source = str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    lines = re.findall(rf"^\s*({SUBMIT} .*)$", whole, re.M)
    # The words may be used in a sentence; with options they are a command, and must be found.
    assert len(lines) == len(re.findall(rf"{SUBMIT}\s+-", whole)), f"{source}: a line is hidden"
    return [SubmitLine(source, tuple(shlex.split(line, comments=True))) for line in lines]


def parsed(line: SubmitLine) -> Any:
    """The settings as the job would have them. Raises what the job would."""
    schema, check = JOBS[line.job]
    given = values_forced(line.settings, schema)
    root = line.words[line.words.index("--") + 2]
    with initialize_config_dir(version_base="1.3", config_dir=str(ROOT / "configs")):
        return check(compose(Path(root).stem, overrides=given))


def _filled(word: str, table: Mapping[str, str]) -> str:
    known = "|".join(map(re.escape, sorted(table, key=len, reverse=True)))
    # At once: what is put in is not looked at again.
    word = re.sub(rf"(?:{known})(?![\w-])", lambda found: table[found[0]], word)
    left = _UNKNOWN.findall(word)
    assert not left, f"{word}: nothing here says what stands for {', '.join(left)}"
    return word
