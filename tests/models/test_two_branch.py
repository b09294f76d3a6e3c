import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from models import frameworks
from models.frameworks import Branch, Framework, FrameworkSettings, Pairs
from models.losses import nt_xent
from models.two_branch import TwoBranch

WORLD, ROWS, SIZE = 2, 5, 6
# Rows of the global batch that have a twin, by case: unequal over the ranks, none on one rank, none at all.
TWIN_ROWS = {"unequal": [0, 2, 3, 4, 7], "none on rank 1": [4, 1, 0], "one on rank 0": [2], "none": []}


def small_backbone(*, batch_norm: bool) -> nn.Module:
    layers = [nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4) if batch_norm else nn.Identity(), nn.ReLU()]
    backbone = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten())
    backbone.num_features = 16
    return backbone


class LinearBranch(Branch):
    """A head without batch statistics, so that ranks can be compared with one process."""

    def __init__(self, num_features: int, settings: FrameworkSettings) -> None:
        super().__init__(num_features, settings)
        self.head = nn.Linear(num_features, 8)

    def forward(self, pairs):
        return nt_xent(self.head(pairs.first), self.head(pairs.second), temperature=0.2, valid=pairs.valid)


class LinearFramework(Framework):
    settings_type, branch_type = FrameworkSettings, LinearBranch


def linear_model(twin_weight: float = 0.5) -> TwoBranch:
    torch.manual_seed(3)
    return TwoBranch(LinearFramework(small_backbone(batch_norm=False), FrameworkSettings()), twin_weight)


def simclr_model(twin_weight: float = 0.5) -> TwoBranch:
    torch.manual_seed(3)
    framework = frameworks.create("simclr", small_backbone(batch_norm=True), output_dim=8)
    return TwoBranch(framework, twin_weight)


def views(count: int = 3, rows: int = ROWS) -> torch.Tensor:
    return torch.randn(count, rows, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def test_the_loss_is_the_view_loss_plus_the_weighted_twin_loss_of_the_rows_with_a_twin():
    model = linear_model(0.7)
    first, second, twin = views()
    rows = torch.tensor([3, 1, 4])
    output = model(first, second, twin[rows], rows)

    features = model.backbone(first)
    view_loss = model.view_branch(Pairs(features, model.backbone(second)))["loss"]
    twin_loss = model.twin_branch(Pairs(features[rows], model.backbone(twin[rows])))["loss"]
    torch.testing.assert_close(output["view_loss"], view_loss)
    torch.testing.assert_close(output["twin_loss"], twin_loss)
    torch.testing.assert_close(output["loss"], view_loss + 0.7 * twin_loss)


def test_the_backbone_sees_every_image_once():
    seen = []
    model = simclr_model()
    model.backbone.register_forward_hook(lambda module, images, output: seen.append(len(images[0])))
    first, second, twin = views()
    model(first, second, twin[:2], torch.tensor([0, 3]))
    assert sum(seen) == 2 * ROWS + 2 and len(seen) <= 3


def test_the_branches_start_from_different_weights_and_share_the_backbone_only():
    model = simclr_model()
    assert not torch.equal(model.view_branch.head[0].weight, model.twin_branch.head[0].weight)
    assert {name.split(".")[0] for name in model.state_dict()} == {"backbone", "view_branch", "twin_branch"}


def test_weight_zero_is_the_baseline_without_a_twin_branch():
    baseline, full = linear_model(0.0), linear_model(0.5)
    assert baseline.twin_branch is None
    assert not any(name.startswith("twin_branch") for name, _ in baseline.named_parameters())
    first, second, twin = views()
    output = baseline(first, second, twin, torch.arange(ROWS))
    assert output["twin_loss"].item() == 0
    assert torch.equal(output["loss"], output["view_loss"])
    torch.testing.assert_close(output["view_loss"], full(first, second)["view_loss"])


@pytest.mark.parametrize("make", [linear_model, simclr_model])
@pytest.mark.parametrize("rows", [[], [2], [0, 1, 2, 3, 4]])
def test_every_parameter_gets_a_finite_gradient_however_few_twins_there_are(make, rows):
    model = make()
    first, second, twin = views()
    output = model(first, second, twin[rows], torch.tensor(rows, dtype=torch.int64))
    output["loss"].backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    assert (output["twin_loss"].item() == 0) == (len(rows) < 2)  # a single pair has no negatives


def test_no_twins_and_twins_left_out_are_the_same():
    first, second, twin = views()
    with_none = simclr_model()(first, second, twin[:0], torch.empty(0, dtype=torch.int64))
    left_out = simclr_model()(first, second)
    assert all(torch.equal(with_none[key], left_out[key]) for key in ("loss", "view_loss", "twin_loss"))


def test_the_few_twins_of_a_step_do_not_carry_the_batch_statistics_alone():
    first, second, twin = views()
    model = simclr_model()
    one = torch.tensor([0])
    model(first, second, 1000 * twin[:1] + 5000, one)
    assert model.backbone[1].num_batches_tracked.item() == 1


def test_rows_without_a_twin_hold_the_second_views_features_without_gradient_and_do_not_count():
    model, seen = simclr_model(), []
    model.twin_branch.register_forward_pre_hook(lambda module, arguments: seen.extend(arguments))
    first, second, twin = (part.requires_grad_() for part in views())
    rows = torch.tensor([4, 1])
    model.eval()(first, second, twin[rows], rows)
    paired, valid = seen[0].second, seen[0].valid
    assert valid.tolist() == [False, True, False, False, True]
    torch.testing.assert_close(paired[rows], model.backbone(twin[rows]))
    torch.testing.assert_close(paired[~valid], model.backbone(second[~valid]))
    to_second, to_twin = torch.autograd.grad(paired.sum(), (second, twin), allow_unused=True, materialize_grads=True)
    assert not to_second.any() and to_twin.any()


def test_under_autocast_the_losses_are_float32():
    first, second, twin = views()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = simclr_model()(first, second, twin[:3], torch.arange(3))
    assert {loss.dtype for loss in output.values()} == {torch.float32}


def test_the_order_of_the_twins_does_not_matter():
    first, second, twin = views()
    rows, order = torch.tensor([0, 2, 3]), torch.tensor([2, 0, 1])
    straight = simclr_model()(first, second, twin[rows], rows)["loss"]
    torch.testing.assert_close(simclr_model()(first, second, twin[rows[order]], rows[order])["loss"], straight)


def test_a_step_never_waits_for_values_on_the_device():
    class Distance(Branch):
        def forward(self, pairs):
            distance = (pairs.first - pairs.second).square().mean(dim=1)
            return {"loss": distance.mean() if pairs.valid is None else distance.dot(pairs.valid.float())}

    class Distances(Framework):
        settings_type, branch_type = FrameworkSettings, Distance

    model = TwoBranch(Distances(small_backbone(batch_norm=True), FrameworkSettings())).to("meta")
    images = torch.empty(3, ROWS, 3, SIZE, SIZE, device="meta")  # reading a value of a meta tensor raises
    rows = torch.empty(2, dtype=torch.int64, device="meta")
    assert model(images[0], images[1], images[2, :2], rows)["loss"].device.type == "meta"


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_below_zero_or_not_finite_is_refused(weight):
    with pytest.raises(ValueError, match="twin_weight"):
        linear_model(weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"second": torch.zeros(4, 3, SIZE, SIZE)}, "alike"),
        ({"first": torch.zeros(0, 3, SIZE, SIZE), "second": torch.zeros(0, 3, SIZE, SIZE)}, "alike"),
        ({"first": torch.zeros(ROWS, 3, SIZE, SIZE, dtype=torch.uint8)}, "augment"),
        ({"twin_rows": None}, "both or neither"),
        ({"twin": torch.zeros(2, 3, SIZE, SIZE + 1)}, "twin must be"),
        ({"twin": torch.zeros(2, 3, SIZE, SIZE, dtype=torch.float64)}, "twin must be"),
        ({"twin_rows": torch.tensor([True, False])}, "int64"),
        ({"twin_rows": torch.tensor([0, 1, 2])}, "int64"),
        ({"twin_rows": torch.tensor([0, ROWS])}, "rows of first"),
        ({"twin_rows": torch.tensor([-1, 0])}, "rows of first"),
        ({"twin_rows": torch.tensor([1, 1])}, "twice"),
    ],
)
def test_a_batch_that_does_not_fit_is_refused(changes, message):
    first, second, twin = views()
    batch = {"first": first, "second": second, "twin": twin[:2], "twin_rows": torch.tensor([0, 1])} | changes
    with pytest.raises(ValueError, match=message):
        linear_model()(**batch)


