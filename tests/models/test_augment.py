import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scipy import stats
from torchvision.transforms import ColorJitter, RandomResizedCrop
from torchvision.transforms.v2 import functional as tv

from infoaug.models.augment import Augment, AugmentSettings, adjust_colour, crop_resize, gaussian_blur, random_crops

NOTHING = {"crop_scale": (1.0, 1.0), "crop_ratio": (1.0, 1.0), "flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0}
UNIT = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 8, size: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=seeded(1))


def colour(images: torch.Tensor, **changes: float) -> torch.Tensor:
    amounts = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0} | changes
    return adjust_colour(images, **{name: torch.full((len(images),), value) for name, value in amounts.items()})


def test_the_same_generator_state_gives_the_same_views_and_another_gives_others():
    augment, images = Augment(AugmentSettings(blur=0.5, solarise=0.2)), pictures()
    views = augment(images, generator=seeded(3))
    assert torch.equal(views, augment(images, generator=seeded(3)))
    assert not torch.equal(views, augment(images, generator=seeded(4)))


def test_views_do_not_depend_on_torchs_global_random_state():
    augment, images = Augment(), pictures()
    torch.manual_seed(0)
    views = augment(images, generator=seeded())
    torch.manual_seed(1)
    assert torch.equal(views, augment(images, generator=seeded()))


def test_equal_images_of_a_batch_get_different_views():
    image = pictures(1)
    views = Augment()(image.expand(6, -1, -1, -1), generator=seeded())
    assert len({tuple(view.flatten().tolist()) for view in views}) == 6


def test_with_everything_switched_off_a_view_is_the_normalised_image():
    augment, images = Augment(AugmentSettings(**NOTHING)), pictures()
    torch.testing.assert_close(augment(images, generator=seeded()), augment.normalise(images), atol=1e-5, rtol=0)


def test_normalise_subtracts_the_mean_and_divides_by_the_deviation():
    augment = Augment(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    white = torch.full((1, 3, 4, 4), 255, dtype=torch.uint8)
    assert augment.normalise(white)[0, :, 0, 0].tolist() == pytest.approx([1.0, 3.0, 0.5])
    torch.testing.assert_close(augment.normalise(white.float() / 255), augment.normalise(white))


@pytest.mark.parametrize("size", [16, 32, 48])
def test_views_have_the_images_shape_in_float32_and_stay_in_range(size):
    views = Augment(AugmentSettings(solarise=0.5), **UNIT)(pictures(size=size), generator=seeded())
    assert views.shape == (8, 3, size, size) and views.dtype == torch.float32
    assert views.min() >= 0 and views.max() <= 1


def test_an_empty_batch_gives_no_views():
    assert Augment(AugmentSettings(blur=1.0))(pictures(0), generator=seeded()).shape == (0, 3, 32, 32)


@pytest.mark.parametrize(("scale", "size"), [((0.05, 0.14), 16), ((0.05, 0.4), 16), ((0.3, 0.75), 18), ((1.0, 1.0), 7)])
def test_small_views_are_crops_of_the_size_and_area_asked_for_without_aliasing(scale, size):
    # In a ramp a view's pixels tell which part of the image it shows, in a checkerboard whether they were averaged.
    ramp = torch.linspace(0, 1, 64).expand(200, 3, 64, 64)
    augment = Augment(AugmentSettings(**NOTHING | {"crop_scale": scale}), **UNIT, size=size)
    views = augment(ramp, generator=seeded())
    assert views.shape == (200, 3, size, size)
    shown = (views[:, 0, 0, -1] - views[:, 0, 0, 0]) * 63 / (size - 1) * size  # width of the box, pixels
    assert shown.min() > 64 * math.sqrt(scale[0]) - 3 and shown.max() < 64 * math.sqrt(scale[1]) + 3
    board = ((torch.arange(64)[:, None] + torch.arange(64)) % 2).float().expand(8, 3, 64, 64)
    whole = Augment(AugmentSettings(**NOTHING), **UNIT, size=16)(board, generator=seeded())
    torch.testing.assert_close(whole, torch.full_like(whole, 0.5), atol=1e-5, rtol=0)


@pytest.mark.parametrize("box", [(0, 0, 32, 32), (3, 5, 20, 11), (31, 0, 1, 32), (10, 12, 17, 20)])
def test_a_crop_is_torchvisions_resized_crop(box):
    images = pictures(2).float() / 255
    left, top, width, height = box
    expected = tv.resized_crop(images, top, left, height, width, [32, 32], antialias=False)
    boxes = torch.tensor([box, box], dtype=torch.float32)
    crops = crop_resize(images, boxes, flip=torch.tensor([False, True]))
    torch.testing.assert_close(crops[0], expected[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(crops[1], expected[1].flip(-1), atol=1e-5, rtol=0)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**31),
    size=st.integers(4, 64),
    low=st.floats(0.05, 1.0),
    ratio=st.floats(1.0, 3.0),
)
def test_a_crop_lies_inside_the_image_and_has_the_area_and_shape_asked_for(seed, size, low, ratio):
    draws = torch.rand(64, 22, generator=seeded(seed))
    left, top, width, height = random_crops(draws, size, scale=(low, 1.0), ratio=(1 / ratio, ratio)).unbind(1)
    assert ((left >= 0) & (top >= 0) & (width >= 1) & (height >= 1)).all()
    assert ((left + width <= size) & (top + height <= size)).all()
    whole = (width == size) & (height == size)  # also what is taken when no try fits
    # Sides are rounded to whole pixels, so area and ratio hold up to half a pixel a side.
    assert (whole | ((width + 0.5) * (height + 0.5) >= low * size * size)).all()
    assert (whole | ((width - 0.5) / (height + 0.5) <= ratio * 1.001)).all()
    assert (whole | ((height - 0.5) / (width + 0.5) <= ratio * 1.001)).all()


@pytest.mark.parametrize(("size", "scale"), [(32, (0.08, 1.0)), (32, (0.2, 1.0)), (96, (0.2, 0.5))])
def test_crops_are_distributed_as_torchvisions(size, scale):
    """Kolmogorov–Smirnov on 3,000 crops of each; with a fixed seed this fails only where the distributions differ."""
    count, ratio = 3000, (3 / 4, 4 / 3)
    draws = torch.rand(count, 22, generator=seeded(5))
    left, top, width, height = random_crops(draws, size, scale=scale, ratio=ratio).unbind(1)
    torch.manual_seed(6)
    image = torch.zeros(3, size, size)
    theirs = torch.tensor([RandomResizedCrop.get_params(image, list(scale), list(ratio)) for _ in range(count)])
    their_top, their_left, their_height, their_width = theirs.float().unbind(1)
    for own, other in [
        (left, their_left),
        (top, their_top),
        (width * height, their_width * their_height),
        (width / height, their_width / their_height),
    ]:
        assert stats.ks_2samp(own.numpy(), other.numpy()).pvalue > 0.01


def test_brightness_is_distributed_as_torchvisions():
    """A flat image's new level tells the factor that was drawn."""
    count = 3000
    settings = AugmentSettings(**NOTHING | {"jitter": 1.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0})
    grey = torch.full((count, 3, 2, 2), 0.5)
    own = Augment(settings, **UNIT)(grey, generator=seeded(7))[:, 0, 0, 0]
    torch.manual_seed(8)
    jitter = ColorJitter(brightness=0.4)
    other = torch.stack([jitter(image)[0, 0, 0] for image in grey])
    assert stats.ks_2samp(own.numpy(), other.numpy()).pvalue > 0.01


def test_crops_use_every_corner_and_the_whole_range_of_areas():
    boxes = random_crops(torch.rand(4000, 22, generator=seeded()), 32, scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3))
    left, _, width, height = boxes.unbind(1)
    area = width * height / 32**2
    assert area.min() < 0.22 and area.max() == 1 and 0.55 < area.mean() < 0.65
    slack = 32 - width
    assert (left == 0)[slack > 0].any() and (left == slack)[slack > 0].any()


