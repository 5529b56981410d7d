"""What may be wrong with a machine, a cluster, a storage or a checkpoint, and how to cure it."""

from avs.doctor.config import DoctorConfig
from avs.doctor.finding import Finding, Status
from avs.doctor.runner import run_doctor

__all__ = ["DoctorConfig", "Finding", "Status", "run_doctor"]
