import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from infoaug.models import frameworks
from infoaug.models.batch_norm import synchronise
from infoaug.models.ranks import gather_across_ranks, gather_rows, mean_over_ranks, row_numbers, sum_over_ranks, world
from infoaug.models.two_branch import TwoBranch

WORLD, ROWS, SIZE = 2, 6, 5
SIZES = {"hidden_dim": 8, "output_dim": 6, "predictor_dim": 4, "queue_size": 7, "prototypes": 5, "bottleneck_dim": 4}
RING = {"kind": "ring", "inner": 0.2, "outer": 0.6, "anneal": "linear"}
IMAGE = torch.tensor([0, 1, 2, 3, 4, 5, 6, 1, 8, 9, 10, 11])  # rows 1 and 7, on different ranks, show the same image
TWIN = torch.tensor([  # of every step: unequal over the ranks, none on rank 1, none at all, unequal again
    [5, 0, 8, -1, 2, 0, -1, -1, -1, 2, -1, -1],
    [5, 0, 8, -1, 2, 0, -1, -1, -1, -1, -1, -1],
    [-1] * 12,
    [1, 2, -1, -1, -1, -1, 11, -1, 3, 2, 0, 8],
])  # fmt: skip
STILL = torch.arange(WORLD * ROWS) % ROWS == 3  # a row of each rank
CASES = ((0.0, False), (0.5, False), (0.5, True))  # twin weight; whether there are rows from no video
SMALL_VIEWS = 2
MULTI_CROP = [name for name in frameworks.available() if "small_views" in frameworks.settings_type(name).model_fields]


def make(name: str, weight: float, small: bool = False) -> TwoBranch:
    torch.manual_seed(0)
    pooled = nn.AdaptiveAvgPool2d(2), nn.Flatten()
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 2), nn.BatchNorm2d(6), *pooled
    )
    backbone.num_features = 24
    known = frameworks.settings_type(name).model_fields
    settings = {key: size for key, size in SIZES.items() if key in known}
    if "negatives" in known:
        settings["negatives"] = RING
    if small:
        settings["small_views"] = SMALL_VIEWS
    return synchronise(TwoBranch(frameworks.create(name, backbone, **settings), weight).double())


def train(model: nn.Module, stills: bool, rank: int, world: int) -> dict[str, torch.Tensor]:
    """A few steps on this rank's part of the batches: the losses, the gradients, and the state at the end."""
    bare = model.module if isinstance(model, DistributedDataParallel) else model
    optimiser = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    random = torch.Generator().manual_seed(1)
    rows = WORLD * ROWS // world
    own = slice(rank * rows, (rank + 1) * rows)
    found = {}
    for step in range(len(TWIN)):
        first, second, twin = torch.randn(3, WORLD * ROWS, 3, SIZE, SIZE, generator=random, dtype=torch.float64)[:, own]
        partner = TWIN[step, own].where(~STILL[own], -1) if stills else TWIN[step, own]
        twin_rows = (partner >= 0).nonzero()[:, 0]
        video = (~STILL[own]).nonzero()[:, 0] if stills else None
        batch = (first, second, twin[twin_rows], twin_rows, IMAGE[own], partner, video)
        crops = None
        if bare.multi_crop:
            crops = torch.randn(WORLD * ROWS, SMALL_VIEWS, 3, 4, 4, generator=random, dtype=torch.float64)
            crops = crops[own].flatten(0, 1)
        output = model(*batch, small=crops)
        optimiser.zero_grad()
        output["loss"].backward()
        optimiser.step()
        bare.after_step((step + 1) / len(TWIN))
        for name, value in output.items():
            value = value.detach().clone()
            if world > 1:
                dist.all_reduce(value)
            found[f"{name} of step {step}"] = value / world
        gradients = {name: p.grad.clone() for name, p in bare.named_parameters() if p.requires_grad}
        found |= {f"gradient of {name} at step {step}": gradient for name, gradient in gradients.items()}
    return found | {f"state {name}": value.clone() for name, value in bare.state_dict().items()}