def test_the_share_of_flipped_and_of_grey_views_is_the_one_asked_for():
    images = pictures(1).expand(2000, -1, -1, -1)
    augment = Augment(AugmentSettings(**NOTHING | {"flip": 0.3, "grey": 0.2}), **UNIT)
    views = augment(images, generator=seeded())
    grey = (views - views.mean(dim=1, keepdim=True)).abs().amax(dim=(1, 2, 3)) < 1e-5
    # Luma tells a flipped view from one that is not, grey or coloured.
    luma = torch.tensor([0.299, 0.587, 0.114])
    flat, target = torch.einsum("bchw,c->bhw", views, luma), torch.einsum("chw,c->hw", images[0] / 255, luma)
    flipped = (flat - target.flip(-1)).abs().amax(dim=(1, 2)) < 1e-4
    straight = (flat - target).abs().amax(dim=(1, 2)) < 1e-4
    assert (flipped ^ straight).all()
    assert grey.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert flipped.float().mean().item() == pytest.approx(0.3, abs=0.035)


@pytest.mark.parametrize(
    ("name", "amount", "reference"),
    [
        ("brightness", 0.7, tv.adjust_brightness),
        ("brightness", 1.4, tv.adjust_brightness),
        ("contrast", 0.6, tv.adjust_contrast),
        ("saturation", 0.6, tv.adjust_saturation),
        ("saturation", 0.0, tv.adjust_saturation),
    ],
)
def test_brightness_contrast_and_saturation_are_torchvisions(name, amount, reference):
    images = pictures().float() / 255
    # torchvision's luma weights are the same ones rounded to four digits.
    torch.testing.assert_close(colour(images, **{name: amount}), reference(images, amount), atol=1e-3, rtol=0)


