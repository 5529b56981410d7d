"""The demo: every stage once on synthetic videos."""

from avs.demo.config import DemoConfig

__all__ = ["DemoConfig"]
