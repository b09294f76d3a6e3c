import pytest
import torch
from torch import nn

from models import frameworks
from models.losses import nt_xent


class Flat(nn.Module):
    num_features = 12

    def forward(self, images):
        return images.flatten(1)


@pytest.mark.parametrize("name", frameworks.available())
def test_branches_of_a_framework_are_independent_and_learn_from_valid_rows_only(name):
    torch.manual_seed(0)
    framework = frameworks.create(name, Flat())
    one, other = framework.make_branch(), framework.make_branch()
    assert not {id(p) for p in one.parameters()} & {id(p) for p in other.parameters()}
    weights = [p for p in one.parameters() if p.ndim > 1]
    assert all(
        not torch.equal(p, q) for p, q in zip(weights, (p for p in other.parameters() if p.ndim > 1), strict=True)
    )

    features = torch.randn(2, 6, 12)
    loss = one(*features)
    assert loss.ndim == 0 and torch.isfinite(loss)
    nothing = one(*features, torch.zeros(6, dtype=torch.bool))
    nothing.backward()
    assert nothing.item() == 0
    assert all(p.grad is not None and not p.grad.any() for p in one.parameters())


def test_simclr_is_its_head_followed_by_nt_xent():
    torch.manual_seed(0)
    branch = frameworks.create("simclr", Flat(), hidden_dim=7, output_dim=5, temperature=0.3).make_branch()
    assert [type(layer) for layer in branch.head] == [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Linear]
    assert branch.head[0].out_features == 7 and branch.head[-1].out_features == 5
    first, second = torch.randn(2, 6, 12)
    branch.eval()
    expected = nt_xent(branch.head(first), branch.head(second), temperature=0.3)
    torch.testing.assert_close(branch(first, second), expected)


def test_simclr_hidden_width_is_the_backbones_unless_it_is_named():
    assert frameworks.create("simclr", Flat()).make_branch().head[0].out_features == 12


def test_simclr_learns_to_tell_pairs_apart():
    torch.manual_seed(0)
    backbone = nn.Sequential(nn.Flatten(), nn.Linear(12, 12))
    backbone.num_features = 12
    framework = frameworks.create("simclr", backbone, output_dim=8)
    branch = framework.make_branch()
    optimiser = torch.optim.SGD([*framework.backbone.parameters(), *branch.parameters()], lr=0.5)
    base = torch.randn(16, 12)
    losses = []
    for _ in range(40):
        first, second = (framework.backbone(base + 0.1 * torch.randn(16, 12)) for _ in range(2))
        loss = branch(first, second)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 0.3


def test_an_unknown_framework_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"simclrr.*'simclr'"):
        frameworks.create("simclrr", Flat())
    with pytest.raises(ValueError, match="framework"):
        frameworks.settings_type("nothing like it")


def test_an_unknown_setting_is_answered_with_the_nearest_one():
    with pytest.raises(ValueError, match=r"temprature.*'temperature'"):
        frameworks.create("simclr", Flat(), temprature=0.1)


@pytest.mark.parametrize(
    "wrong", [{"temperature": 0.0}, {"temperature": float("nan")}, {"output_dim": 0}, {"hidden_dim": "wide"}]
)
def test_a_setting_out_of_range_is_named_in_one_line(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))) as caught:
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