def test_a_backbone_that_does_not_pool_is_refused():
    backbone = nn.Conv2d(3, 4, 3)
    backbone.num_features = 4
    with pytest.raises(ValueError, match="pool"):
        TwoBranch(LinearFramework(backbone, FrameworkSettings()))(*views(2))


def step_on_rank(rank: int, folder: str) -> None:
    """Runs in a process of its own: one DDP step per case on this rank's half of the batch, written by rank 0."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=WORLD)
    own = views(rows=WORLD * ROWS)[:, rank * ROWS : (rank + 1) * ROWS]
    results = {}
    for case, everyones in TWIN_ROWS.items():
        rows = torch.tensor([row - rank * ROWS for row in everyones if row // ROWS == rank], dtype=torch.int64)
        twins = (own[2][rows], rows) if len(rows) else (None, None)
        for kind, make in (("linear", linear_model), ("simclr", simclr_model)):
            model = DistributedDataParallel(make())
            model(own[0], own[1], *twins)["loss"].backward()
            results[f"{kind}, {case}"] = {name: p.grad for name, p in model.module.named_parameters()}
    if rank == 0:
        torch.save(results, f"{folder}/results.pt")
    dist.destroy_process_group()


def test_two_ranks_with_unequal_twins_step_as_one_process_with_the_global_batch(tmp_path):
    mp.spawn(step_on_rank, (str(tmp_path),), nprocs=WORLD)
    results = torch.load(tmp_path / "results.pt", weights_only=True)
    first, second, twin = views(rows=WORLD * ROWS)
    for case, rows in TWIN_ROWS.items():
        model = linear_model()
        model(first, second, twin[rows], torch.tensor(rows, dtype=torch.int64))["loss"].backward()
        for name, parameter in model.named_parameters():
            difference = (results[f"linear, {case}"][name] - parameter.grad).norm()
            assert difference <= 1e-5 * parameter.grad.norm() + 1e-9, (case, name)
        # With batch norm the statistics are a rank's own, so here only: it ran, and nothing was left out.
        gradients = results[f"simclr, {case}"]
        assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients.values())
