import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from infoaug.models import frameworks
from infoaug.models.frameworks.base import Branch, Framework, Pairs
from infoaug.models.frameworks.settings import views_of_a_row
from infoaug.models.settings import Momentum

ROWS, WIDTH = 6, 12
SIZES = {"hidden_dim": 10, "output_dim": 7, "predictor_dim": 5, "queue_size": 9, "prototypes": 4, "bottleneck_dim": 5}
IMAGE = torch.tensor([0, 1, 2, 1, 4, 5])  # rows 1 and 3 show the same image
TWIN = torch.tensor([1, 0, -1, 5, 3, 3])
# Three patches with up to two partners each, in two rows: what both sides of the rows show, then what is known to it.
SEVERAL = torch.tensor([[0, 3, 4], [0, 3, 4], [1, 5, -1], [1, 5, -1], [2, 3, 1], [2, 3, 1]])
PARTNERS = torch.tensor([[3, 0, 4], [4, 3, 0], [5, 1, -1], [-1, 5, -1], [3, 2, 1], [1, 3, 2]])
WEIGHT = torch.tensor([0.8, 0.2, 1.0, 0.0, 0.5, 0.5])
REPEATED = torch.tensor([False, True, False, False, False, True])


class Flat(nn.Module):
    num_features = WIDTH

    def forward(self, images):
        return images.flatten(1)


def small(name: str, **settings) -> Framework:
    known = frameworks.settings_type(name).model_fields
    sizes = {key: size for key, size in SIZES.items() if key in known}
    return frameworks.create(name, Flat(), **sizes | settings)


def make(name: str, **settings) -> Branch:
    """A small branch whose momentum copies and queue differ from what they started from."""
    torch.manual_seed(0)
    branch = small(name, **settings).make_branch().double()
    with torch.no_grad():
        for parameter in branch.parameters():
            if not parameter.requires_grad:
                parameter += 0.1 * torch.randn_like(parameter)
    if hasattr(branch, "queue"):
        branch.queue.keys = nn.functional.normalize(branch.queue.keys, dim=1)
        branch.queue.image = torch.arange(len(branch.queue.image)) - 2
    if hasattr(branch, "center"):
        branch.center = 0.1 * torch.randn_like(branch.center)
    return branch


def features(case: str = "plain") -> Pairs:
    """Six pairs: without names, as the view branch has them, or as the twin branch has them, with several partners."""
    generator = torch.Generator().manual_seed(1)
    first, second, *momentum = torch.randn(4, ROWS, WIDTH, generator=generator, dtype=torch.float64)
    pairs = Pairs(first.requires_grad_(), second.requires_grad_(), *momentum)
    own, partner = torch.stack([IMAGE, TWIN], dim=1), torch.stack([TWIN, IMAGE], dim=1)
    if case == "views":
        return replace(pairs, first_identity=own, second_identity=own)
    if case == "twins":
        return replace(pairs, valid=TWIN >= 0, first_identity=own, second_identity=partner)
    if case == "several":
        first = first.detach()[::2].repeat_interleave(2, dim=0).requires_grad_()
        repeats = replace(pairs, first=first, momentum_first=pairs.momentum_first[::2].repeat_interleave(2, dim=0))
        names = {"first_identity": SEVERAL, "second_identity": PARTNERS}
        return replace(repeats, valid=WEIGHT > 0, weight=WEIGHT, repeated=REPEATED, **names)
    return pairs


