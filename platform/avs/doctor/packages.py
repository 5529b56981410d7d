"""Python, and the packages that this platform asks for, with the versions that are installed."""

from __future__ import annotations

import importlib
import platform
from collections.abc import Sequence
from importlib import metadata

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from avs.doctor.finding import Finding, fail, ok, warn

__all__ = ["look_at_packages", "look_at_python", "wrong_versions"]

_SET_UP = "make setup (or: pip install -r requirements.txt)"
# Their versions may fit while their builds do not: torchaudio for CUDA beside torch for CPUs.
_IMPORTED = ("torch", "torchaudio", "torchvision", "av", "decord")


def look_at_python() -> Sequence[Finding]:
    """Whether this Python is one that the package is made for."""
    version = platform.python_version()
    try:
        wanted = metadata.metadata("avs")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        return [_not_installed("Python")]
    if version not in SpecifierSet(wanted):
        return [fail("Python", f"{version}, but avs needs {wanted}", "make .venv with Python 3.11")]
    return [ok("Python", f"{version} ({wanted})")]


def look_at_packages() -> Sequence[Finding]:
    """Whether all packages are there, in versions that fit, and can be imported."""
    try:
        wanted = [Requirement(line) for line in metadata.requires("avs") or ()]
    except metadata.PackageNotFoundError:
        return [_not_installed("packages")]
    needed = [r for r in wanted if r.marker is None or r.marker.evaluate({"extra": ""})]
    wrong = wrong_versions(needed)
    found = [fail("packages", told, _SET_UP) for told in wrong]
    found += [fail("packages", told, _SET_UP) for name in _IMPORTED if (told := _broken(name))]
    return found or [ok("packages", f"{len(needed)} as pyproject.toml asks, torch and av import")]


def wrong_versions(needed: Sequence[Requirement]) -> list[str]:
    """What is missing or of another version, a sentence each."""
    told = []
    for requirement in needed:
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            told.append(f"{requirement.name} is not installed ({requirement} is needed)")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            told.append(f"{requirement.name} {version} is installed, {requirement} is needed")
    return told


def _broken(name: str) -> str:
    """Why a module cannot be imported; empty if it can."""
    try:
        importlib.import_module(name)
    except Exception as error:  # a library that is not there raises OSError, an odd pair others
        first = (str(error).splitlines() or [""])[0]
        return f"import {name} fails: {type(error).__name__}: {first}"
    return ""


def _not_installed(name: str) -> Finding:
    return warn(
        name, "avs is not installed here, so nothing tells which versions it needs", _SET_UP
    )
