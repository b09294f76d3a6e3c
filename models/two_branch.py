"""Two branches on one backbone: views of the same patch, and a patch with its twin."""

import copy
import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import MomentumSettings, MultiCropSettings

Features = dict[str, Tensor]

_READABLE = {"first", "second", "momentum_first", "momentum_second", "small"}


class TwoBranch(nn.Module):
    """One backbone f, two independent branches of the same framework, one loss (InfoAug, arXiv 2511.00028).

    L = L_view(f(t₁x), f(t₂x)) + twin_weight · L_twin(f(t₁x), f(t₃ twin(x))), where the branches hold the heads and the
    framework's loss. With `twin_weight=0` there is no twin branch (`twin_branch` is None): the baseline. A framework
    that reads features of a momentum encoder gets one `momentum_backbone`, shared by the branches (None otherwise).

    With small views (`multi_crop`, the framework's settings that ask for them; else None), the view branch sees theirs
    beside those of the two full views: L_view(f(t₁x), f(t₂x), f(s₁x), …).

    `kept_backbone` is what remains after training: the backbone, or the momentum backbone if the framework's settings
    say so (`MomentumSettings.encoder`).

    Raises ValueError if twin_weight is negative or not finite, if a framework reads unknown features, if it does not
    read the small views that its settings ask for, or if it has no momentum backbone to keep.
    """

    def __init__(self, framework: Framework, twin_weight: float = 0.5) -> None:
        super().__init__()
        if not (math.isfinite(twin_weight) and twin_weight >= 0):
            raise ValueError(f"twin_weight must be finite and at least 0, not {twin_weight}.")
        self.twin_weight = float(twin_weight)
        self.backbone = framework.backbone
        self.view_branch: Branch = framework.make_branch()
        self.twin_branch: Branch | None = framework.make_branch() if twin_weight > 0 else None

        self.reads = frozenset(self.view_branch.reads)
        if "first" not in self.reads or self.reads - _READABLE:
            raise ValueError(f"A branch reads first and any of {sorted(_READABLE)}, not {sorted(self.reads)}.")
        self.momentum_backbone: nn.Module | None = None
        if any(name.startswith("momentum_") for name in self.reads):
            self.momentum_backbone = copy.deepcopy(self.backbone).requires_grad_(False)
        settings = framework.settings
        self.momentum = settings.momentum if isinstance(settings, MomentumSettings) else None
        if self.momentum is None and any(True for _ in self._followed()):
            raise ValueError(f"{type(settings).__name__} must be MomentumSettings: there is a momentum encoder.")
        crops = settings if isinstance(settings, MultiCropSettings) and settings.small_views else None
        self.multi_crop: MultiCropSettings | None = crops
        if self.multi_crop and "small" not in self.reads:
            raise ValueError("small_views is above 0, and the framework's branch does not read small.")
        self.keeps_momentum = isinstance(settings, MomentumSettings) and settings.encoder == "momentum"
        if self.keeps_momentum and self.momentum_backbone is None:
            raise ValueError("encoder is 'momentum', and the framework reads no features of a momentum backbone.")

    @property
    def kept_backbone(self) -> nn.Module:
        """The backbone that is evaluated and saved."""
        return self.momentum_backbone if self.keeps_momentum and self.momentum_backbone is not None else self.backbone

    def forward(
        self,
        first: Tensor,
        second: Tensor,
        twin: Tensor | None = None,
        twin_rows: Tensor | None = None,
        image: Tensor | None = None,
        twin_image: Tensor | None = None,
        video_rows: Tensor | None = None,
        shown: Tensor | None = None,
        weight: Tensor | None = None,
        small: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Compute the losses of a batch, without waiting for the device.

        All images pass through the backbone together, and through the momentum backbone likewise, so that batch
        statistics are those of the whole step, however few twins it has. Small views, which are of another size, pass
        through the backbone after them, and not through the momentum backbone. Only features that a branch reads are
        computed. M may differ between ranks (and may be 0), B may not: every rank runs the same collectives, and every
        parameter gets a gradient. Without a twin branch, twins are ignored.

        A patch may be paired with several partners in one step: `weight` says so. The twin branch then sees one row
        for each, and its loss is the mean over the patches of the weighted mean over the partners of each.

        Args:
            first, second: float[B, C, S, S], views of the same patches.
            twin: float[M, C, S, S], views of twins, 0 ≤ M ≤ B · P; None for M = 0.
            twin_rows: int64[M], distinct: row i of `twin` is the twin of row twin_rows[i] of `first`; with `weight`,
                partner twin_rows[i] % P of row twin_rows[i] // P. None for M = 0.
            image: int64[B], the patch that every row shows.
            twin_image: int64[B], that patch's twin, or int64[B, K], its partners, −1 where it has none. With `image`
                and `twin_image`, neither the patch nor any of them is a negative of the row. Leave both out where all
                patches of the global batch differ and twins may be negatives.
            video_rows: int64[V], distinct: the rows that show video, as many on every rank and among them all of
                `twin_rows`. The twin branch sees no others; the view branch sees all. None: all rows.
            shown: int64[B] or int64[B, P], the patches that `twin` shows: partners, or the patch itself at another
                time; None: the first of twin_image. All partners stay out of the negatives either way.
            weight: float[B, P], the weights of the partners that are shown; those of a row sum to 1. None: P = 1.
            small: float[B · n, C, s, s], n small views of what each row of `first` shows, one row after the other;
                None: n = 0. The view branch alone sees them.

        Returns:
            Scalars with gradients `loss`, `view_loss`, `twin_loss`, and scalars without gradients that the branches
            report, prefixed by `view_` or `twin_`, such as `view_mutual_information` (nats).

        Raises:
            ValueError: wrong shapes, dtypes or rows.
        """
        partners = 1 if weight is None else weight.shape[1]
        twin, rows = self._check(first, second, twin, twin_rows, partners)
        own, other = self._identities(len(first), rows, partners, image, twin_image, shown)
        views, twins = self._features(first, second, twin if self.twin_branch is not None else None)
        small = None if small is None else self._small_features(small, first)
        view = self.view_branch(Pairs(**views, small=small, first_identity=own, second_identity=own))
        output = {"loss": view["loss"], "view_loss": view["loss"], "twin_loss": torch.zeros_like(view["loss"])}
        output |= {f"view_{name}": value for name, value in view.items()}
        if self.twin_branch is None:
            return output

        pairs = Pairs(**views, first_identity=own)
        if weight is not None:
            pairs = pairs.take(torch.arange(len(first), device=first.device).repeat_interleave(partners))
        # Rows without a twin hold the second view instead: realistic values for the batch statistics of a head, and no
        # gradient.
        paired = {name: getattr(pairs, name).detach().index_copy(0, rows, part) for name, part in twins.items()}
        valid = torch.zeros(len(pairs.first), dtype=torch.bool, device=first.device).index_fill(0, rows, True)
        pairs = replace(pairs, **paired, valid=valid, second_identity=other)
        if weight is not None:
            repeated = (valid.view(-1, partners).cumsum(dim=1) > 1).flatten()
            pairs = replace(pairs, weight=weight.flatten(), repeated=repeated)
        if video_rows is not None:
            places = video_rows[:, None] * partners + torch.arange(partners, device=first.device)
            pairs = pairs.take(places.flatten())
        twin_output = self.twin_branch(pairs)
        output |= {f"twin_{name}": value for name, value in twin_output.items()}
        return output | {"loss": view["loss"] + self.twin_weight * twin_output["loss"]}

    @torch.no_grad()
    def after_step(self, progress: float) -> None:
        """Update the momentum encoder and tell the branches the progress; call it once after every optimiser step.

        progress: share of training that is complete, 0–1. Raises ValueError for a value outside.
        """
        if not 0 <= progress <= 1:
            raise ValueError(f"progress is a share of training, 0 to 1, not {progress}.")
        trained, followers = [], []
        for module, follower in self._followed():
            trained += list(module.parameters())
            followers += list(follower.parameters())
        if self.momentum is not None and trained:
            get_ema_multi_avg_fn(self.momentum.rate(progress))(followers, trained, None)
        for branch in self._branches():
            branch.after_step(progress)

    def _branches(self) -> list[Branch]:
        return [self.view_branch] if self.twin_branch is None else [self.view_branch, self.twin_branch]

    def _followed(self) -> Iterator[tuple[nn.Module, nn.Module]]:
        """Trained modules, each with its momentum copy."""
        if self.momentum_backbone is not None:
            yield self.backbone, self.momentum_backbone
        for branch in self._branches():
            yield from branch.followed()

    def _features(self, first: Tensor, second: Tensor, twin: Tensor | None) -> tuple[Features, Features]:
        """The features that the branches read, by their names in `Pairs`: of views, and of twins under `second`."""
        views: Features = {}
        twins: Features = {}
        for prefix, backbone in (("", self.backbone), ("momentum_", self.momentum_backbone)):
            images = {}
            if f"{prefix}first" in self.reads:
                images["first"] = first
            if f"{prefix}second" in self.reads:
                images["second"] = second
                if twin is not None:
                    images["twin"] = twin
            if not images or backbone is None:
                continue
            features = backbone(torch.cat(list(images.values())))
            if features.ndim != 2:
                raise ValueError(
                    f"The backbone must return [rows, num_features], not {list(features.shape)}: pool its output."
                )
            parts = dict(zip(images, features.split([len(part) for part in images.values()]), strict=True))
            if "twin" in parts:
                twins[f"{prefix}second"] = parts.pop("twin")
            views |= {f"{prefix}{name}": part for name, part in parts.items()}
        return views, twins

    def _small_features(self, small: Tensor, first: Tensor) -> Tensor | None:
        """Features of every row's small views, float[B, n, num_features]; None if the branches do not read them."""
        count, rest = divmod(len(small), len(first))
        if small.ndim != 4 or rest or not count or small.shape[1] != first.shape[1] or small.dtype != first.dtype:
            raise ValueError(
                f"small must be [{len(first)} · n, {first.shape[1]}, s, s] of {first.dtype}, "
                f"not {list(small.shape)} of {small.dtype}."
            )
        return self.backbone(small).unflatten(0, (len(first), count)) if "small" in self.reads else None

    def _identities(
        self,
        size: int,
        rows: Tensor,
        partners: int,
        image: Tensor | None,
        twin_image: Tensor | None,
        shown: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Every patch with its K partners, and every partner that is shown with the others and the patch.

        int64[B, 1 + K] and int64[B · P, 1 + K], first what is shown; None where they are not given.
        """
        if (image is None) != (twin_image is None):
            raise ValueError("image and twin_image go together: pass both or neither.")
        if image is None or twin_image is None:
            return None, None
        for name, part, dims in (("image", image, 1), ("twin_image", twin_image, 2)):
            if part.dtype != torch.int64 or len(part) != size or part.ndim > dims:
                several = f" or int64[{size}, K]" * (dims - 1)
                raise ValueError(f"{name} must be int64[{size}]{several}, not {part.dtype} {list(part.shape)}.")
        known = twin_image.view(size, -1)
        if self.twin_branch is None:  # the baseline uses no twins: they may be negatives
            known = torch.full_like(known, -1)
        elif known.device.type == "cpu" and bool((known[rows // partners] < 0).all(dim=1).any()):
            raise ValueError("twin_rows names a row whose twin_image is -1: say which patch its twin is.")
        partner = (known[:, :partners] if shown is None else shown).reshape(size, partners, 1)
        # What is no negative of a partner's either: where the others are, the patch is in place of the partner itself.
        others = torch.where(partner == known[:, None], image[:, None, None], known[:, None])
        return torch.cat([image[:, None], known], dim=1), torch.cat([partner, others], dim=2).flatten(0, 1)

    def _check(
        self, first: Tensor, second: Tensor, twin: Tensor | None, twin_rows: Tensor | None, partners: int
    ) -> tuple[Tensor, Tensor]:
        """Check a batch; return twins and their rows, empty if it has none."""
        if first.ndim != 4 or first.shape != second.shape or len(first) == 0:
            raise ValueError(
                f"first and second must both be [B, C, S, S], not {list(first.shape)} and {list(second.shape)}."
            )
        if not (first.is_floating_point() and second.is_floating_point()):
            raise ValueError(f"Views must be floating point, not {first.dtype} and {second.dtype}: augment them first.")
        if (twin is None) != (twin_rows is None):
            raise ValueError("twin and twin_rows go together: pass both or neither.")
        if twin is None or twin_rows is None:
            return first[:0], torch.empty(0, dtype=torch.int64, device=first.device)
        if twin.shape[1:] != first.shape[1:] or twin.dtype != first.dtype:
            raise ValueError(
                f"twin must be [M, {', '.join(map(str, first.shape[1:]))}] of {first.dtype}, "
                f"not {list(twin.shape)} of {twin.dtype}."
            )
        if twin_rows.dtype != torch.int64 or twin_rows.shape != twin.shape[:1]:
            raise ValueError(f"twin_rows must be int64[{len(twin)}], not {twin_rows.dtype} {list(twin_rows.shape)}.")
        if twin_rows.device.type == "cpu":  # reading the values from an accelerator would wait for it
            last = len(first) * partners - 1
            if len(twin_rows) and not (int(twin_rows.min()) >= 0 and int(twin_rows.max()) <= last):
                raise ValueError(f"twin_rows must lie in 0…{last}, the rows of first, times the partners of a row.")
            if len(twin_rows.unique()) < len(twin_rows):
                raise ValueError("twin_rows names a row twice: weight gives a patch several partners.")
        return twin, twin_rows.to(first.device, non_blocking=True)