def cosine(u: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return u.dot(v) / (u.dot(u).sqrt() * v.dot(v).sqrt())


def shown(identity: torch.Tensor | None, row: int) -> tuple[set, object]:
    """What must not be a row's negative, and what the row shows."""
    return ({row}, row) if identity is None else (set(identity[row].tolist()) - {-1}, identity[row, 0].item())


def counted(pairs: Pairs) -> list[int]:
    return [row for row in range(ROWS) if pairs.valid is None or pairs.valid[row]]


def weighed(losses: list, rows: list[int], pairs: Pairs) -> Any:
    """The mean of the losses of these rows."""
    weights = [1.0 if pairs.weight is None else pairs.weight[row].item() for row in rows]
    return sum(w * loss for w, loss in zip(weights, losses, strict=True)) / sum(weights)


def different(pairs: Pairs, first: bool) -> list[int]:
    """The rows that count on a side, without those that repeat what an earlier one shows there."""
    return [row for row in counted(pairs) if not (first and pairs.repeated is not None and pairs.repeated[row])]


def chosen(negatives: list[torch.Tensor], branch: Branch) -> list[torch.Tensor]:
    """The ring of an anchor's similarities."""
    choice, n = branch.settings.negatives, len(negatives)
    if choice.kind == "all":
        return negatives
    return sorted(negatives, key=torch.Tensor.item, reverse=True)[round(choice.inner * n) : round(choice.outer * n)]


def literal_nt_xent(branch, pairs, decoupled=False):
    first, second = branch.head(torch.cat([pairs.first, pairs.second])).chunk(2)
    temperature, losses, bounds = branch.settings.temperature, [], []
    sides = ((first, pairs.first_identity), (second, pairs.second_identity))
    for row in counted(pairs):
        for (z, identity), (other, _) in (sides, sides[::-1]):
            near, _ = shown(identity, row)
            negatives = [
                cosine(z[row], candidate[k]) / temperature
                for candidate, names in sides for k in different(pairs, candidate is first)
                if shown(names, k)[1] not in near
            ]  # fmt: skip
            negatives = chosen(negatives, branch)
            positive = cosine(z[row], other[row]) / temperature
            below = sum(s.exp() for s in negatives)
            entropy = -torch.log(positive.exp() / (positive.exp() + below))
            losses.append(-torch.log(positive.exp() / below) if decoupled else entropy)
            bounds.append(math.log(len(negatives) + 1) - entropy.item())
    rows = [row for row in counted(pairs) for _ in sides]
    return weighed(losses, rows, pairs), weighed(bounds, rows, pairs)


def literal_moco(branch, pairs):
    queries, keys = branch.head(pairs.first), branch.momentum_head(pairs.momentum_second)
    temperature, losses, bounds = branch.settings.temperature, [], []
    for row in counted(pairs):
        near = set() if pairs.first_identity is None else shown(pairs.first_identity, row)[0]
        queue = zip(branch.queue.keys, branch.queue.image.tolist(), strict=True)
        negatives = [cosine(queries[row], key) / temperature for key, image in queue if image not in near]
        negatives = chosen(negatives, branch)
        positive = cosine(queries[row], keys[row]) / temperature
        losses.append(-torch.log(positive.exp() / (positive.exp() + sum(s.exp() for s in negatives))))
        bounds.append(math.log(len(negatives) + 1) - losses[-1].item())
    return weighed(losses, counted(pairs), pairs), weighed(bounds, counted(pairs), pairs)


def literal_byol(branch, pairs):
    predictions = [branch.predictor(branch.head(part)) for part in (pairs.first, pairs.second)]
    targets = [branch.momentum_head(part).detach() for part in (pairs.momentum_first, pairs.momentum_second)]

    def distance(q, z):
        return (q / q.norm() - z / z.norm()).square().sum()

    losses = [distance(predictions[0][r], targets[1][r]) + distance(predictions[1][r], targets[0][r])
              for r in counted(pairs)]  # fmt: skip
    return weighed(losses, counted(pairs), pairs), None


def literal_simsiam(branch, pairs):
    z = [branch.head(part) for part in (pairs.first, pairs.second)]
    p = [branch.predictor(part) for part in z]
    losses = [-cosine(p[0][r], z[1][r].detach()) / 2 - cosine(p[1][r], z[0][r].detach()) / 2 for r in counted(pairs)]
    return 1 + weighed(losses, counted(pairs), pairs), None


def literal_barlow_twins(branch, pairs):
    z, n = [branch.head(part)[counted(pairs)] for part in (pairs.first, pairs.second)], len(counted(pairs))
    z = [part - sum(part) / n for part in z]
    deviation = [(sum(row.square() for row in part) / n + 1e-5).sqrt() for part in z]
    loss = 0
    for i in range(7):
        for j in range(7):
            c = sum(z[0][b, i] * z[1][b, j] for b in range(n)) / (n * deviation[0][i] * deviation[1][j])
            loss = loss + ((1 - c).square() if i == j else 0.0051 * c.square())
    return loss, None


def literal_vicreg(branch, pairs):
    z, n, d = [branch.head(part)[counted(pairs)] for part in (pairs.first, pairs.second)], len(counted(pairs)), 7
    s = sum((z[0][b] - z[1][b]).square().sum() for b in range(n)) / (n * d)
    v = c = 0
    for part in z:
        mean = sum(part) / n
        cov = sum(torch.outer(row - mean, row - mean) for row in part) / (n - 1)
        v = v + sum(torch.relu(1 - (cov[j, j] + 1e-4).sqrt()) for j in range(d)) / d
        c = c + sum(cov[i, j].square() for i in range(d) for j in range(d) if i != j) / d
    return 25 * s + 25 * v / 2 + c, None


def literal_nnclr(branch, pairs):
    first, second = branch.head(pairs.first), branch.head(pairs.second)
    sides = ((first, pairs.first_identity, second, pairs.second_identity),
             (second, pairs.second_identity, first, pairs.first_identity))  # fmt: skip
    temperature, losses, bounds = branch.settings.temperature, [], []
    for own, identity, other, other_identity in sides:
        predictions = branch.predictor(other)
        for row in counted(pairs):
            place = max(range(len(branch.queue.keys)), key=lambda k: cosine(own[row], branch.queue.keys[k]).item())
            near, _ = shown(identity, row)
            if identity is not None:
                near = near | ({branch.queue.image[place].item()} - {-2, -1})
            candidates = [k for k in different(pairs, other is first) if shown(other_identity, k)[1] not in near]
            neighbour = branch.queue.keys[place]
            negatives = chosen([cosine(neighbour, predictions[k]) / temperature for k in candidates], branch)
            positive = cosine(neighbour, predictions[row]) / temperature
            losses.append(-torch.log(positive.exp() / (positive.exp() + sum(s.exp() for s in negatives))))
            bounds.append(math.log(len(negatives) + 1) - losses[-1].item())
    return weighed(losses, counted(pairs) * 2, pairs), weighed(bounds, counted(pairs) * 2, pairs)


def cross_entropy(target: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    return -sum(t * torch.log(s.exp() / logits.exp().sum()) for t, s in zip(target, logits, strict=True))


def views_of(pairs: Pairs) -> list[torch.Tensor]:
    return [pairs.first, pairs.second, *([] if pairs.small is None else pairs.small.unbind(1))]


def literal_swav(branch, pairs):
    weight = branch.prototypes.weight
    if branch.settings.frozen_share > 0:  # training has just started
        weight = weight.detach()
    views, scores = views_of(pairs), []
    z = branch.head(torch.cat(views)).chunk(len(views))
    for part in z:
        scores.append([torch.stack([cosine(part[b], c) for c in weight]) for b in counted(pairs)])
    codes, mass = [], torch.ones(ROWS) if pairs.weight is None else pairs.weight
    mass = mass[counted(pairs)].double()
    for part in scores[:2]:  # small views are assigned to nothing
        q = (torch.stack(part).detach() / 0.05).exp().T * mass  # K × B, as the paper has it
        q = q / q.sum()
        for _ in range(3):
            q = q / q.sum(dim=1, keepdim=True) / q.shape[0]
            q = q / q.sum(dim=0, keepdim=True) * mass / mass.sum()
        codes.append((q * mass.sum() / mass).T)
    losses, rows = [], []
    for assigned in range(2):
        for view in range(len(views)):
            if view != assigned:
                for b, row in enumerate(counted(pairs)):
                    losses.append(cross_entropy(codes[assigned][b], scores[view][b] / 0.1))
                    rows.append(row)
    return weighed(losses, rows, pairs), None


def literal_dino(branch, pairs):
    weight = branch.prototypes.weight
    if branch.settings.frozen_share > 0:
        weight = weight.detach()
    students = branch.head(torch.cat(views_of(pairs))).chunk(len(views_of(pairs)))
    teachers = branch.momentum_head(torch.cat([pairs.momentum_first, pairs.momentum_second])).chunk(2)
    losses = []
    rows = []
    for other in range(2):  # the teacher sees the two full views
        for own in range(len(students)):
            for row in counted(pairs):
                if own != other:
                    student = torch.stack([cosine(students[own][row], c) for c in weight])
                    teacher = torch.stack([cosine(teachers[other][row], c) for c in branch.momentum_prototypes.weight])
                    teacher = ((teacher - branch.center) / 0.04).exp()
                    losses.append(cross_entropy((teacher / teacher.sum()).detach(), student / 0.1))
                    rows.append(row)
    return weighed(losses, rows, pairs), None


LITERAL = {
    "barlow_twins": literal_barlow_twins,
    "byol": literal_byol,
    "dcl": lambda branch, pairs: literal_nt_xent(branch, pairs, decoupled=True),
    "dino": literal_dino,
    "moco": literal_moco,
    "nnclr": literal_nnclr,
    "simclr": literal_nt_xent,
    "simsiam": literal_simsiam,
    "swav": literal_swav,
    "vicreg": literal_vicreg,
}
UNFROZEN = {"frozen_share": 0.0}
RING = {"negatives": {"kind": "ring", "inner": 0.2, "outer": 0.7}}
CONTRASTIVE = [name for name in frameworks.available() if "negatives" in frameworks.settings_type(name).model_fields]
MULTI_CROP = ["dino", "swav"]
WEIGHING = [name for name in frameworks.available() if small(name).branch_type.weighs]
FREEZING = [name for name in frameworks.available() if "frozen_share" in frameworks.settings_type(name).model_fields]


@pytest.mark.parametrize(
    ("name", "settings", "case"),
    [
        (name, settings, case)
        for name, settings in [(name, {}) for name in frameworks.available()]
        + [(name, RING) for name in CONTRASTIVE]
        + [(name, UNFROZEN) for name in FREEZING]
        for case in ("plain", "views", "twins", "several")
        if case != "several" or name in WEIGHING
    ],
)
def test_loss_and_gradient_are_those_of_the_papers_equation_written_out(name, settings, case):
    branch, pairs = make(name, **settings), features(case)
    inputs = [p for p in branch.parameters() if p.requires_grad] + [pairs.first, pairs.second]
    expected, bound = LITERAL[name](branch, pairs)
    gradients = torch.autograd.grad(expected, inputs, materialize_grads=True, allow_unused=True)
    output = branch(pairs)
    assert output["loss"].item() == pytest.approx(expected.item(), rel=1e-9)
    if bound is not None:
        assert output["mutual_information"].item() == pytest.approx(bound, rel=1e-9)
        assert not output["mutual_information"].requires_grad
    for got, wanted in zip(
        torch.autograd.grad(output["loss"], inputs, materialize_grads=True, allow_unused=True), gradients, strict=True
    ):
        torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("case", ["views", "twins"])
@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("name", MULTI_CROP)
def test_small_views_predict_the_targets_of_both_full_views_as_a_double_loop_over_pairs_of_views_does(
    name, count, case
):
    branch, pairs = make(name, **UNFROZEN), features(case)
    generator = torch.Generator().manual_seed(2)
    small = torch.randn(ROWS, count, WIDTH, generator=generator, dtype=torch.float64).requires_grad_()
    pairs = replace(pairs, small=small)
    inputs = [*(p for p in branch.parameters() if p.requires_grad), pairs.first, pairs.second, small]
    expected, _ = LITERAL[name](branch, pairs)
    gradients = torch.autograd.grad(expected, inputs, materialize_grads=True, allow_unused=True)
    loss = branch(pairs)["loss"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    assert gradients[-1].any()
    for got, wanted in zip(torch.autograd.grad(loss, inputs), gradients, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("name", frameworks.available())
def test_only_swav_and_dino_take_small_views(name):
    if name in MULTI_CROP:
        assert small(name, small_views=2, small_scale=[0.1, 0.3]).settings.small_scale == (0.1, 0.3)
        assert small(name).settings.small_views == 0
    else:
        with pytest.raises(ValueError, match="no setting 'small_views'"):
            small(name, small_views=2)


def test_small_views_scale_is_the_papers():
    assert frameworks.settings_type("swav")().small_scale == (0.05, 0.14)
    assert frameworks.settings_type("dino")().small_scale == (0.05, 0.4)


@pytest.mark.parametrize(
    "wrong",
    [{"small_views": -1}, {"small_size": 4}, {"small_scale": (0.4, 0.1)}, {"small_scale": (0.0, 0.1)},
     {"small_scale": (0.5, 1.5)}],
)  # fmt: skip
def test_small_views_out_of_range_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        small("swav", **wrong)


def test_what_small_views_cost_is_counted_by_their_pixels():
    swav = frameworks.settings_type("swav")
    assert views_of_a_row(swav(), 32) == views_of_a_row(frameworks.settings_type("simclr")(), 32) == 2
    assert views_of_a_row(swav(small_views=4), 32) == 3
    assert views_of_a_row(swav(small_views=4, small_size=8), 32) == 2.25
    with pytest.raises(ValueError, match="small_size 32 must be below image_size 32"):
        views_of_a_row(swav(small_views=4, small_size=32), 32)


@pytest.mark.parametrize("name", frameworks.available())
def test_branches_of_a_framework_are_independent_and_learn_from_valid_rows_only(name):
    torch.manual_seed(0)
    framework = small(name)
    one, other = framework.make_branch().double(), framework.make_branch().double()
    assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}
    assert not {b.data_ptr() for b in one.buffers()} & {b.data_ptr() for b in other.buffers()}
    weights = [p for p in one.parameters() if p.ndim > 1]
    assert all(
        not torch.equal(p, q) for p, q in zip(weights, (p for p in other.parameters() if p.ndim > 1), strict=True)
    )

    loss = one(features())["loss"]
    assert loss.ndim == 0 and torch.isfinite(loss)
    output = one(replace(features(), valid=torch.zeros(ROWS, dtype=torch.bool)))
    output["loss"].backward()
    assert all(value.item() == 0 for value in output.values())
    assert all(p.grad is not None and not p.grad.any() for p in one.parameters() if p.requires_grad)


@pytest.mark.parametrize("name", frameworks.available())
def test_momentum_copies_start_alike_and_take_no_gradient(name):
    framework = small(name)
    branch = framework.make_branch().double()
    for module, follower in branch.followed():
        assert all(torch.equal(p, q) for p, q in zip(module.parameters(), follower.parameters(), strict=True))
    branch(features())["loss"].backward()
    frozen = [p for _, follower in branch.followed() for p in follower.parameters()]
    assert all(p.grad is None and not p.requires_grad for p in frozen)
    reads_momentum = any(part.startswith("momentum_") for part in branch.reads)
    assert bool(frozen) == reads_momentum == hasattr(framework.settings, "momentum")


@pytest.mark.parametrize("name", CONTRASTIVE)
def test_the_ring_narrows_as_training_goes_on(name):
    choice = {"kind": "ring", "inner": 0.2, "outer": 0.7, "anneal": "linear", "until": 1.0}
    start = make(name, negatives=choice)
    whole = make(name, negatives={"kind": "ring", "inner": 0.2, "outer": 1.0})
    torch.testing.assert_close(start(features())["loss"], whole(features())["loss"])
    start, end = make(name, negatives=choice), make(name, **RING)
    start.after_step(1.0)
    torch.testing.assert_close(start(features())["loss"], end(features())["loss"])
    assert "progress" in start.state_dict()


@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_the_momentum_rate_stays_or_rises_to_one_as_half_a_cosine(progress):
    assert Momentum(base=0.9).rate(progress) == 0.9
    expected = 1 - 0.1 * (math.cos(math.pi * progress) + 1) / 2
    assert Momentum(base=0.9, schedule="cosine").rate(progress) == pytest.approx(expected, abs=1e-15)


def assert_keys_join(branch: Any, pairs: Pairs, keys: Callable[[Any], Tensor], image: Tensor) -> None:
    """Keys of the rows that count, and what they show, come to stand first in the queue; in evaluation none do."""
    before = branch.queue.keys.clone()
    branch.eval()(pairs)
    assert torch.equal(branch.queue.keys, before)
    branch.train()(pairs)
    expected = nn.functional.normalize(keys(branch)[pairs.valid], dim=1)
    torch.testing.assert_close(branch.queue.keys[: len(expected)], expected)
    assert branch.queue.image[: len(expected)].tolist() == image[TWIN >= 0].tolist()
    assert torch.equal(branch.queue.keys[len(expected) :], before[len(expected) :])


def test_nnclr_lets_the_first_projections_in_after_their_neighbours_were_sought_and_only_in_training():
    pairs = features("twins")
    assert_keys_join(make("nnclr"), pairs, lambda branch: branch.head(pairs.first), IMAGE)


@pytest.mark.parametrize("name", WEIGHING)
def test_a_partner_shown_in_two_rows_that_share_its_weight_counts_as_in_one(name):
    pairs, branch = features("twins"), make(name).eval()  # without the statistics of a batch, in which it counts twice
    # Every partner is known to all, so it is no negative, which it would be twice.
    everyone = torch.tensor([*range(6)]).expand(ROWS, -1)
    names = {"first_identity": torch.cat([IMAGE[:, None], everyone], dim=1),
             "second_identity": torch.cat([TWIN[:, None], everyone], dim=1)}  # fmt: skip
    pairs = replace(pairs, **names)
    twice = pairs.take(torch.arange(ROWS).repeat_interleave(2))
    shares = torch.tensor([0.3, 0.7]).repeat(ROWS)
    twice = replace(twice, weight=shares, repeated=torch.tensor([False, True]).repeat(ROWS))
    torch.testing.assert_close(branch(twice)["loss"], branch(pairs)["loss"], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", ["moco", "nnclr"])
def test_a_queue_takes_every_partner_and_a_patch_with_several_of_them_once(name):
    branch, pairs = make(name).train(), features("several")
    branch(pairs)
    entered = [0, 1, 2] if name == "nnclr" else [3, 4, 5, 3, 1]
    assert branch.queue.image[: len(entered)].tolist() == entered
    assert branch.queue.image[len(entered)].item() == len(entered) - 2  # as it was


def test_dinos_centre_weighs_what_the_teacher_says_of_partners():
    branch, pairs = make("dino").eval(), features("several")
    before = branch.center.clone()
    both = branch.momentum_head(torch.cat([pairs.momentum_first, pairs.momentum_second]))
    mean = (branch.momentum_prototypes(both) * pairs.weight.repeat(2)[:, None]).sum(dim=0) / 6
    branch.training = True  # its heads stay as they are
    branch(pairs)
    torch.testing.assert_close(branch.center, 0.9 * before + 0.1 * mean)


def test_what_shows_the_image_of_an_anchors_neighbour_is_no_negative_of_it():
    branch = make("nnclr").eval()
    branch.queue.image = torch.full((9,), 5)  # whichever neighbour: row 5 shows it, and is near to its own
    pairs = features("views")
    with_five = branch(pairs)["loss"]
    branch.queue.image = torch.full((9,), -1)
    assert branch(pairs)["loss"] > with_five + 1e-3


@pytest.mark.parametrize("name", FREEZING)
def test_prototypes_are_fixed_for_the_first_share_of_training(name):
    branch = make(name, frozen_share=0.3)
    for progress, fixed in ((0.0, True), (0.29, True), (0.31, False), (1.0, False)):
        branch.after_step(progress)
        (gradient,) = torch.autograd.grad(branch(features())["loss"], branch.prototypes.weight)
        assert gradient.any() == (not fixed)


def test_swavs_prototypes_have_length_one_after_every_step():
    branch = make("swav")
    with torch.no_grad():
        branch.prototypes.weight.mul_(3).add_(0.1)
    directions = nn.functional.normalize(branch.prototypes.weight.detach(), dim=1)
    branch.after_step(0.5)
    torch.testing.assert_close(branch.prototypes.weight.detach(), directions)


def test_dinos_centre_follows_the_teachers_outputs_that_count_and_only_in_training():
    branch, pairs = make("dino"), features("twins")
    before = branch.center.clone()
    nothing = replace(pairs, valid=torch.zeros(ROWS, dtype=torch.bool))
    branch.eval()(pairs)
    branch.train()(nothing)
    assert torch.equal(branch.center, before)
    branch(pairs)
    both = branch.momentum_head(torch.cat([pairs.momentum_first, pairs.momentum_second]))
    outputs = branch.momentum_prototypes(both)[pairs.valid.repeat(2)]
    torch.testing.assert_close(branch.center, 0.9 * before + 0.1 * sum(outputs) / len(outputs))
    assert "center" in branch.state_dict()


@pytest.mark.parametrize(("progress", "temperature"), [(0.0, 0.04), (0.05, 0.055), (0.1, 0.07), (0.8, 0.07)])
def test_dinos_teacher_warms_up(progress, temperature):
    warm, fixed = make("dino"), make("dino", warmup_teacher_temperature=temperature, teacher_temperature=temperature)
    for branch in (warm, fixed):
        branch.after_step(progress)
    torch.testing.assert_close(warm(features())["loss"], fixed(features())["loss"], rtol=1e-6, atol=0)


def test_moco_lets_the_keys_in_after_they_were_used_and_only_in_training():
    pairs = features("twins")
    assert_keys_join(make("moco"), pairs, lambda branch: branch.momentum_head(pairs.momentum_second), TWIN)


@pytest.mark.parametrize(
    ("name", "heads"),
    [
        ("simclr", {"head": "Linear BatchNorm1d ReLU Linear"}),
        ("dcl", {"head": "Linear BatchNorm1d ReLU Linear"}),
        ("moco", {"head": "Linear ReLU Linear", "momentum_head": "Linear ReLU Linear"}),
        ("byol", dict.fromkeys(("head", "predictor", "momentum_head"), "Linear BatchNorm1d ReLU Linear")),
        ("barlow_twins", {"head": "Linear BatchNorm1d ReLU Linear BatchNorm1d ReLU Linear"}),
        ("vicreg", {"head": "Linear BatchNorm1d ReLU Linear BatchNorm1d ReLU Linear"}),
        (
            "nnclr",
            {
                "head": "Linear BatchNorm1d ReLU Linear BatchNorm1d ReLU Linear BatchNorm1d",
                "predictor": "Linear BatchNorm1d ReLU Linear",
            },
        ),
        ("swav", {"head": "Linear BatchNorm1d ReLU Linear"}),
        (
            "dino",
            dict.fromkeys(("head", "momentum_head"), "Linear BatchNorm1d GELU Linear BatchNorm1d GELU Linear"),
        ),
        (
            "simsiam",
            {"head": "Linear BatchNorm1d ReLU Linear BatchNorm1d", "predictor": "Linear BatchNorm1d ReLU Linear"},
        ),
    ],
)
def test_the_heads_are_those_of_the_paper(name, heads):
    branch = make(name)
    for head, layers in heads.items():
        assert [type(layer).__name__ for layer in branch.get_submodule(head)] == layers.split()


def test_simclr_hidden_width_is_the_backbones_unless_it_is_named():
    assert frameworks.create("simclr", Flat()).make_branch().head[0].out_features == WIDTH


@pytest.mark.parametrize("name", frameworks.available())
def test_it_learns_to_bring_the_two_views_of_an_image_together(name):
    branch = make(name)
    optimiser = torch.optim.SGD([p for p in branch.parameters() if p.requires_grad], lr=0.05)
    losses = []
    base = torch.randn(16, WIDTH, dtype=torch.float64)
    for step in range(12):
        first, second = (base + 0.1 * torch.randn_like(base) for _ in range(2))
        loss = branch(Pairs(first, second, first, second))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        branch.after_step((step + 1) / 12)
        losses.append(loss.item())
    # MoCo's queue starts with random keys, which are easy: the first of its own make its loss rise before it falls.
    assert max(losses) == max(losses[:4]) and losses[-1] < 0.9 * max(losses[:4])


def test_an_unknown_framework_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"simclrr.*'simclr'"):
        frameworks.create("simclrr", Flat())
    with pytest.raises(ValueError, match="framework"):
        frameworks.settings_type("nothing like it")


def test_an_unknown_setting_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"temprature.*'temperature'"):
        frameworks.create("simclr", Flat(), temprature=0.1)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"output_dim": 0}, "output_dim"),
        ({"hidden_dim": "wide"}, "hidden_dim"),
        ({"negatives": {"kind": "disc"}}, r"negatives\.kind"),
        ({"negatives": {"kind": "ring", "inner": 0.5}}, "negatives.*inner < outer"),
    ],
)
def test_a_setting_out_of_range_is_named_in_one_line(wrong, name):
    with pytest.raises(ValueError, match=name) as caught:
        frameworks.create("simclr", Flat(), **wrong)
    assert "\n" not in str(caught.value)


def test_settings_are_typed_and_cannot_be_changed_later():
    settings = frameworks.create("simclr", Flat(), temperature=0.2).settings
    assert settings == frameworks.settings_type("simclr")(temperature=0.2)
    with pytest.raises(ValueError, match="frozen"):
        settings.temperature = 0.3


def test_a_backbone_without_num_features_is_refused():
    with pytest.raises(ValueError, match="num_features"):
        frameworks.create("simclr", nn.Flatten())


def test_small_views_of_less_than_a_pixel_are_refused():
    settings = frameworks.settings_type("swav")(small_views=2, small_scale=(1e-9, 1e-9))
    with pytest.raises(ValueError, match=r"small_scale .* is less than a pixel"):
        settings.small_pixels(32)