@pytest.mark.parametrize(("start", "end"), [(0, 1), (1, 2), (2, 0)])
def test_a_third_of_a_turn_of_hue_takes_red_to_green_to_blue_to_red(start, end):
    image = torch.full((1, 3, 2, 2), 0.4)
    image[:, start] = 0.6
    assert colour(image, hue=1 / 3)[0, :, 0, 0].argmax() == end


@settings(max_examples=25)
@given(level=st.floats(0, 1), saturation=st.floats(0, 2), hue=st.floats(-0.5, 0.5))
def test_grey_is_left_alone_by_saturation_and_hue(level, saturation, hue):
    image = torch.full((1, 3, 2, 2), level)
    torch.testing.assert_close(colour(image, saturation=saturation, hue=hue), image, atol=1e-5, rtol=0)


@settings(max_examples=25)
@given(hue=st.floats(-0.5, 0.5))
def test_hue_keeps_luma_and_is_undone_by_its_opposite(hue):
    images = 0.45 + 0.1 * torch.rand(2, 3, 4, 4, generator=seeded())
    luma = torch.tensor([0.299, 0.587, 0.114])
    turned = colour(images, hue=hue)
    torch.testing.assert_close(
        torch.einsum("bchw,c->bhw", turned, luma), torch.einsum("bchw,c->bhw", images, luma), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(colour(turned, hue=-hue), images, atol=1e-5, rtol=0)


def test_colour_steps_run_in_the_order_brightness_contrast_saturation_hue():
    images = 0.3 + 0.2 * torch.rand(2, 3, 4, 4, generator=seeded())  # far from 0 and 1, so nothing is clamped
    steps = {"brightness": 1.2, "contrast": 0.7, "saturation": 1.3, "hue": 0.1}
    one_by_one = images
    for name, amount in steps.items():
        one_by_one = colour(one_by_one, **{name: amount})
    torch.testing.assert_close(colour(images, **steps), one_by_one, atol=1e-5, rtol=0)


def test_blur_equals_torchvisions_away_from_the_border_and_zero_sigma_leaves_the_image():
    images = pictures(3).float() / 255
    blurred = gaussian_blur(images, torch.tensor([0.0, 0.8, 1.5]))
    assert torch.equal(blurred[0], images[0])
    for row, sigma in ((1, 0.8), (2, 1.5)):
        expected = tv.gaussian_blur(images[row], [19, 19], [sigma, sigma])
        torch.testing.assert_close(blurred[row, :, 9:-9, 9:-9], expected[:, 9:-9, 9:-9], atol=1e-5, rtol=0)
    flat = torch.full((1, 3, 8, 8), 0.3)
    torch.testing.assert_close(gaussian_blur(flat, torch.tensor([2.0])), flat)


@pytest.mark.parametrize(("size", "blurs"), [(32, False), (64, True)])
def test_blur_is_on_by_default_only_above_32_pixels(size, blurs):
    images = pictures(64, size)
    augment = Augment(AugmentSettings(**NOTHING | {"blur": None}), **UNIT)
    changed = (augment(images, generator=seeded()) - images / 255).abs().amax(dim=(1, 2, 3)) > 1e-2
    assert bool(changed.any()) == blurs and not changed.all()


def test_solarise_inverts_the_bright_half():
    images = torch.tensor([0.2, 0.9]).view(1, 1, 1, 2).expand(1, 3, 2, 2)
    views = Augment(AugmentSettings(**NOTHING | {"solarise": 1.0}), **UNIT)(images, generator=seeded())
    assert views[0, 0, 0].tolist() == pytest.approx([0.2, 0.1], abs=1e-5)


def test_float_images_give_the_views_of_their_uint8_originals_and_are_not_changed():
    images = pictures()
    as_float = images / 255
    before = as_float.clone()
    views = Augment()(as_float, generator=seeded())
    torch.testing.assert_close(views, Augment()(images, generator=seeded()))
    assert torch.equal(as_float, before)


def test_autocast_does_not_lower_the_precision():
    images = pictures()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        views = Augment()(images, generator=seeded())
    assert torch.equal(views, Augment()(images, generator=seeded()))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(2, 8, 8, 3), "permute"),
        (torch.zeros(2, 3, 8, 9), r"\[B, 3, S, S\]"),
        (torch.zeros(3, 8, 8), r"\[B, 3, S, S\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.int64), "uint8"),
    ],
)
def test_images_of_another_form_are_refused(images, message):
    with pytest.raises(ValueError, match=message):
        Augment()(images, generator=seeded())
    if images.shape[-1] == 9:  # only views are square
        assert Augment().normalise(images).shape == images.shape
        return
    with pytest.raises(ValueError, match=message):
        Augment().normalise(images)


@pytest.mark.parametrize(
    "wrong",
    [{"flip": 1.5}, {"crop_scale": (0.5, 0.2)}, {"hue": 0.7}, {"brightness": math.nan}, {"crop_size": 3}],
)
def test_settings_out_of_range_or_unknown_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        AugmentSettings(**wrong)


def test_a_deviation_of_zero_is_refused():
    with pytest.raises(ValueError, match="std"):
        Augment(std=(1.0, 0.0, 1.0))
