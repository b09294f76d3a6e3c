"""Dense features of a frozen backbone."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from infoaug.models.augment import Augment
from infoaug.models.backbones import create_backbone
from infoaug.models.dense import DenseFeatures

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")

SMALL = {"layers": (1, 1, 1, 1), "channels": (8, 8, 16, 16)}
TINY = {"embed_dim": 24, "depth": 2, "num_heads": 2}


CLOSE = {"rtol": 1e-4, "atol": 1e-4}  # the memory format changes the order of sums


@pytest.fixture
def seeded() -> None:
    torch.manual_seed(0)


def _images(height: int, width: int, count: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, height, width), dtype=torch.uint8, generator=generator)


def _settle(backbone: nn.Module) -> nn.Module:
    """Batch norms of other numbers than 0 and 1, so that nothing is the same by chance."""
    generator = torch.Generator().manual_seed(1)
    for layer in backbone.modules():
        if isinstance(layer, nn.BatchNorm2d):
            assert layer.running_mean is not None and layer.running_var is not None
            layer.running_mean.copy_(0.1 * torch.randn(layer.num_features, generator=generator))
            layer.running_var.copy_(0.5 + torch.rand(layer.num_features, generator=generator))
            nn.init.ones_(layer.weight)
    return backbone.eval()


@pytest.mark.parametrize("image_size", [32, 64, 128])
def test_the_mean_over_all_cells_is_a_resnets_own_feature_vector(image_size):
    backbone = _settle(create_backbone("resnet18", image_size, **SMALL))
    images = _images(64, 96, count=2)
    dense = DenseFeatures(backbone, stride=32)
    with torch.no_grad():
        own = backbone(Augment.of(backbone).normalise(images))
    torch.testing.assert_close(dense(images).mean(dim=(2, 3)), own, **CLOSE)


def test_the_mean_over_all_cells_is_a_vits_own_feature_vector_at_its_own_size():
    backbone = create_backbone("vit_tiny_patch16_224", 32, **TINY, global_pool="avg", fc_norm=False).eval()
    images = _images(32, 32, count=2)
    with torch.no_grad():
        own = backbone(Augment.of(backbone).normalise(images))
    torch.testing.assert_close(DenseFeatures(backbone, stride=4)(images).mean(dim=(2, 3)), own, **CLOSE)


@pytest.mark.parametrize(
    ("image_size", "kwargs", "asked", "stride"),
    [
        (32, {}, 2, 2),  # the stem reduces by 1
        (32, {}, 8, 8),
        (64, {}, 4, 4),  # by 2
        (64, {}, 8, 8),
        (64, {"fit_stem": False}, 8, 8),  # by 4
        (64, {"fit_stem": False}, 4, 4),
        (64, {"fit_stem": False}, 2, 4),  # the stem stays
        (32, {}, 3, 2),
        (128, {}, 12, 8),
        (128, {}, 8, 8),
        (128, {}, 16, 16),
        (128, {}, 32, 32),
        (128, {}, 64, 64),
        (128, {"output_stride": 8}, 32, 32),
    ],
)
def test_a_resnets_stride_is_the_asked_one_where_it_can_be(image_size, kwargs, asked, stride):
    dense = DenseFeatures(create_backbone("resnet18", image_size, **SMALL, **kwargs), stride=asked)
    assert dense.stride == stride
    assert dense(_images(50, 90)).shape == (1, 16, -(-50 // stride), -(-90 // stride))


@pytest.mark.parametrize(
    ("name", "finer"),  # as in timm, averages and blurs of one dilation are not dilated by the next
    [("resnet18", 2), ("resnet18", 4), ("resnet26", 4), ("resnet26d", 2), ("resnetblur18", 2)],
)
def test_a_dilated_resnet_has_at_every_second_or_fourth_cell_the_features_of_the_network_as_it_was(name, finer):
    backbone = _settle(create_backbone(name, 128, **SMALL))
    images = _images(96, 128)
    coarse, fine = DenseFeatures(backbone, stride=32)(images), DenseFeatures(backbone, stride=32 // finer)(images)
    torch.testing.assert_close(fine[:, :, ::finer, ::finer], coarse, **CLOSE)


@pytest.mark.parametrize("name", ["resnet18", "resnet26d"])
def test_dilation_is_timms(name):
    """The same features as those of the network that timm builds with an output stride."""
    channels = {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)}
    backbone = _settle(create_backbone(name, 128, **channels))
    timms = create_backbone(name, 128, **channels, output_stride=8).eval()
    timms.load_state_dict(backbone.state_dict())
    images = _images(72, 96)
    with torch.no_grad():
        expected = timms.forward_features(Augment.of(backbone).normalise(images))
    torch.testing.assert_close(DenseFeatures(backbone, stride=8)(images), expected, **CLOSE)


@pytest.mark.parametrize(
    ("layer", "index", "channels"), [(None, 4, 16), (-1, 4, 16), (-2, 3, 16), (2, 2, 8), (1, 1, 8)]
)
def test_a_layer_is_chosen_from_the_stem_or_from_the_last(layer, index, channels):
    dense = DenseFeatures(create_backbone("resnet18", 32, **SMALL), layer, stride=8)
    assert (dense.layer, dense.num_features, dense.stride) == (index, channels, 8)
    assert dense(_images(32, 40)).shape == (1, channels, 4, 5)


def test_a_vit_takes_frames_of_other_sizes_and_shapes():
    backbone = create_backbone("vit_tiny_patch16_224", 32, **TINY)
    dense = DenseFeatures(backbone, stride=2)
    assert dense.stride == 4  # its patch size is the smallest
    assert dense(_images(30, 53)).shape == (1, 24, 8, 14)
    assert DenseFeatures(backbone, stride=8)(_images(30, 53)).shape == (1, 24, 4, 7)


def test_a_cell_is_of_the_pixels_at_its_place():
    """Pixels that differ in one corner change the features of that corner most."""
    for backbone in (create_backbone("resnet18", 32, **SMALL), create_backbone("vit_tiny_patch16_224", 32, **TINY)):
        dense = DenseFeatures(_settle(backbone), stride=4)
        images = _images(40, 64)
        other = images.clone()
        other[:, :, 28:32, 52:56] = 255 - other[:, :, 28:32, 52:56]
        change = (dense(images) - dense(other)).norm(dim=1)[0]
        row, column = divmod(int(change.argmax()), change.shape[1])
        assert abs(row - 7) <= 1 and abs(column - 13) <= 1


def test_images_at_the_border_are_continued_and_the_other_cells_stay():
    dense = DenseFeatures(_settle(create_backbone("resnet18", 32, **SMALL)), 0, stride=8)
    images = _images(32, 40)
    torch.testing.assert_close(dense(images[..., :37])[..., :4], dense(images)[..., :4])


def test_many_images_give_what_one_gives(monkeypatch):
    dense = DenseFeatures(_settle(create_backbone("resnet18", 32, **SMALL)))
    images = _images(32, 40, count=5)
    whole = dense(images)
    monkeypatch.setattr("infoaug.models.dense._PIXELS_AT_ONCE", {"cpu": 1})
    torch.testing.assert_close(dense(images), whole)


def test_images_are_normalised_as_the_recipe_says():
    backbone = create_backbone("resnet18", 32, **SMALL).eval()
    images = _images(32, 32)
    default = DenseFeatures(backbone, 0)(images)
    backbone.recipe = replace(backbone.recipe, mean=(0.1, 0.2, 0.3), std=(0.5, 0.5, 0.5))
    assert not torch.allclose(DenseFeatures(backbone, 0)(images), default)
    torch.testing.assert_close(DenseFeatures(backbone, 0)(images.float() / 255), DenseFeatures(backbone, 0)(images))


@pytest.mark.parametrize(
    ("name", "image_size"), [("resnet18", 128), ("vit_tiny_patch16_224", 32), ("convnext_atto", 64)]
)
def test_the_backbone_and_the_random_numbers_stay_as_they_were(name, image_size):
    backbone = create_backbone(name, image_size)
    before, random = copy.deepcopy(backbone.state_dict()), torch.random.get_rng_state()
    features = DenseFeatures(backbone)(_images(64, 96))
    assert not features.requires_grad and not features.is_inference()  # a head may be trained on them
    assert backbone.training and all(value.requires_grad for value in backbone.parameters())
    assert torch.equal(torch.random.get_rng_state(), random)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, before[key])
    strides = [layer.stride for layer in backbone.modules() if isinstance(layer, nn.Conv2d)]
    assert strides == [layer.stride for layer in create_backbone(name, image_size).modules() if hasattr(layer, "stride")
                       and isinstance(layer, nn.Conv2d)]  # fmt: skip


def test_what_has_no_dense_features_is_refused():
    own = create_backbone("tests.models.own_models:Tiny", 32)
    with pytest.raises(ValueError, match=r"'tests.models.own_models:Tiny' has no dense features"):
        DenseFeatures(own)
    with pytest.raises(ValueError, match="'mixer_s32_224' has no dense features"):
        DenseFeatures(create_backbone("mixer_s32_224", 64))
    with pytest.raises(ValueError, match="of create_backbone or load_backbone"):
        DenseFeatures(nn.Identity())


@pytest.mark.parametrize("layer", [5, -6])
def test_a_layer_that_there_is_not_is_refused(layer):
    with pytest.raises(ValueError, match=f"has no layer {layer}: its layers are 0 to 4, or -5 to -1"):
        DenseFeatures(create_backbone("resnet18", 32, **SMALL), layer)


@pytest.mark.parametrize("stride", [0, -8, 2.5, True])
def test_a_stride_that_is_none_is_refused(stride):
    with pytest.raises(ValueError, match="stride must be an integer"):
        DenseFeatures(create_backbone("resnet18", 32, **SMALL), stride=stride)
