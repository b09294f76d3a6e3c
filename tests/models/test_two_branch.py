import copy
import math
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from infoaug.models import frameworks
from infoaug.models.batch_norm import synchronise
from infoaug.models.frameworks import FrameworkSettings
from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import MultiCropSettings
from infoaug.models.losses import nt_xent
from infoaug.models.two_branch import TwoBranch

WORLD, ROWS, SIZE = 2, 5, 6
WEIGHING = [name for name in frameworks.available() if name not in ("barlow_twins", "vicreg")]
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
    branch_type = LinearBranch


def linear_model(twin_weight: float = 0.5) -> TwoBranch:
    torch.manual_seed(3)
    return TwoBranch(LinearFramework(small_backbone(batch_norm=False), FrameworkSettings()), twin_weight)


def simclr_model(twin_weight: float = 0.5) -> TwoBranch:
    torch.manual_seed(3)
    framework = frameworks.create("simclr", small_backbone(batch_norm=True), output_dim=8)
    return TwoBranch(framework, twin_weight)


def small_model(name: str, twin_weight: float = 0.5, seed: int = 3, **given) -> TwoBranch:
    torch.manual_seed(seed)
    known = frameworks.settings_type(name).model_fields
    sizes = {
        "hidden_dim": 8,
        "output_dim": 6,
        "predictor_dim": 4,
        "queue_size": 7,
        "prototypes": 5,
        "bottleneck_dim": 4,
    }
    settings = {key: size for key, size in sizes.items() if key in known} | given
    return TwoBranch(frameworks.create(name, small_backbone(batch_norm=True), **settings), twin_weight)


def trained(model: TwoBranch) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def train(model: TwoBranch, optimiser: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        first, second, twin = torch.randn(3, ROWS, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(step))
        rows = torch.arange(step % ROWS)
        image, twin_image = torch.arange(ROWS), (torch.arange(ROWS) + 1) % ROWS
        optimiser.zero_grad()
        model(first, second, twin[rows], rows, image, twin_image)["loss"].backward()
        optimiser.step()
        model.after_step((step + 1) / 10)


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


@pytest.mark.parametrize("name", frameworks.available())
def test_every_trained_parameter_of_every_framework_gets_a_gradient_and_no_other_does(name):
    model = small_model(name)
    first, second, twin = views()
    for rows in ([], [2]):
        model.zero_grad()
        model(first, second, twin[rows], torch.tensor(rows, dtype=torch.int64))["loss"].backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained(model))
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@pytest.mark.parametrize(
    ("name", "passes", "momentum_passes"),
    [(name, 3, 0) for name in ("barlow_twins", "nnclr", "simclr", "simsiam", "swav", "vicreg")]
    + [("byol", 3, 3), ("dino", 3, 3), ("moco", 1, 2)],
)
def test_only_what_the_branches_read_passes_through_a_backbone(name, passes, momentum_passes):
    model, seen = small_model(name), {"backbone": 0, "momentum_backbone": 0}
    for part in seen:
        if (backbone := getattr(model, part)) is not None:
            backbone.register_forward_hook(
                lambda module, images, output, part=part: seen.update({part: seen[part] + len(images[0])})
            )
    first, second, twin = views()
    model(first, second, twin, torch.arange(ROWS))
    assert seen == {"backbone": passes * ROWS, "momentum_backbone": momentum_passes * ROWS}
    assert (model.momentum_backbone is not None) == bool(momentum_passes)


@pytest.mark.parametrize("name", ["swav", "dino"])
def test_small_views_reach_the_view_branch_and_neither_the_twin_branch_nor_the_momentum_backbone(name):
    model, seen = small_model(name, small_views=2), {"backbone": [], "momentum_backbone": []}
    for part in seen:
        if (backbone := getattr(model, part)) is not None:
            backbone.register_forward_hook(
                lambda module, images, output, part=part: seen[part].append(tuple(images[0].shape[::3]))
            )
    given = []
    model.twin_branch.register_forward_pre_hook(lambda module, arguments: given.extend(arguments))
    first, second, twin = views()
    small = torch.randn(2 * ROWS, 3, 4, 4, generator=torch.Generator().manual_seed(1), requires_grad=True)
    output = model(first, second, twin[:3], torch.arange(3), small=small)
    assert seen["backbone"] == [(2 * ROWS + 3, SIZE), (2 * ROWS, 4)]
    assert seen["momentum_backbone"] == ([(2 * ROWS + 3, SIZE)] if name == "dino" else [])
    assert given[0].small is None
    plain = small_model(name)(first, second, twin[:3], torch.arange(3))
    assert torch.equal(output["twin_loss"], plain["twin_loss"]) and output["view_loss"] != plain["view_loss"]
    output["loss"].backward()
    assert all(small.grad.flatten(1).any(dim=1)), "every small view counts"


