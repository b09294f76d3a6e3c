"""What is checked of a backbone and a framework before a training is started."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from infoaug.models.training import TrainingSettings
from infoaug.models.training.loop import check_model
from tests.models.own_models import AlignedBranch, Tiny
from tests.models.training.trainings import small_settings

OWN = __name__


class Detached(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


class WithoutGradients(Tiny):
    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(images)


class Frozen(Tiny):
    def __init__(self, image_size: int) -> None:
        super().__init__(image_size)
        self.requires_grad_(False)


class HeadOnly(Frozen):
    """Frozen on purpose, but for its last layer."""

    def __init__(self, image_size: int) -> None:
        super().__init__(image_size)
        self.head.requires_grad_(True)


class Empty(nn.Module):
    def __init__(self, image_size: int) -> None:
        super().__init__()
        self.num_features = 3

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3))


class NotFinite(Tiny):
    def __init__(self, image_size: int, value: float) -> None:
        super().__init__(image_size)
        self.head.bias.data.fill_(value)


class Miscounted(Tiny):
    def __init__(self, image_size: int) -> None:
        super().__init__(image_size)
        self.num_features = 7


class Several(Tiny):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images), images


def settings(backbone: type[nn.Module], **given: Any) -> TrainingSettings:
    return small_settings(backbone=f"{OWN}:{backbone.__name__}", **{"backbone_settings": {}} | given)


@pytest.mark.parametrize(
    ("backbone", "given", "message"),
    [
        (Detached, {}, r"no gradient reaches the parameters of '.*:Detached': its forward must not detach"),
        (WithoutGradients, {}, r"no gradient reaches the parameters of '.*:WithoutGradients'.*torch\.no_grad"),
        (Frozen, {}, r"nothing of '.*:Frozen' can be trained, all its parameters are frozen .*: leave some"),
        (Empty, {}, r"nothing of '.*:Empty' can be trained, it has no parameters"),
        (NotFinite, {"backbone_settings": {"value": torch.nan}}, r"'.*:NotFinite' gives features that are NaN or inf"),
        (NotFinite, {"backbone_settings": {"value": -torch.inf}}, r"'.*:NotFinite' gives features that are NaN or inf"),
        (Miscounted, {}, r"returns 8 features an image, and its num_features is 7"),
        (Several, {}, r"returns a tuple: return one tensor \[rows, num_features\]"),
        (Tiny, {"freeze_layers": 2}, "has 2 layers: freeze 1 at most, so that one is trained"),
    ],
)
def test_a_backbone_that_cannot_learn_is_refused_with_the_cause(
    backbone: type[nn.Module], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message) as refused:
        check_model(settings(backbone, **given))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("backbone", "given"), [(Tiny, {}), (Tiny, {"freeze_layers": 1}), (HeadOnly, {})])
@pytest.mark.parametrize("framework", ["simclr", "byol"])
def test_a_backbone_with_some_layers_to_train_passes(
    backbone: type[nn.Module], given: dict[str, Any], framework: str
) -> None:
    changes = small_settings(framework).model_dump(include={"framework", "framework_settings"})
    check_model(settings(backbone, **given).model_copy(update=changes))


def test_the_check_does_not_depend_on_whether_its_caller_computes_gradients() -> None:
    with torch.no_grad():
        check_model(settings(HeadOnly))
        with pytest.raises(ValueError, match="no gradient reaches"):
            check_model(settings(Detached))


class DeafBranch(AlignedBranch):
    def forward(self, pairs: Any) -> dict[str, Tensor]:
        return {"loss": (pairs.first.detach() - pairs.second.detach()).square().mean()}


def test_a_framework_whose_loss_no_gradient_leaves_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    name = "tests.models.own_models:Aligned"
    monkeypatch.setattr("tests.models.own_models.Aligned.branch_type", DeafBranch)
    changes = {"framework": name, "framework_settings": {}}
    with pytest.raises(
        ValueError, match=r"no gradient of the loss of '.*:Aligned' reaches the backbone: do not detach"
    ):
        check_model(settings(Tiny).model_copy(update=changes))


class OwnBranch(AlignedBranch):
    returned: Any = None

    def forward(self, pairs: Any) -> Any:
        return self.returned(super().forward(pairs))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda told: None, r"the branch of '.*:Aligned' returns a NoneType: return a dictionary with `loss`"),
        (lambda told: told["loss"], "returns a Tensor: return a dictionary with `loss`"),
        (lambda told: {}, "returns a dict: return a dictionary with `loss`"),
        (lambda told: {"loss": told["loss"].expand(5)}, r"returns a loss \[5\]: return a dictionary with `loss`"),
        (lambda told: told["absent"], r"the branch of '.*:Aligned' fails on '.*:Tiny' \(KeyError: 'absent'"),
    ],
)
def test_a_framework_whose_branch_gives_no_loss_is_named_rather_than_the_backbone(
    returned: Any, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OwnBranch, "returned", staticmethod(returned))
    monkeypatch.setattr("tests.models.own_models.Aligned.branch_type", OwnBranch)
    changes = {"framework": "tests.models.own_models:Aligned", "framework_settings": {}}
    with pytest.raises(ValueError, match=message) as refused:
        check_model(settings(Tiny).model_copy(update=changes))
    assert "\n" not in str(refused.value)


def test_a_framework_that_cannot_be_built_is_refused_with_the_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("boom\nand more")

    monkeypatch.setattr("tests.models.own_models.Aligned.__init__", fail)
    changes = {"framework": "tests.models.own_models:Aligned", "framework_settings": {}}
    with pytest.raises(ValueError, match=r"'.*:Aligned' cannot be built around the backbone \(RuntimeError: boom and"):
        check_model(settings(Tiny).model_copy(update=changes))
