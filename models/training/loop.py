"""The training loop of one rank: two branches, epoch by epoch."""

import logging
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from infoaug.models import frameworks, layers, memory, own_code
from infoaug.models.augment import Augment
from infoaug.models.backbones import create_backbone
from infoaug.models.batch_norm import synchronise
from infoaug.models.collapse import collapsed, feature_std, rank_me
from infoaug.models.frameworks.settings import views_of_a_row
from infoaug.models.ranks import gather_rows, world
from infoaug.models.training.draws import draw
from infoaug.models.training.optimisation import autocast, create_optimizer, create_schedule, memory_format
from infoaug.models.training.pairs import Batch, Batches, Draws, Pairs
from infoaug.models.training.sampling import Part, Sampler, generator, paired_rows, seed_of, spread, still_rows
from infoaug.models.training.settings import TrainingSettings
from infoaug.models.training.stream import Stream
from infoaug.models.training.sums import Epoch, EpochSums
from infoaug.models.two_branch import TwoBranch

_log = logging.getLogger(__name__)


class Share(NamedTuple):
    """The part of a global batch that a rank holds.

    Attributes:
        row: the first of its rows.
        rows: of the batch.
        twin: the first of its twins' pictures.
        twins: pictures of twins of the batch.
        device: of the rank.
    """

    row: int
    rows: int
    twin: int
    twins: int
    device: torch.device

    def views(self, rows: int, twins: int | None = None, each: int = 1) -> tuple[Tensor, int]:
        """Where views of so many rows, `each` of a row, and of so many twins are among those of the batch: `among`."""
        own = torch.arange(self.row * each, (self.row + rows) * each, device=self.device)
        if twins is None:
            return own, self.rows * each
        first = self.rows + self.twin
        return torch.cat([own, torch.arange(first, first + twins, device=self.device)]), self.rows + self.twins