def test_small_views_belong_to_the_row_that_they_are_of():
    class First(LinearBranch):
        reads = ("first", "second", "small")

        def forward(self, pairs):
            given.append(pairs.small)
            return super().forward(pairs)

    class Firsts(LinearFramework):
        branch_type = First

    given: list[torch.Tensor] = []
    model = TwoBranch(Firsts(small_backbone(batch_norm=False), FrameworkSettings()), 0.0)
    first, second, _ = views()
    small = torch.randn(3 * ROWS, 3, 4, 4)
    model(first, second, small=small)
    torch.testing.assert_close(given[0][4, 1], model.backbone(small[13:14])[0])


def test_a_framework_that_asks_for_small_views_and_does_not_read_them_is_refused():
    with pytest.raises(ValueError, match="does not read small"):
        TwoBranch(LinearFramework(small_backbone(batch_norm=False), MultiCropSettings(small_views=1)))


@pytest.mark.parametrize("name", ["moco", "byol", "dino"])
def test_after_a_step_the_momentum_encoder_follows_by_its_rate(name):
    model = small_model(name)
    pairs = [(model.backbone, model.momentum_backbone)]
    for branch in (model.view_branch, model.twin_branch):
        pairs.append((branch.head, branch.momentum_head))
        if name == "dino":
            pairs.append((branch.prototypes, branch.momentum_prototypes))
    with torch.no_grad():
        for parameter in trained(model):
            parameter += torch.randn_like(parameter)
    expected = []
    rate = model.momentum.rate(0.4)
    for online, follower in pairs:
        for p, m in zip(online.parameters(), follower.parameters(), strict=True):
            assert not torch.equal(p, m)
            expected.append(rate * m.detach() + (1 - rate) * p.detach())
    before = [p.detach().clone() for p in trained(model)]
    model.after_step(0.4)
    followed = [m for _, follower in pairs for m in follower.parameters()]
    for got, wanted in zip(followed, expected, strict=True):
        torch.testing.assert_close(got, wanted)
    assert all(torch.equal(p, q) for p, q in zip(trained(model), before, strict=True))
    assert {id(m) for m in followed} == {id(p) for p in model.parameters() if not p.requires_grad}


@pytest.mark.parametrize("name", frameworks.available())
def test_a_run_continued_from_its_state_is_the_run_that_went_on(name):
    whole = small_model(name)
    optimiser = torch.optim.SGD(trained(whole), lr=0.1, momentum=0.9)
    train(whole, optimiser, range(3))
    saved = copy.deepcopy((whole.state_dict(), optimiser.state_dict()))
    train(whole, optimiser, range(3, 6))

    resumed = small_model(name, seed=8)
    optimiser = torch.optim.SGD(trained(resumed), lr=0.1, momentum=0.9)
    resumed.load_state_dict(saved[0])
    optimiser.load_state_dict(saved[1])
    train(resumed, optimiser, range(3, 6))
    assert all(torch.equal(part, resumed.state_dict()[key]) for key, part in whole.state_dict().items())
    assert whole.view_branch.progress == torch.tensor(0.6)


@pytest.mark.parametrize("name", frameworks.available())
def test_a_copied_model_is_one_of_its_own(name):
    model = small_model(name)
    other = copy.deepcopy(model)
    before = {key: part.clone() for key, part in model.state_dict().items()}
    train(other, torch.optim.SGD(trained(other), lr=0.1), range(2))
    assert all(torch.equal(part, before[key]) for key, part in model.state_dict().items())
    if model.momentum is not None:
        moved = [key for key, part in other.state_dict().items() if "momentum" in key and ".weight" in key
                 and not torch.equal(part, before[key])]  # fmt: skip
        assert any(key.startswith("momentum_backbone") for key in moved)
        assert any(key.startswith("twin_branch") for key in moved)


