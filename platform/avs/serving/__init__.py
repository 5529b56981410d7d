"""The HTTP service on Ray Serve: an ingress with limits, and replicas with one Predictor each.

``start``, ``stop`` and ``serve_checkpoint`` are in ``avs.serving.service``: importing them imports
Ray, which reads its environment then, and a job sets that first.
"""

from avs.serving.config import ServeConfig

__all__ = ["ServeConfig"]
