"""How far features have collapsed, without labels: their spread, and the number of directions that they use."""

import torch
import torch.nn.functional as F
from torch import Tensor

RANK_EPSILON = 1e-7  # the paper's, for float32
LEAST_SPREAD = 0.1
LEAST_RANK = 0.5


@torch.no_grad()
def feature_std(features: Tensor) -> Tensor:
    """Spread of unit features float[N, d]: mean over dimensions of their standard deviation, times √d; float32[].

    1 where they point in all directions alike, 0 where all point in one (Chen & He 2021, figure 2, which has it without
    the √d). Features of length 0 stay 0. Raises ValueError unless there are rows and columns.
    """
    unit = F.normalize(_checked(features), dim=1)
    return unit.std(dim=0, correction=0).mean() * features.shape[1] ** 0.5


@torch.no_grad()
def rank_me(features: Tensor) -> Tensor:
    """RankMe, the effective rank of features float[N, d] (Garrido et al. 2023, eq. 1): about 1 to min(N, d); float32[].

    exp(−Σ p · log p), where p are the singular values over their sum, plus 1e-7; features are not centred, so all alike
    have rank 1, as have zeros. To compare numbers, take N well above d. Raises ValueError unless there are rows and
    columns.
    """
    singular = torch.linalg.svdvals(_checked(features))
    share = singular / singular.sum().clamp(min=torch.finfo(singular.dtype).tiny) + RANK_EPSILON
    return (-(share * share.log()).sum()).exp()


def collapsed(spread: float, rank: float, first_rank: float) -> bool:
    """Whether features have collapsed, from their `feature_std`, their `rank_me`, and that of the first epoch.

    Both papers have full collapse only: spread 0, rank 1. The limits, a spread of 0.1 and half the first rank, part
    what was measured on features of a small ResNet, 2,000 images of CIFAR-10 and 12 epochs: SimSiam without its stopped
    gradient fell to 0.32 of its first rank; SimCLR, SimSiam, BYOL, DINO, VICReg and Barlow Twins had spreads from
    0.44 to 0.62 and never less than 0.8 of their first rank. A head may collapse and leave features their rank.
    """
    return spread < LEAST_SPREAD or rank < LEAST_RANK * first_rank


def _checked(features: Tensor) -> Tensor:
    if features.ndim != 2 or features.numel() == 0 or not features.is_floating_point():
        raise ValueError(f"features must be floating point [N, d], not {features.dtype} {list(features.shape)}.")
    return features.to(torch.promote_types(features.dtype, torch.float32))