def test_a_patch_and_its_twin_are_no_negatives_of_it_whichever_branch_looks():
    first, second, twin = views()
    rows = torch.tensor([0, 3])
    # Row 1 shows the same patch as row 0, row 2 shows row 0's twin; row 3's twin is not in the batch.
    image, twin_image = torch.tensor([7, 7, 9, 4, 5]), torch.tensor([9, 9, -1, 8, -1])
    model = simclr_model().eval()
    output = model(first, second, twin[rows], rows, image, twin_image)

    def near(anchor: int, candidate: int) -> bool:
        return image[candidate] in (image[anchor], twin_image[anchor])

    z = [nn.functional.normalize(model.view_branch.head(model.backbone(view)), dim=1) for view in (first, second)]
    losses = []
    for side, other in ((0, 1), (1, 0)):
        for row in range(ROWS):
            positive = (z[side][row] @ z[other][row] / 0.5).exp()
            others = [c for c in range(ROWS) if not near(row, c)]
            negatives = sum((z[s][c] @ z[side][row] / 0.5).exp() for s in (0, 1) for c in others)
            losses.append(-(positive / (positive + negatives)).log())
    torch.testing.assert_close(output["view_loss"], sum(losses) / len(losses))
    # The two rows that count in the twin branch are valid_negatives to each other, so it is the loss without names.
    torch.testing.assert_close(output["twin_loss"], model(first, second, twin[rows], rows)["twin_loss"])


def test_a_patch_at_another_time_is_its_positive_and_its_twin_stays_out_of_the_negatives():
    first, second, twin = views()
    model = simclr_model().eval()
    rows, image = torch.tensor([0, 2, 3]), torch.arange(ROWS)
    twin_image, shown = torch.tensor([3, -1, 1, 0, -1]), torch.tensor([0, -1, 1, 0, -1])
    loss = model(first, second, twin[rows], rows, image, twin_image, shown=shown)["twin_loss"]
    z, twins = (nn.functional.normalize(model.twin_branch.head(model.backbone(part[rows])), dim=1)
                for part in (first, twin))  # fmt: skip
    # Rows 0 and 3 are each other's twins, so only row 2 and what it shows are negatives of either, and they are its.
    shows = [0, 1, 0]
    known = [{0, 3}, {2, 1}, {3, 0}]
    losses = []
    for row in range(3):
        for anchor, other in ((z, twins), (twins, z)):
            positive = (anchor[row] @ other[row] / 0.5).exp()
            candidates = [(z[c], [0, 2, 3][c]) for c in range(3)] + [(twins[c], shows[c]) for c in range(3)]
            negatives = sum((anchor[row] @ c / 0.5).exp() for c, patch in candidates if patch not in known[row])
            losses.append(-(positive / (positive + negatives)).log())
    torch.testing.assert_close(loss, sum(losses) / len(losses))
    alone = torch.where(twin_image >= 0, image, -1)  # the policy `later`: a patch is its own twin
    given = (first, second, twin[rows], rows, image, alone)
    torch.testing.assert_close(model(*given)["twin_loss"], model(*given, shown=alone)["twin_loss"])


def test_two_patches_with_the_same_twin_are_told_apart_without_it():
    first, second, twin = views()
    model = simclr_model().eval()
    rows, image = torch.tensor([0, 3]), torch.arange(ROWS)
    shared = torch.tensor([9, -1, -1, 9, -1])
    loss = model(first, second, twin[rows], rows, image, shared)["twin_loss"]
    z, twins = (nn.functional.normalize(model.twin_branch.head(model.backbone(part[rows])), dim=1)
                for part in (first, twin))  # fmt: skip
    losses = []
    for row, other in ((0, 1), (1, 0)):
        positive = (z[row] @ twins[row] / 0.5).exp()
        # A first's negative is the other first, its twin is out; a twin's is the other first, which is not its pair.
        losses.append(-(positive / (positive + (z[row] @ z[other] / 0.5).exp())).log())
        losses.append(-(positive / (positive + (twins[row] @ z[other] / 0.5).exp())).log())
    torch.testing.assert_close(loss, sum(losses) / 4)