class Training:
    """Model, optimiser, schedule and augmentation of one rank; every rank of a process group holds the same.

    A training resumed from a `state` ends with the weights of an uninterrupted one, bit for bit on CPUs and with the
    same number of ranks: every epoch draws its random numbers anew, from the seed and the epoch's number. Another
    number of ranks sees the same batches, augmented alike, and differs by rounding; only dropout is drawn by each rank.

    Attributes:
        model: the model that is trained; `model.kept_backbone` is what remains of it after training.
        history: metrics of all completed epochs.
    """

    def __init__(
        self,
        settings: TrainingSettings,
        data: Pairs | Stream,
        device: torch.device | None = None,
        validate: Callable[[nn.Module], Epoch] | None = None,
        backbone: nn.Module | None = None,
    ) -> None:
        """Build the model and its optimiser.

        Args:
            settings: of the training.
            data: all patches and still images, the same on every rank; or a stream of them.
            device: where to train; None: the GPU if there is one, else the CPU.
            validate: maps the kept backbone to further metrics, every `settings.validate_every` epochs; it must leave
                the backbone as it was. Ranks may differ in it.
            backbone: the backbone to start from, such as `models.initial.initialised` builds; None: an untrained one.
                Images are normalised as its recipe says.

        Raises:
            ValueError: images of another size than `settings.image_size`, fewer patches than a batch, blocks of a
                stream that have no batch, a batch that the ranks cannot share, settings that do not fit the framework
                or the backbone, or a precision in which this CPU gets gradients wrong.
        """
        self.world, self.rank = world()
        if data.size != settings.image_size:
            raise ValueError(f"images are of {data.size} pixels, image_size is {settings.image_size}")
        if data.patches < settings.batch_size:
            raise ValueError(f"{data.patches} patches are fewer than a batch of {settings.batch_size}")
        if settings.batch_size % self.world or settings.batch_size // self.world < 2:
            raise ValueError(f"{self.world} ranks cannot share a batch of {settings.batch_size}")
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.settings, self.device, self.validate = settings, device, validate
        stills = still_rows(settings, self.world, twins=settings.twin_weight > 0) if data.stills else 0
        paired_rows(settings, self.world, stills)  # which the ranks must be able to share
        if isinstance(data, Pairs):
            data = data.with_partners(settings.twins).to(device)
            Sampler(settings, data.is_paired, data.stills)  # which refuses too few patches
        self.data = data
        self.steps = data.steps(settings.batch_size)  # of an epoch
        if not self.steps:
            raise ValueError(
                f"blocks of {data.patches} patches in all are too small for batches of {settings.batch_size}"
            )
        self.is_still = spread(stills, settings.batch_size)
        is_video = ~self.is_still.view(self.world, -1)[self.rank]
        self.video_rows = is_video.nonzero()[:, 0].to(device) if stills else None
        self.history: list[Epoch] = []
        self.sums: EpochSums | None = None  # of an epoch that is not complete
        torch.manual_seed(settings.seed)
        model = build_model(settings, backbone).to(device)
        self.layout = memory_format(model, device)
        model = model.to(memory_format=self.layout)
        self.model = synchronise(model) if self.world > 1 else model
        self.frozen = layers.freeze(self.model.backbone, settings.freeze_layers)
        self.optimizer = create_optimizer(settings, self.model)
        self.schedule = create_schedule(settings, self.optimizer, self.steps)
        self.augment = Augment.of(self.model.backbone, settings.augment).to(device)
        second = settings.augment_second or settings.augment
        self.augment_second = Augment.of(self.model.backbone, second).to(device)
        self.augment_small: Augment | None = None
        if crops := self.model.multi_crop:
            chosen = settings.augment.model_copy(update={"crop_scale": crops.small_scale})
            pixels = crops.small_pixels(settings.image_size)
            self.augment_small = Augment.of(self.model.backbone, chosen, pixels).to(device)
        self.autocast = autocast(settings.precision, device, self.model.backbone, _sizes(self.model, settings))
        self.features = torch.empty(0)
        self.model.backbone.register_forward_hook(self._keep_features)
        if settings.compile:
            # Without the option the compiler chooses the layout, and takes the one in which a CPU crashes.
            keep = {"options": {"layout_optimization": False}} if self.layout == torch.contiguous_format else {}
            # The number of twins differs from step to step. Without twins all batches have one size, which the
            # compiler takes as it comes.
            dynamic = self.model.twin_branch is not None or None
            for backbone in filter(None, (self.model.backbone, self.model.momentum_backbone)):
                backbone.compile(dynamic=dynamic, **keep)  # in place, so that the weights keep their names
        self.parallel: nn.Module = self.model
        if self.world > 1:
            self.parallel = DistributedDataParallel(
                self.model,
                device_ids=[device] if device.type == "cuda" else None,
                # Buffers are equal on all ranks already: statistics are synchronised, queues take the keys of all.
                broadcast_buffers=False,
                # Without it DDP reorders gradients after the first step, also after that of a resumed training, and
                # with their order changes how gloo rounds sums over more than two ranks.
                find_unused_parameters=device.type == "cpu",
            )

        _log.info(
            "%s on %s: %d patches, %d still images, %d steps an epoch; rank %d of %d on %s",
            settings.framework, settings.backbone, data.patches, data.stills, self.steps, self.rank, self.world, device,
        )  # fmt: skip

    def epoch(self, between: Callable[[], None] | None = None) -> Epoch:
        """Train for one epoch, or for what is left of one that was interrupted.

        Args:
            between: called after every block of a stream but the last, when `state` can be saved.

        Returns:
            Metrics, which also join `history`. Losses are means over steps and ranks.

            - `epoch`: its number, from 1.
            - `loss`, `view_loss`, `twin_loss`, and what else the branches report.
            - `steps_without_twin_loss`: share of the steps whose twin loss is 0, because the global batch has too few
              patches with a twin: none, or for most losses a single one. Missing without a twin branch.
            - `learning_rate`: that of the last step; with `layer_decay`, of the heads.
            - `seconds`, `images_per_second`: patches and still images of all ranks.
            - `data_wait_fraction`: share of the time that this rank's host waited for batches.
            - `peak_memory_mb`: MiB of the device, or on a CPU of the process, in this epoch (on Linux; elsewhere since
              the process started); the largest of any rank.
            - `share_with_twin`: share of a batch's rows that have a twin, mean of the epoch; a still image has none.
            - `twins_without_frame`: share of the rows with a twin that are shown without one, because no partner that
              counts has a crop of the first view's frame. Missing unless `twin_time` is `same`.
            - `share_of_images`: share of a batch's rows that are still images. Missing where there are none.
            - `partners`: of the patches with a twin, the mean number of partners that count, the twin among them, up to
              `twins`. Missing where `twins` is 1.
            - `twins_of_a_row`: mean number of twins that a row of a batch is shown with; missing where that is one at
              most.
            - `share_with_one_crop`: share of the patches without a crop of another time; missing where none is asked.
            - `feature_std`, `rank_me`: of the backbone's features of the last global batch's first views (see
              models/collapse.py).
            - `collapsed`: 1 if these features have collapsed, compared with the first epoch of the training; else 0.
            - What `validate` returned, where it was called.

        Raises:
            FloatingPointError: the mean loss is not finite.
        """
        number, settings, started = len(self.history), self.settings, time.perf_counter()
        sums = self.sums = self.sums or EpochSums()
        for block, data in self.data.epoch(number, settings.seed, first=sums.blocks):
            sums.waited += time.perf_counter() - started
            self._train_on(data.with_partners(settings.twins), number, block, sums)
            sums.seconds += time.perf_counter() - started
            if sums.steps == self.steps:
                break
            if between:
                between()
            started = time.perf_counter()
        means = sums.means()
        features = gather_rows(self.features[: settings.batch_size // self.world].float())  # first views come first
        metrics = {
            "epoch": number + 1,
            **means,
            "learning_rate": sums.learning_rate,
            "seconds": sums.seconds,
            "images_per_second": sums.rows / sums.seconds,
            "data_wait_fraction": sums.waited / sums.seconds,
            "peak_memory_mb": self._peak_memory() / 2**20,
            "share_with_twin": sums.with_twin / sums.rows,
            "feature_std": feature_std(features).item(),
            "rank_me": rank_me(features).item(),
        }
        first_rank = (self.history or [metrics])[0]["rank_me"]
        metrics["collapsed"] = float(collapsed(metrics["feature_std"], metrics["rank_me"], first_rank))
        if self.data.stills:
            metrics["share_of_images"] = self.is_still.double().mean().item()
        if sums.other_times and sums.patches:
            metrics["share_with_one_crop"] = sums.with_one_crop / sums.patches
        if settings.twins > 1 and sums.partners:
            metrics["partners"] = sums.partners / sums.with_partners
        if sums.several:
            metrics["twins_of_a_row"] = sums.twins / sums.rows
        if self.model.twin_branch is not None:
            metrics["steps_without_twin_loss"] = sums.without_twin_loss / self.steps
        if settings.twin_time == "same" and sums.with_partners:
            metrics["twins_without_frame"] = sums.without_frame / sums.with_partners
        done = number + 1
        if self.validate and (done % settings.validate_every == 0 or done == settings.epochs):
            metrics |= self.validate(self.model.kept_backbone)
        self.history, self.sums = [*self.history, metrics], None
        _log.debug("epoch %d: %s", done, metrics)
        return metrics

    def _train_on(self, data: Pairs, number: int, block: int, sums: EpochSums) -> None:
        """Train on one block of an epoch, for as many steps as the epoch has left, and add up what its metrics need.

        Raises:
            FloatingPointError: the mean loss is not finite.
        """
        settings, local = self.settings, self.settings.batch_size // self.world
        # A training that is not streamed draws what it drew before there were streams.
        part = (
            Part(number * self.data.blocks + block, number * self.steps + sums.steps) if self.data.blocks > 1 else None
        )
        words = () if part is None else (part.word,)
        self._prepare(number, words)
        sums.blocks = block + 1
        if data.patches < settings.batch_size:
            return
        sampler = Sampler(settings, data.is_paired, data.stills)
        rows = sampler.epoch(number, part)[: self.steps - sums.steps]
        # Every rank draws the same rows and pictures, and takes its own part of every global batch.
        drawn = draw(
            data, rows.view(len(rows), self.world, local), settings, generator(settings.seed, number, 0, 2, *words)
        )
        parts = [drawn[step, self.rank] for step in range(len(rows))]
        batches = Batches(data, parts, self.device, twins=self.model.twin_branch is not None)
        # Every rank draws the augmentations of the whole batch, so that an image gets the same views on any number of
        # ranks.
        random = generator(settings.seed, number, 1, *((0, *words) if words else ()), device=self.device)
        shares = self._shares(drawn)
        totals: dict[str, Tensor] = {}
        twin_losses: list[Tensor] = []
        for step, batch in enumerate(batches, start=sums.steps + 1):
            # Before the step sets the rate of the next.
            sums.learning_rate = max(group["lr"] for group in self.optimizer.param_groups)
            progress = (number + step / self.steps) / settings.epochs
            losses = self.step(batch, random, progress, shares[step - 1 - sums.steps])
            totals = {name: value + totals.get(name, 0) for name, value in losses.items()}
            twin_losses.append(losses["twin_loss"])
        sums.waited += batches.waited
        sums.steps += len(rows)
        sums.add_losses(self._over_ranks(totals))
        mean = sums.means()["loss"]
        if not math.isfinite(mean):
            raise FloatingPointError(f"the loss is {mean} in epoch {number + 1}: set learning_rate lower")
        if self.model.twin_branch is not None:
            sums.without_twin_loss += self._zeros(twin_losses)
        sums.add_rows(data, drawn, settings)

    def step(
        self, batch: Batch, random: torch.Generator, progress: float, share: Share | None = None
    ) -> dict[str, Tensor]:
        """Take one step of the optimiser and of what follows it, without waiting for the device.

        Args:
            batch: this rank's part of the global batch.
            random: draws the augmentations of the global batch; on the CPU or on the device.
            progress: share of the training that is complete after this step, 0–1.
            share: which part of the global batch it is; None: all.

        Returns:
            Losses, detached, on the device.
        """
        losses = self.update(batch, random, share)
        self.schedule.step()
        self.model.after_step(progress)
        return losses

    def update(self, batch: Batch, random: torch.Generator, share: Share | None = None) -> dict[str, Tensor]:
        """Update the weights by one batch, at the learning rate that is set: the part of `step` that computes."""
        count, twins = len(batch.images), len(batch.twins)
        among = (share.views(count), share.views(count, twins)) if share else (None, None)
        first = self._views(self.augment, batch.images, batch.alone, random, among[0])
        # Second views and twins share their settings, so they are augmented together.
        pictures, rows = torch.cat([batch.second, batch.twins]), batch.twin_rows // batch.shown.shape[1]
        alone = torch.cat([batch.alone, batch.alone[rows]])
        others = self._views(self.augment_second, pictures, alone, random, among[1])
        second, twin = others[: len(first)], others[len(first) :]
        small = self._small_views(batch.images, random, share)
        with self.autocast:
            known = batch.twin_rows, batch.image, batch.twin_image, self.video_rows, batch.shown, batch.weight
            losses = self.parallel(first, second, twin, *known, small=small)
        self.optimizer.zero_grad(set_to_none=True)
        losses["loss"].backward()
        if self.settings.clip_gradients:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip_gradients)
        self.optimizer.step()
        return {name: value.detach() for name, value in losses.items()}

    def _shares(self, drawn: Draws) -> list[Share | None]:
        """This rank's share of each batch, of pictures drawn for rows int64[steps, ranks, B / ranks]; None for all."""
        if self.world == 1:
            return [None] * len(drawn.rows)
        twins = (drawn.twin >= 0).flatten(2).sum(dim=2) * (self.model.twin_branch is not None)
        local = drawn.rows.shape[2]
        before, among = twins[:, : self.rank].sum(dim=1).tolist(), twins.sum(dim=1).tolist()
        return [
            Share(self.rank * local, self.world * local, *of_twins, self.device)
            for of_twins in zip(before, among, strict=True)
        ]

    def _views(
        self,
        augment: Augment,
        images: Tensor,
        alone: Tensor,
        random: torch.Generator,
        among: tuple[Tensor, int] | None,
    ) -> Tensor:
        """Images as the backbone takes them: augmented, or where their time is all that differs, not."""
        views = augment(images, generator=random, among=among)
        if self.settings.views == "time":
            views = torch.where(alone[:, None, None, None], views, augment.normalise(images))
        return views.contiguous(memory_format=self.layout)

    def _small_views(self, images: Tensor, random: torch.Generator, share: Share | None) -> Tensor | None:
        """The small views of each image, one image after the other; None if there are none.

        They are of the first view's picture, so that with views by time, too, one of the two full views shows another.
        """
        if not (self.augment_small and self.model.multi_crop):
            return None
        each = self.model.multi_crop.small_views
        pictures = images.repeat_interleave(each, dim=0)
        among = share.views(len(images), each=each) if share else None
        return self.augment_small(pictures, generator=random, among=among).contiguous(memory_format=self.layout)

    def state(self) -> dict[str, Any]:
        """All that `load_state` needs to resume after the last epoch or block; `torch.save` writes it."""
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "history": self.history,
        }
        return state | ({"sums": vars(self.sums)} if self.sums else {})

    def load_state(self, state: dict[str, Any]) -> None:
        """Resume from the `state` of a training with the same settings and patches."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.history = state["history"]
        self.sums = EpochSums(**state["sums"]) if "sums" in state else None

    def _prepare(self, epoch: int, words: tuple[int, ...] = ()) -> None:
        self.model.train()
        for backbone in filter(None, (self.model.backbone, self.model.momentum_backbone)):
            for name in self.frozen:
                backbone.get_submodule(name).eval()
        # Dropout, where a backbone has it, draws from torch's global random state.
        torch.manual_seed(seed_of(self.settings.seed, epoch, self.rank + 1, 1, *words))
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            memory.reset_peak()

    def _keep_features(self, module: nn.Module, inputs: Any, features: Tensor) -> None:
        if inputs[0].shape[-1] == self.settings.image_size:  # not of small views
            self.features = features.detach()

    def _over_ranks(self, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """The means over all ranks of numbers that each has added up."""
        sums = torch.stack([*totals.values()])
        if self.world > 1:
            dist.all_reduce(sums)
        return dict(zip(totals, sums / self.world, strict=True))

    def _zeros(self, losses: list[Tensor]) -> int:
        """Number of steps in which the loss is exactly 0 on all ranks."""
        sums = torch.stack(losses)
        if self.world > 1:
            dist.all_reduce(sums)
        return int((sums == 0).sum())

    def _peak_memory(self) -> float:
        """Bytes, the largest of any rank."""
        own = torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else memory.peak()
        peak = torch.tensor(float(own), dtype=torch.float64, device=self.device)
        if self.world > 1:
            dist.all_reduce(peak, dist.ReduceOp.MAX)
        return peak.item()


def build_model(settings: TrainingSettings, backbone: nn.Module | None = None) -> TwoBranch:
    """Build the model around a backbone; None: an untrained one. Weights are drawn from torch's global random state.

    Raises:
        ValueError: unknown names or settings, see `create_backbone`, `frameworks.create` and `TwoBranch`; small views
            that are not smaller than the images; or all twins of a patch shall count, and the framework's loss cannot
            weigh them.
    """
    if backbone is None:
        backbone = create_backbone(settings.backbone, settings.image_size, **settings.backbone_settings)
    framework = frameworks.create(settings.framework, backbone, **settings.framework_settings)
    views_of_a_row(framework.settings, settings.image_size)  # which small views must be smaller than
    if (
        settings.twins > 1
        and settings.twin_choice == "all"
        and settings.twin_weight
        and not framework.branch_type.weighs
    ):
        raise ValueError(
            f"the loss of framework {settings.framework!r} cannot weigh several twins of a patch: set twin_choice to "
            "uniform or strength, which show one of them in each step"
        )
    return TwoBranch(framework, settings.twin_weight)


def example(model: TwoBranch, size: int, rows: int) -> dict[str, Tensor]:
    """Random input of `model` on the CPU: so many rows of `size` pixels, each with a twin and its small views."""
    views = torch.rand(rows, 3, size, size)
    batch = {"first": views, "second": views, "twin": views, "twin_rows": torch.arange(rows)}
    if crops := model.multi_crop:
        side = crops.small_pixels(size)
        batch["small"] = torch.rand(rows * crops.small_views, 3, side, side)
    return batch


def _sizes(model: TwoBranch, settings: TrainingSettings) -> list[int]:
    """The sides of the images that the backbone is given, pixels."""
    crops = model.multi_crop
    return [settings.image_size, *([crops.small_pixels(settings.image_size)] if crops else [])]


def check_model(
    settings: TrainingSettings, backbone: nn.Module | None = None, device: torch.device | None = None
) -> None:
    """Build the model and its optimiser, and pass two images and their twins through it, on the CPU.

    Args:
        settings: of the training.
        backbone: what the model is built around; None: an untrained one.
        device: what will train, if that is known: is it exact in the precision that is asked for?

    Raises:
        ValueError: as `build_model`, `create_optimizer` and `autocast`; or the backbone does not take images of
            `image_size`, does not return vectors of finite numbers, cannot be frozen as asked, or no gradient reaches
            it; or the framework's branch fails, or returns no loss that is one number.
    """
    # A graph that keeps no tensors tells what gradients reach, at the cost of a pass without gradients.
    keeps_nothing = torch.autograd.graph.saved_tensors_hooks(lambda tensor: None, lambda kept: kept)
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), keeps_nothing:
        model, size = build_model(settings, backbone), settings.image_size
        layers.freeze(model.backbone, settings.freeze_layers)
        if settings.layer_decay:
            create_optimizer(settings, model)
        batch = example(model, size, rows=2)
        small = batch.pop("small", None)
        features: list[Any] = []
        returned: list[Any] = []

        def look(branch: nn.Module, inputs: Any, output: Any) -> None:
            returned.append(output)
            _check_losses(settings.framework, output)

        hooks = [model.backbone.register_forward_hook(lambda module, inputs, output: features.append(output))]
        for branch in filter(None, (model.view_branch, model.twin_branch)):
            hooks.append(branch.register_forward_hook(look))
        try:
            losses = model(**batch)
        except Exception as error:  # any error that a network raises for images that it does not expect
            for found in features[:1]:  # what it gives may be why
                _check_features(settings.backbone, model.backbone, found)
            if returned:
                _check_losses(settings.framework, returned[-1])
            why = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
            if features and own_code.is_own(settings.framework):
                told = f"{type(error).__name__}: {why}{own_code.place(error)}"
                raise ValueError(
                    f"the branch of {settings.framework!r} fails on {settings.backbone!r} ({told}): correct its forward"
                ) from error
            raise ValueError(
                f"{settings.backbone!r} with {settings.backbone_settings} cannot be trained on RGB images of {size} × "
                f"{size} pixels ({why}): choose another backbone, other settings of it, or another image size"
            ) from error
        finally:
            for hook in hooks:
                hook.remove()  # the caller may check another framework around the same backbone
        _check_features(settings.backbone, model.backbone, features[0])
        if not losses["loss"].requires_grad:
            raise ValueError(
                f"no gradient of the loss of {settings.framework!r} reaches the backbone: do not detach the features "
                "of the first view in its branch, nor compute their loss without gradients"
            )
        if small is not None:
            _check_small(settings, model, batch, small)
        if device:
            autocast(settings.precision, device, model.backbone, _sizes(model, settings))


def _check_small(settings: TrainingSettings, model: TwoBranch, batch: dict[str, Tensor], small: Tensor) -> None:
    """Refuse a backbone that does not take small views. The rest of the batch it does take."""
    size = settings.image_size
    try:
        model(**batch, small=small)
    except Exception as error:
        why = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        remedy = "set framework_settings.small_size to one that it takes, or choose a ResNet, which takes any"
        if getattr(model.backbone, "dynamic_img_size", None) is False:  # a ViT of timm's
            remedy = "add dynamic_img_size: true to backbone_settings"
        raise ValueError(
            f"{settings.backbone!r} with {settings.backbone_settings} takes images of {size} × {size} pixels, and "
            f"no small views of {small.shape[-1]} × {small.shape[-1]} ({why}): {remedy}"
        ) from error


def _check_losses(name: str, returned: Any) -> None:
    """Refuse a framework, for what its branch returns for two images."""
    loss = returned.get("loss") if isinstance(returned, dict) else None
    if not isinstance(loss, Tensor) or loss.ndim:
        got = f"a {type(returned).__name__}" if loss is None else f"a loss {[*getattr(loss, 'shape', '?')]}"
        raise ValueError(
            f"the branch of {name!r} returns {got}: return a dictionary with `loss`, one number as a tensor without "
            "dimensions"
        )


def _check_features(name: str, backbone: Any, features: Any) -> None:
    """Refuse a backbone, for what it gives for two images."""
    if not isinstance(features, Tensor):
        raise ValueError(f"{name!r} returns a {type(features).__name__}: return one tensor [rows, num_features]")
    if features.ndim == 2 and features.shape[1] != backbone.num_features:
        raise ValueError(
            f"{name!r} returns {features.shape[1]} features an image, and its num_features is {backbone.num_features}: "
            "make them the same"
        )
    if not features.isfinite().all():
        raise ValueError(
            f"{name!r} gives features that are NaN or infinite for random images: correct its "
            "initial weights, or its forward"
        )
    parameters = [*backbone.parameters()]
    if not any(parameter.requires_grad for parameter in parameters):
        why = "all its parameters are frozen (requires_grad is False)" if parameters else "it has no parameters"
        raise ValueError(f"nothing of {name!r} can be trained, {why}: leave some of its layers to train")
    if not features.requires_grad:
        raise ValueError(
            f"no gradient reaches the parameters of {name!r}: its forward must not detach the features, nor compute "
            "them under torch.no_grad or outside torch"
        )
