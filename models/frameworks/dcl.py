"""DCL: SimCLR without the positive in the denominator, so that small batches learn too (Yeh et al. 2022)."""

from infoaug.models.frameworks.base import Framework
from infoaug.models.frameworks.settings import DCLSettings
from infoaug.models.frameworks.simclr import SimCLRBranch


class DCLBranch(SimCLRBranch):
    """SimCLR's head and the decoupled loss (eq. 6 of the paper)."""

    decoupled = True


class DCL(Framework):
    """DCL: settings and branch, nothing else."""

    branch_type = DCLBranch
    settings_type = DCLSettings