# Partners of five patches, how they are weighted, and which of them a step shows: 3, none, 1, 2 and 1 of them.
KNOWN = torch.tensor([[7, 3, 9], [6, -1, -1], [8, 0, -1], [9, 2, -1], [7, -1, -1]])
SHOWN = torch.tensor([[7, 3, 9], [-1, -1, -1], [-1, 0, -1], [9, 2, -1], [4, -1, -1]])  # the last: itself, later
WEIGHT = torch.tensor([[0.5, 0.3, 0.2], [0, 0, 0], [0, 1, 0], [0.9, 0.1, 0], [1, 0, 0]])
PLACES = (SHOWN.flatten() >= 0).nonzero()[:, 0]


def test_with_several_partners_the_loss_is_the_weighted_mean_over_the_partners_of_each_patch():
    (first, second), others = views(2), views(1, rows=len(PLACES))[0].flip(0)
    model, image = simclr_model().eval(), torch.arange(ROWS)
    loss = model(first, second, others, PLACES, image, KNOWN, shown=SHOWN, weight=WEIGHT)["twin_loss"]
    z, t = (nn.functional.normalize(model.twin_branch.head(model.backbone(part)), dim=1) for part in (first, others))
    rows, shown = (PLACES // 3).tolist(), SHOWN.flatten()[PLACES].tolist()
    # A patch is a negative of others once, however many partners it is shown with.
    everyone = [(z[row], row) for row in sorted(set(rows))] + list(zip(t, shown, strict=True))
    total = 0.0
    for place, row, twin in zip(PLACES.tolist(), rows, t, strict=True):
        known = {row, *KNOWN[row].tolist()}
        for anchor, other in ((z[row], twin), (twin, z[row])):
            positive = (anchor @ other / 0.5).exp()
            negatives = sum((anchor @ c / 0.5).exp() for c, patch in everyone if patch not in known)
            total = total - WEIGHT.flatten()[place] * (positive / (positive + negatives)).log()
    torch.testing.assert_close(loss, total / 2 / len(set(rows)))


def test_the_backbone_sees_a_patch_once_however_many_partners_it_has():
    seen, model = [], simclr_model()
    model.backbone.register_forward_hook(lambda module, images, output: seen.append(len(images[0])))
    (first, second), others = views(2), views(1, rows=len(PLACES))[0]
    model(first, second, others, PLACES, torch.arange(ROWS), KNOWN, shown=SHOWN, weight=WEIGHT)
    assert sum(seen) == 2 * ROWS + len(PLACES)


@pytest.mark.parametrize("name", WEIGHING)
def test_one_partner_with_all_the_weight_is_a_twin(name):
    (first, second, twin), rows = views().double(), torch.tensor([0, 3, 4])
    image, partner = torch.arange(ROWS), torch.tensor([2, -1, -1, 7, 1])
    one, other = small_model(name).double(), small_model(name).double()
    plain = one(first, second, twin[rows], rows, image, partner)
    weight = (partner >= 0).double()[:, None]
    weighted = other(first, second, twin[rows], rows, image, partner[:, None], weight=weight)
    assert {key: value.item() for key, value in weighted.items()} == pytest.approx(
        {key: value.item() for key, value in plain.items()}, rel=1e-9
    )


@pytest.mark.parametrize("name", WEIGHING)
def test_rows_from_no_video_take_no_part_beside_patches_with_several_partners(name):
    model, others = small_model(name).eval(), views(1, rows=len(PLACES))[0]
    first, second = views(2)
    given = {"shown": SHOWN, "weight": WEIGHT}
    alone = model(first, second, others, PLACES, torch.arange(ROWS), KNOWN, **given)["twin_loss"]
    place = torch.tensor([0, 1, 3, 4, 6])  # in the batch: rows 2 and 5 are from no video
    beside = torch.full((7, 3), -1)
    images = [torch.randn(7, 3, SIZE, SIZE).index_copy(0, place, part) for part in (first, second)]
    known, shown = (beside.index_copy(0, place, part) for part in (KNOWN, SHOWN))
    weight = torch.zeros(7, 3).index_copy(0, place, WEIGHT)
    image = torch.tensor([0, 1, 20, 2, 3, 21, 4])
    places = place[PLACES // 3] * 3 + PLACES % 3
    got = model(*images, others, places, image, known, video_rows=place, shown=shown, weight=weight)["twin_loss"]
    torch.testing.assert_close(got, alone)


def test_the_baseline_does_not_know_which_patches_are_twins():
    first, second, twin = views()
    image, twin_image = torch.arange(ROWS), torch.tensor([1, 2, 0, -1, 0])
    baseline = simclr_model(0.0)
    named = baseline(first, second, twin, torch.arange(ROWS), image, twin_image)
    assert torch.equal(named["loss"], simclr_model(0.0)(first, second)["loss"])


@pytest.mark.parametrize("name", frameworks.available())
def test_what_else_a_branch_gives_is_named_after_it(name):
    first, second, twin = views()
    output = small_model(name)(first, second, twin[:3], torch.arange(3))
    extras = {key for key in output if key not in ("loss", "view_loss", "twin_loss")}
    assert {key.removeprefix("view_") for key in extras if key.startswith("view_")} == {
        key.removeprefix("twin_") for key in extras if key.startswith("twin_")
    }
    assert not any(output[key].requires_grad for key in extras) and all(output[key].ndim == 0 for key in output)
    assert not any(key.startswith("twin_") for key in small_model(name, 0.0)(first, second) if key in extras)


def test_the_mutual_information_logged_stays_below_the_logarithm_of_what_there_is_to_choose_from():
    first, second, twin = views()
    output = simclr_model()(first, second, twin[:3], torch.arange(3))
    assert output["view_mutual_information"] <= math.log(2 * ROWS - 1)
    assert output["twin_mutual_information"] <= math.log(2 * 3 - 1)


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


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight", [0.0, 0.5])
@pytest.mark.parametrize("name", frameworks.available())
def test_every_framework_learns_a_fixed_batch_with_and_without_the_twin_branch(name, weight, precision):
    model = small_model(name, weight)
    optimiser = torch.optim.SGD(trained(model), lr=0.05)
    first, second, twin = views(rows=16)
    second, twin = first + 0.3 * second, first.roll(1, 0) + 0.3 * twin
    rows, image = torch.arange(0, 16, 2), torch.arange(16)
    twin_image = torch.full_like(image, -1).index_copy(0, rows, (rows - 1) % 16)
    losses = []
    for step in range(20):
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == torch.bfloat16):
            loss = model(first, second, twin[rows], rows, image, twin_image)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        model.after_step((step + 1) / 20)
        losses.append(loss.item())
    assert all(part.isfinite().all() for part in model.state_dict().values()) and all(map(math.isfinite, losses))
    # A queue starts with random keys, which are easy: the first of its own make the loss rise before it falls.
    assert losses[-1] < 0.95 * max(losses[:5])


@pytest.mark.parametrize("name", frameworks.available())
def test_under_autocast_the_losses_are_float32(name):
    first, second, twin = views()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = small_model(name)(first, second, twin[:3], torch.arange(3))
    assert {loss.dtype for loss in output.values()} == {torch.float32}


@pytest.mark.parametrize("name", frameworks.available())
def test_rows_from_no_video_are_seen_by_the_view_branch_and_not_by_the_twin_branch(name):
    def losses(stills: torch.Tensor) -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        known = frameworks.settings_type(name).model_fields
        sizes = {"hidden_dim": 8, "output_dim": 6, "predictor_dim": 4, "queue_size": 7, "prototypes": 5}
        settings = {key: size for key, size in sizes.items() if key in known}
        # The backbone has no batch statistics, which all images of a step share. Those of the heads are a branch's own.
        model = TwoBranch(frameworks.create(name, small_backbone(batch_norm=False), **settings)).double()
        first, second, twin = views().double()
        image, partner = torch.arange(5), torch.tensor([2, 9, 8, -1, -1])
        if not len(stills):
            return model(first, second, twin[:3], torch.arange(3), image, partner)
        place = torch.tensor([0, 5, 1, 2, 6, 3, 4])  # in the batch: rows 5 and 6 are from no video
        first, second = (torch.cat([part, stills])[place] for part in (first, second))
        image, partner = (
            torch.cat([image, torch.tensor([20, 21])])[place],
            torch.cat([partner, torch.tensor([-1, -1])])[place],
        )
        return model(first, second, twin[:3], torch.tensor([0, 2, 3]), image, partner, (place < 5).nonzero()[:, 0])

    def twins(found: dict[str, torch.Tensor]) -> dict[str, float]:
        return {key: value.item() for key, value in found.items() if key.startswith("twin_")}

    alone, beside, others = losses(torch.zeros(0, 3, SIZE, SIZE)), *(losses(s.double()) for s in views(2, rows=2))
    assert twins(beside) == pytest.approx(twins(alone), rel=1e-9, abs=1e-12)
    assert twins(others) == pytest.approx(twins(alone), rel=1e-9, abs=1e-12)
    assert len({round(found["view_loss"].item(), 9) for found in (alone, beside, others)}) == 3


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
        branch_type = Distance

    model = TwoBranch(Distances(small_backbone(batch_norm=True), FrameworkSettings())).to("meta")
    images = torch.empty(3, ROWS, 3, SIZE, SIZE, device="meta")  # reading a value of a meta tensor raises
    rows = torch.empty(2, dtype=torch.int64, device="meta")
    assert model(images[0], images[1], images[2, :2], rows)["loss"].device.type == "meta"


@pytest.mark.parametrize("name", frameworks.available())
def test_no_framework_waits_for_values_on_the_device(name, monkeypatch):
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **settings: nullcontext())  # it knows no meta tensors
    model = small_model(name).to("meta")
    images = torch.empty(3, ROWS, 3, SIZE, SIZE, device="meta")
    rows, named = (torch.empty(count, dtype=torch.int64, device="meta") for count in (2, ROWS))
    video = torch.empty(4, dtype=torch.int64, device="meta")
    output = model(images[0], images[1], images[2, :2], rows, named, named, video)
    output["loss"].backward()
    model.after_step(0.5)
    assert output["loss"].device.type == "meta"


