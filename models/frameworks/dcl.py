"""DCL: SimCLR without the positive in the denominator, so that small batches learn too (Yeh et al. 2022)."""

from infoaug.models.frameworks.base import Framework, Temperature
from infoaug.models.frameworks.simclr import SimCLRBranch, SimCLRSettings


class DCLSettings(SimCLRSettings, frozen=True):
    """As SimCLR's; the temperature is the default of lightly's DCL loss."""

    temperature: Temperature = 0.1


class DCLBranch(SimCLRBranch):
    """SimCLR's head and the decoupled loss (eq. 6 of the paper)."""

    decoupled = True


class DCL(Framework):
    """DCL: settings and branch, nothing else."""

    settings_type, branch_type = DCLSettings, DCLBranch
