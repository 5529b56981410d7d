"""What a job tells about itself: structured log lines, metrics for Prometheus, and a summary."""

from avs.telemetry.meters import count_items, observe_seconds, show_training
from avs.telemetry.run import JobRun, current_run, job_run, use_run
from avs.telemetry.stages import log_line, reject, stage
from avs.telemetry.summary import SUMMARY, write_summary

__all__ = [
    "SUMMARY",
    "JobRun",
    "count_items",
    "current_run",
    "job_run",
    "log_line",
    "observe_seconds",
    "reject",
    "show_training",
    "stage",
    "use_run",
    "write_summary",
]
