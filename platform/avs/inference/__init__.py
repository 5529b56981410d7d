"""Inference: the Predictor, and the jobs that run it over buckets and prepared splits."""

from avs.inference.predictor import Predictor
from avs.inference.track import MaskTrack

__all__ = ["MaskTrack", "Predictor"]
