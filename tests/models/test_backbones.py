import json

import pytest
import timm
import torch
from torch import nn

from infoaug.models.backbones import create_backbone, load_backbone, save_backbone

SMALL = {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)}


@pytest.mark.parametrize(
    ("image_size", "side", "stride", "kernel", "pools"),
    [(16, 2, 1, 3, False), (32, 4, 1, 3, False), (64, 4, 2, 3, False), (96, 6, 2, 3, False), (128, 4, 2, 7, True)],
)
def test_a_resnet_stem_keeps_four_by_four_positions_where_it_can(image_size, side, stride, kernel, pools):
    backbone = create_backbone("resnet18", image_size, **SMALL).eval()
    with torch.no_grad():
        final = backbone.forward_features(torch.zeros(1, 3, image_size, image_size))
    assert final.shape == (1, 32, side, side)
    assert backbone.conv1.stride == (stride, stride) and backbone.conv1.kernel_size == (kernel, kernel)
    assert isinstance(backbone.maxpool, nn.MaxPool2d) == pools


@pytest.mark.parametrize("image_size", [32, 64])
def test_a_deep_resnet_stem_is_fitted_too(image_size):
    backbone = create_backbone("resnet26d", image_size, **SMALL).eval()
    with torch.no_grad():
        assert backbone.forward_features(torch.zeros(1, 3, image_size, image_size)).shape[2:] == (4, 4)


@pytest.mark.parametrize(("image_size", "tokens"), [(32, 64), (96, 64), (160, 100)])
def test_a_vit_sees_eight_by_eight_tokens_below_128_pixels_and_its_own_patches_above(image_size, tokens):
    backbone = create_backbone("vit_tiny_patch16_224", image_size, depth=1).eval()
    with torch.no_grad():
        output = backbone.forward_features(torch.zeros(1, 3, image_size, image_size))
    assert output.shape == (1, tokens + 1, 192)


def test_a_patch_size_that_is_named_wins():
    backbone = create_backbone("vit_tiny_patch16_224", 32, depth=1, patch_size=8)
    assert backbone.patch_embed.patch_size == (8, 8)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("resnet18", SMALL),
        ("resnet18", {**SMALL, "global_pool": "catavgmax"}),
        ("vit_tiny_patch16_224", {"depth": 1}),
        ("mobilenetv3_small_050", {}),
    ],
)
def test_num_features_is_the_length_of_a_feature_vector(name, settings):
    backbone = create_backbone(name, 32, **settings).eval()
    with torch.no_grad():
        assert backbone(torch.zeros(2, 3, 32, 32)).shape == (2, backbone.num_features)


def test_an_unknown_name_is_answered_with_the_nearest_ones():
    with pytest.raises(ValueError, match=r"resnet81.*resnet18"):
        create_backbone("resnet81", 32)