@pytest.mark.parametrize("progress", [-0.1, 1.1, math.nan])
def test_a_progress_that_is_no_share_is_refused(progress):
    with pytest.raises(ValueError, match="progress"):
        simclr_model().after_step(progress)


def test_a_branch_that_reads_what_there_is_not_is_refused():
    class Wrong(LinearBranch):
        reads = ("first", "third")

    class WrongFramework(LinearFramework):
        branch_type = Wrong

    with pytest.raises(ValueError, match="third"):
        TwoBranch(WrongFramework(small_backbone(batch_norm=False), FrameworkSettings()))


def test_a_momentum_copy_without_momentum_in_the_settings_is_refused():
    class Following(LinearBranch):
        def __init__(self, num_features, settings):
            super().__init__(num_features, settings)
            self.follower = self.momentum_copy(self.head)

    class FollowingFramework(LinearFramework):
        branch_type = Following

    with pytest.raises(ValueError, match="MomentumSettings"):
        TwoBranch(FollowingFramework(small_backbone(batch_norm=False), FrameworkSettings()))


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf])
def test_a_weight_below_zero_or_not_finite_is_refused(weight):
    with pytest.raises(ValueError, match="twin_weight"):
        linear_model(weight)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"second": torch.zeros(4, 3, SIZE, SIZE)}, "first and second"),
        ({"first": torch.zeros(0, 3, SIZE, SIZE), "second": torch.zeros(0, 3, SIZE, SIZE)}, "first and second"),
        ({"first": torch.zeros(ROWS, 3, SIZE, SIZE, dtype=torch.uint8)}, "augment"),
        ({"twin_rows": None}, "both or neither"),
        ({"twin": torch.zeros(2, 3, SIZE, SIZE + 1)}, "twin must be"),
        ({"twin": torch.zeros(2, 3, SIZE, SIZE, dtype=torch.float64)}, "twin must be"),
        ({"twin_rows": torch.tensor([True, False])}, "int64"),
        ({"twin_rows": torch.tensor([0, 1, 2])}, "int64"),
        ({"twin_rows": torch.tensor([0, ROWS])}, "rows of first"),
        ({"twin_rows": torch.tensor([-1, 0])}, "rows of first"),
        ({"twin_rows": torch.tensor([1, 1])}, "twice"),
        ({"image": torch.arange(ROWS)}, "both or neither"),
        ({"small": torch.zeros(ROWS + 1, 3, 4, 4)}, "small must be"),
        ({"small": torch.zeros(0, 3, 4, 4)}, "small must be"),
        ({"small": torch.zeros(ROWS, 4, 4)}, "small must be"),
        ({"small": torch.zeros(ROWS, 3, 4, 4, dtype=torch.uint8)}, "small must be"),
        (
            {"image": torch.arange(ROWS), "twin_image": torch.ones(2, dtype=torch.int64)},
            r"twin_image must be int64\[5\]",
        ),
        ({"image": torch.ones(ROWS), "twin_image": torch.arange(ROWS)}, "image must be int64"),
        ({"image": torch.arange(ROWS), "twin_image": torch.tensor([2, -1, -1, -1, -1])}, "which patch its twin is"),
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