def on_rank(rank: int) -> dict:
    """Runs in a process of its own: every framework, and the small functions."""
    results = {}
    for name in frameworks.available():
        for weight, stills in CASES:
            results[name, weight, stills] = train(DistributedDataParallel(make(name, weight)), stills, rank, WORLD)
    for name in MULTI_CROP:
        results[name] = train(DistributedDataParallel(make(name, 0.5, small=True)), True, rank, WORLD)
    values = (torch.arange(3.0) + 10 * rank).requires_grad_()
    counts = torch.tensor([True, rank == 0, False])
    mean = mean_over_ranks(values.square(), counts)
    mean.backward()
    results["mean"] = mean.detach(), values.grad
    gathered = gather_across_ranks(values)
    (gradient,) = torch.autograd.grad((gathered * torch.tensor([[1.0], [2.0]])).sum() * (rank + 1), values)
    results["gathered"] = gathered.detach(), gather_rows(counts), gradient, row_numbers(3, values.device), world()
    total = sum_over_ranks(values)
    (gradient,) = torch.autograd.grad((total * torch.tensor([1.0, 2.0, 3.0])).sum() * (rank + 1), values)
    results["sum"] = total.detach(), gradient, values.detach()
    return results


@pytest.fixture(scope="module")
def ranks(two_ranks) -> list[dict]:
    return two_ranks(on_rank)


@pytest.mark.parametrize(("weight", "stills"), CASES)
@pytest.mark.parametrize("name", frameworks.available())
def test_two_ranks_train_as_one_process_with_the_global_batch(ranks, name, weight, stills):
    expected = train(make(name, weight), stills, 0, 1)
    assert any(value.norm() > 0 for key, value in expected.items() if key.startswith("gradient"))
    for found in ranks:
        assert found[name, weight, stills].keys() == expected.keys()
        for key, value in expected.items():
            difference = (found[name, weight, stills][key].double() - value.double()).norm()
            assert difference <= 1e-7 * value.double().norm() + 1e-12, key


@pytest.mark.parametrize("name", MULTI_CROP)
def test_two_ranks_train_with_small_views_as_one_process_does(ranks, name):
    expected = train(make(name, 0.5, small=True), True, 0, 1)
    without = train(make(name, 0.5), True, 0, 1)
    assert expected["view_loss of step 0"] != without["view_loss of step 0"]
    for found in ranks:
        for key, value in expected.items():
            difference = (found[name][key].double() - value.double()).norm()
            assert difference <= 1e-7 * value.double().norm() + 1e-12, key


def test_a_mean_over_ranks_weighs_all_entries_that_count_alike(ranks):
    # 0² and 1² count on rank 0, 10² on rank 1.
    values, gradients = zip(*(found["mean"] for found in ranks), strict=True)
    assert sum(values).item() / WORLD == pytest.approx((0 + 1 + 100) / 3)
    for gradient, counted in zip(gradients, ([0.0, 1.0, 0.0], [10.0, 0.0, 0.0]), strict=True):
        torch.testing.assert_close(gradient / WORLD, 2 * torch.tensor(counted) / 3)


def test_rows_are_gathered_in_the_order_of_the_ranks_with_the_sum_of_their_gradients(ranks):
    for rank, found in enumerate(ranks):
        gathered, counts, gradient, numbers, place = found["gathered"]
        assert gathered.tolist() == [[0, 1, 2], [10, 11, 12]]
        assert counts.tolist() == [True, True, False, True, False, False]
        assert gradient.tolist() == [3 * (rank + 1)] * 3
        assert numbers.tolist() == [3 * rank, 3 * rank + 1, 3 * rank + 2] and place == (WORLD, rank)


def test_a_sum_over_ranks_is_the_same_on_all_with_the_sum_of_their_gradients(ranks):
    for rank, found in enumerate(ranks):
        total, gradient, values = found["sum"]
        assert total.tolist() == [10, 12, 14]
        assert gradient.tolist() == [3, 6, 9]  # of rank 0's sum, and twice that of rank 1's
        assert values.tolist() == [10 * rank, 10 * rank + 1, 10 * rank + 2]  # summing leaves them as they were


def test_one_process_is_a_world_of_its_own():
    values, counts = torch.tensor([1.0, 2.0, torch.nan]), torch.tensor([True, True, False])
    assert world() == (1, 0) and row_numbers(2, values.device).tolist() == [0, 1]
    assert gather_across_ranks(values).shape == (1, 3) and torch.equal(gather_rows(counts), counts)
    assert sum_over_ranks(values) is values
    assert mean_over_ranks(values, counts).item() == 1.5 and mean_over_ranks(values[:2]).item() == 1.5
    assert mean_over_ranks(values, torch.zeros(3, dtype=torch.bool)).item() == 0