@pytest.mark.parametrize(
    ("name", "image_size", "settings", "message"),
    [
        ("resnet18", 0, {}, "image_size"),
        ("resnet18", 32.0, {}, "image_size"),
        ("resnet18", 32, {"colour": 3}, "colour"),
        ("resnet18", 32, {"pretrained": True}, "pretrained"),
        ("resnet18", 32, {"checkpoint_path": "x.pt"}, "checkpoint_path cannot be set"),
        ("resnet18", 32, {"image_size": 1}, "image_size"),
        ("resnet18", 32, {"features_only": True}, "cannot build"),
        ("resnet18", 32, {"\x1b[2J": 1}, r"unexpected keyword argument '\?\[2J'; set backbone_settings to what"),
        ("x" * 5000, 32, {}, r"knows no model 'x{100}'"),
        ("vit_tiny_patch16_224", 100, {"depth": 1}, "does not divide"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(name, image_size, settings, message):
    with pytest.raises(ValueError, match=message):
        create_backbone(name, image_size, **settings)


# Families that timm builds for one image size, and some that take any.
SIZED = [
    ("swin_tiny_patch4_window7_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    ("swinv2_cr_tiny_224", {"depths": (1, 1, 1, 1), "embed_dim": 24}),
    ("maxvit_pico_rw_256", {}),
    ("coatnet_pico_rw_224", {}),
    ("mixer_s16_224", {}),
    ("gmlp_s16_224", {}),
    ("eva02_tiny_patch14_224", {"depth": 1, "patch_size": 8}),
    ("beit_base_patch16_224", {"depth": 1, "embed_dim": 96}),
    ("levit_128s", {}),
    ("vit_tiny_r_s16_p8_224", {"depth": 1}),
    ("vit_relpos_small_patch16_224", {"depth": 1, "embed_dim": 96}),
    ("cait_xxs24_224", {"depth": 1}),
    ("visformer_tiny", {}),
    ("hiera_tiny_224", {"stages": (1, 1, 1, 1)}),
    ("botnet26t_256", {}),
    ("crossvit_tiny_240", {}),
    ("convnext_atto", {}),
    ("mobilevit_xxs", {}),
]


@pytest.mark.parametrize(("name", "settings"), SIZED)
def test_families_of_one_image_size_are_built_for_the_size_that_is_asked_for(tmp_path, name, settings):
    backbone = create_backbone(name, 64, **settings)
    assert backbone.training
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = backbone.eval()(images)
        assert features.shape == (2, backbone.num_features)
        assert torch.equal(load_backbone(save_backbone(backbone, tmp_path, mean=(0,), std=(1,)))(images), features)


def test_a_family_that_takes_any_size_keeps_the_weights_that_timm_gives_it():
    torch.manual_seed(0)
    backbone = create_backbone("crossvit_tiny_240", 64)
    torch.manual_seed(0)
    plain = timm.create_model("crossvit_tiny_240", num_classes=0)
    assert all(map(torch.equal, backbone.state_dict().values(), plain.state_dict().values()))


def test_patches_that_do_not_divide_the_image_are_refused_in_every_family():
    with pytest.raises(ValueError, match="does not divide"):
        create_backbone("eva02_tiny_patch14_224", 64, depth=1)


@pytest.mark.parametrize(("name", "settings"), [("resnet18", SMALL), ("vit_tiny_patch16_224", {"depth": 1})])
def test_a_saved_backbone_comes_back_with_identical_features(tmp_path, name, settings):
    torch.manual_seed(0)
    backbone = create_backbone(name, 32, **settings).to(memory_format=torch.channels_last)
    images = torch.rand(4, 3, 32, 32)
    backbone(images)  # moves the running statistics of batch norm
    folder = save_backbone(backbone, tmp_path / "model", mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    assert sorted(file.name for file in folder.iterdir()) == ["backbone.json", "backbone.safetensors"]

    loaded = load_backbone(folder)
    assert not loaded.training
    assert loaded.recipe.mean == (0.1, 0.2, 0.3) and loaded.recipe.std == (0.4, 0.5, 0.6)
    assert loaded.recipe.kwargs == settings and loaded.num_features == backbone.num_features
    backbone.eval().to(memory_format=torch.contiguous_format)
    with torch.no_grad():
        assert torch.equal(loaded(images), backbone(images))
        assert torch.equal(load_backbone(folder / "backbone.json")(images), backbone(images))


def test_a_backbone_that_timm_could_not_rebuild_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        save_backbone(
            create_backbone("resnet18", 32, **SMALL, act_layer=nn.SiLU), tmp_path, mean=(0, 0, 0), std=(1, 1, 1)
        )
    with pytest.raises(ValueError, match="create_backbone"):
        save_backbone(nn.Linear(2, 2), tmp_path, mean=(0, 0, 0), std=(1, 1, 1))
    assert not list(tmp_path.iterdir())


def test_a_missing_or_broken_save_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"backbone\.json is missing"):
        load_backbone(tmp_path)
    save_backbone(create_backbone("resnet18", 32, **SMALL), tmp_path, mean=(0, 0, 0), std=(1, 1, 1))
    description = json.loads((tmp_path / "backbone.json").read_text())
    description["kwargs"]["channels"][3] = 40
    (tmp_path / "backbone.json").write_text(json.dumps(description))
    with pytest.raises(ValueError, match="do not fit"):
        load_backbone(tmp_path)
    (tmp_path / "backbone.json").write_text("{")
    with pytest.raises(ValueError, match="does not describe"):
        load_backbone(tmp_path)


@pytest.fixture
def saved(tmp_path):
    return save_backbone(create_backbone("resnet18", 32, **SMALL), tmp_path, mean=(0.5,) * 3, std=(0.25,) * 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"name": 3}, "name must be a text"),
        ({"kwargs": []}, "kwargs a mapping"),
        ({"kwargs": {"layers": [10**6] * 4}}, "too large for a network"),
        ({"kwargs": {"channels": [20_000] * 4}}, r"do not fit .* numbers cannot be in \d+ bytes"),
        ({"image_size": 10**9}, "too large for a network"),
        ({"mean": [float("nan")] * 3}, "must be finite numbers"),
        ({"mean": ["a"] * 3}, "must be finite numbers"),
        ({"mean": 1.0}, "does not describe"),
        ({"mean": [0.5]}, "of the same channels"),
        ({"std": [0.0] * 3}, "std not 0"),
    ],
)
def test_a_recipe_of_other_values_is_refused_before_anything_is_built(saved, monkeypatch, changes, message):
    description = json.loads((saved / "backbone.json").read_text())
    (saved / "backbone.json").write_text(json.dumps({**description, **changes}))
    monkeypatch.setattr(nn.init, "kaiming_normal_", lambda weight, **_: weight.is_meta or pytest.fail("built"))
    with pytest.raises(ValueError, match=message):
        load_backbone(saved)


@pytest.mark.parametrize("content", [b"[" * 50_000, b"\xff\xfe", b"x" * 100_000, b"null", b"{}"])
def test_what_is_no_recipe_is_named(saved, content):
    (saved / "backbone.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"backbone\.json' does not describe a backbone"):
        load_backbone(saved)


def test_weights_that_are_no_finite_numbers_are_refused(saved):
    backbone = load_backbone(saved)
    with torch.no_grad():
        backbone.conv1.weight[0] = float("inf")
    save_backbone(backbone, saved, mean=(0.5,) * 3, std=(0.25,) * 3)
    with pytest.raises(ValueError, match="not all finite numbers"):
        load_backbone(saved)