def step_on_rank(rank: int) -> dict:
    """Runs in a process of its own: one DDP step per case on this rank's half of the batch, written by rank 0."""
    own = views(rows=WORLD * ROWS)[:, rank * ROWS : (rank + 1) * ROWS]
    results = {}
    for case, everyones in TWIN_ROWS.items():
        rows = torch.tensor([row - rank * ROWS for row in everyones if row // ROWS == rank], dtype=torch.int64)
        twins = (own[2][rows], rows) if len(rows) else (None, None)
        for kind, make in (("linear", linear_model), ("simclr", simclr_model)):
            model = DistributedDataParallel(make())
            model(own[0], own[1], *twins)["loss"].backward()
            results[f"{kind}, {case}"] = {name: p.grad for name, p in model.module.named_parameters()}
    return results


def test_two_ranks_with_unequal_twins_step_as_one_process_with_the_global_batch(two_ranks):
    results = two_ranks(step_on_rank)[0]
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


def several_partners(name: str, ranks: slice) -> tuple[TwoBranch, dict]:
    """A model, and these rows of a global batch of ten patches with up to three partners: rank 0 has nearly all."""
    first, second, *others = views(5, rows=WORLD * ROWS).double()
    shown = torch.cat([SHOWN, torch.full_like(SHOWN, -1)])
    shown[8, :2] = torch.tensor([3, 6])
    weight = torch.cat([WEIGHT, torch.zeros_like(WEIGHT)])
    weight[8] = torch.tensor([0.25, 0.75, 0])
    shown, weight = shown[ranks], weight[ranks]
    there = (shown.flatten() >= 0).nonzero()[:, 0]
    given = {
        "first": first[ranks],
        "second": second[ranks],
        "twin": torch.stack(others, dim=1)[ranks].flatten(0, 1)[there],
        "twin_rows": there,
        "image": torch.arange(WORLD * ROWS)[ranks],
        "twin_image": torch.where(weight > 0, shown, -1),
        "shown": shown,
        "weight": weight,
    }
    return small_model(name).double(), given


def partners_on_rank(rank: int) -> dict:
    """Runs in a process of its own: one DDP step of every framework on this rank's half of the batch."""
    results = {}
    for name in WEIGHING:
        model, given = several_partners(name, slice(rank * ROWS, (rank + 1) * ROWS))
        parallel = DistributedDataParallel(synchronise(model))
        parallel(**given)["loss"].backward()
        results[name] = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        results[name] |= {f"{key}, a buffer": part for key, part in model.named_buffers() if "queue" in key}
    return results


def test_two_ranks_with_several_partners_step_as_one_process_with_the_global_batch(two_ranks):
    results = two_ranks(partners_on_rank)[0]
    for name in WEIGHING:
        model, given = several_partners(name, slice(None))
        model(**given)["loss"].backward()
        for key, parameter in model.named_parameters():
            if parameter.grad is not None:
                torch.testing.assert_close(
                    results[name][key], parameter.grad, rtol=1e-6, atol=1e-9, msg=f"{name} {key}"
                )
        for key, part in model.named_buffers():
            if "queue" in key:
                torch.testing.assert_close(results[name][f"{key}, a buffer"], part, msg=f"{name} {key}")
