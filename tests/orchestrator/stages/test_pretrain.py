"""Settings of a training, and messages about it, without Ray."""

import errno
import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import nn

from infoaug.models.training import Training, TrainingSettings
from infoaug.orchestrator.config import ExperimentConfig, PretrainConfig, load
from infoaug.orchestrator.errors import StageError, UsageError
from infoaug.orchestrator.stages import pretrain, ray_training, score
from tests.models.training.trainings import CPU, random_pairs, small_settings
from tests.orchestrator.conftest import scored_windows


def config(**pretrain: Any) -> ExperimentConfig:
    values = small_settings().model_dump(include={"backbone_settings", "epochs", "warmup_epochs", "batch_size"})
    return load(None).model_validate({"extract": {"image_size": 16}, "pretrain": values | pretrain})


@pytest.mark.parametrize(
    ("message", "cause"),
    [
        ("Training failed\n  File 'x'\nValueError: the loss is nan. Much more", "ValueError: the loss is nan"),
        (f"OSError: [Errno {errno.ENOSPC}] Error writing", "OSError: No space left on device: Error writing"),
        (f"OSError: [Errno {errno.ENOSPC}] No space left on device: 'x'", "OSError: No space left on device: 'x'"),
        ("OSError: gone\n\nThe cause of\n  File 'x'\ninfoaug.stages.RetryableError", "OSError: gone"),
        ("", "RuntimeError"),
    ],
)
def test_the_cause_of_a_failure_is_the_last_error_with_its_number_in_words(message: str, cause: str) -> None:
    assert pretrain._cause(RuntimeError(message)) == cause


def test_the_training_has_the_settings_of_the_config() -> None:
    described = config(learning_rate=0.3, twin_weight=0.7).model_copy(update={"seed": 5})
    settings = pretrain.training_settings(described)
    assert (settings.learning_rate, settings.twin_weight, settings.seed, settings.image_size) == (0.3, 0.7, 5, 16)
    shared = TrainingSettings.model_fields.keys() & PretrainConfig.model_fields.keys()
    shared -= {"augment", "augment_second", "framework_settings"}  # typed differently
    assert len(shared) > 10
    assert all(getattr(settings, name) == getattr(described.pretrain, name) for name in shared)


def test_without_a_policy_of_twins_the_baseline_is_trained() -> None:
    described = config().model_validate({"score": {"policy": "none"}})
    assert pretrain.training_settings(described).twin_weight == 0


def test_defaults_of_the_config_and_of_a_training_are_the_same() -> None:
    assert pretrain.training_settings(load(None)).model_dump(exclude={"augment_second"}) == (
        TrainingSettings().model_dump(exclude={"augment_second"})
    )


def test_second_views_and_twins_have_settings_of_their_own_on_top_of_the_first() -> None:
    settings = pretrain.training_settings(config(augment={"flip": 0.0, "blur": 0.3}, augment_second={"blur": 0.1}))
    first, second = settings.augment, settings.augment_second
    assert second
    assert (first.flip, first.blur, second.flip, second.blur) == (0.0, 0.3, 0.0, 0.1)


SMALL_VIEWS: dict[str, Any] = {"framework": "swav", "framework_settings": {"small_views": 2}}
VIT = {"backbone": "vit_tiny_patch16_224", "backbone_settings": {"depth": 1, "dynamic_img_size": True}}


@pytest.mark.parametrize("given", [{}, VIT])
def test_resnets_and_vits_of_any_size_take_small_views(given: dict[str, Any]) -> None:
    values = config().pretrain.model_dump(include={"backbone_settings", "epochs", "warmup_epochs", "batch_size"})
    overrides = [f"pretrain.{name}={json.dumps(value)}" for name, value in (values | SMALL_VIEWS | given).items()]
    pretrain.check(load(None, ["extract.image_size=16", *overrides]))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"optimizer_settings": {"trust": 1}}, "trust"),
        ({"optimizer": "nonsense"}, "nonsense"),
        ({"warmup_epochs": 3}, "pretrain.warmup_epochs"),
        ({"twin_share": 0.01}, "twin_share 0.01 of a batch of 8 is 0 patches with a twin: set it or batch_size higher"),
        ({"twin_share": 0.375, "workers": 2}, "3 patches with a twin, which 2 workers cannot share"),
        ({"twin_share": 1.5}, r"pretrain\.twin_share"),
        ({"batch_size": 9, "workers": 2}, "pretrain.batch_size"),
        ({"workers": 2, "min_workers": 3}, r"pretrain\.min_workers 3 must be at most workers 2"),
        ({"workers": 4, "min_workers": 2}, "batch_size 8 .* must be a multiple of the 3 workers"),
        ({"augment": {"flip": 2.0}}, r"pretrain\.augment\.flip: .* 1 \(got 2\.0\)"),
        ({"augment": {"flip": 0.0}, "augment_second": {"flip": 2.0}}, r"pretrain\.augment_second\.flip: "),
        ({"augment_second": {"hue": "red"}}, r"pretrain\.augment_second\.hue: .* number.* \(got 'red'\)"),
        ({"augment_second": {"crop_scale": [1.0, 0.5]}}, r"pretrain\.augment_second: crop_scale must be \(low, high\)"),
        ({"augment_second": {"solarize": 0.2}}, r"did you mean 'pretrain\.augment_second\.solarise'\?"),
        ({"augment": {"xyz": 0.2}}, r"unknown key 'pretrain\.augment\.xyz'; .* crop_scale, .*, solarise"),
        ({"backbone_settings": {"global_pool": ""}}, r"'resnet18' .* 16 × 16 pixels \(.*pool its output\)"),
        ({"backbone_settings": {"in_chans": 1}}, "cannot be trained on RGB images of 16 × 16 pixels"),
        (
            {"backbone": "inception_v3", "backbone_settings": {}},
            "'inception_v3' .*another image size",
        ),
        ({"framework_settings": {"small_views": 2}}, r"unknown key 'pretrain\.framework_settings\.small_views'"),
        (SMALL_VIEWS | {"framework_settings": {"small_views": 2, "small_size": 16}}, "small_size 16 must be below"),
        (
            SMALL_VIEWS | {"backbone": "vit_tiny_patch16_224", "backbone_settings": {"depth": 1}},
            r"no small views of 8 × 8 \(.*\): add dynamic_img_size: true to backbone_settings$",
        ),
        (
            SMALL_VIEWS | VIT | {"framework_settings": {"small_views": 2, "small_size": 9}},
            r"no small views of 9 × 9 \(.*\): set framework_settings\.small_size to one that it takes",
        ),
    ],
)
def test_wrong_settings_are_found_before_training(wrong: dict[str, Any], message: str) -> None:
    values = (
        config().pretrain.model_dump(include={"backbone_settings", "epochs", "warmup_epochs", "batch_size"}) | wrong
    )
    overrides = [f"pretrain.{name}={json.dumps(value)}" for name, value in values.items()]
    with pytest.raises(UsageError, match=message):
        pretrain.check(load(None, ["extract.image_size=16", *overrides]))


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(
    ("given", "refused"),
    [
        (["pretrain.precision=bfloat16"], True),
        (["pretrain.precision=bfloat16", "pretrain.gpu=false"], True),
        (["pretrain.precision=bfloat16", "pretrain.gpu=true"], False),
        (["pretrain.precision=bfloat16", "ray.address=auto"], False),
        (["pretrain.precision=auto"], False),
    ],
)
def test_a_precision_in_which_this_cpu_is_wrong_is_refused_where_it_will_train(
    given: list[str], refused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    small = "pretrain.backbone_settings={layers: [1, 1, 1, 1], channels: [8, 8, 16, 16], fit_stem: false}"
    asked = load(None, ["extract.image_size=16", small, *given])
    with pytest.raises(UsageError, match=r"^pretrain: this CPU .*: set precision") if refused else nullcontext():
        pretrain.check(asked)


def test_features_that_collapse_are_warned_of_once() -> None:
    plain = {"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16]}
    training = Training(small_settings(backbone_settings=plain, learning_rate=1e-6), random_pairs(), CPU)
    history = [training.epoch()]
    assert "collapsed" not in str(pretrain.warnings(history[0], []))
    with torch.no_grad():
        for module in training.model.backbone.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.zeros_(module.weight)
                nn.init.ones_(module.bias)
    history += [training.epoch(), training.epoch()]
    assert history[1]["feature_std"] < 0.1 < history[0]["feature_std"]
    warning = pretrain.warnings(history[1], history[:1])[0]
    assert "epoch 2: the features have collapsed" in warning and "pretrain.learning_rate" in warning
    assert "collapsed" not in str(pretrain.warnings(history[2], history[:2]))


def test_a_collapse_is_told_of_after_a_resume_although_earlier_epochs_are_not_known() -> None:
    epoch = {"epoch": 7.0, "feature_std": 0.6, "rank_me": 20.0, "collapsed": 1.0}
    assert "epoch 7: the features have collapsed" in pretrain.warnings(epoch, [])[0]


def test_twins_that_have_no_crop_of_the_same_frame_call_for_another_twin_time() -> None:
    epoch = {"epoch": 1.0, "collapsed": 0.0, "steps_without_twin_loss": 1.0, "share_with_twin": 0.0}
    all_of_them, some, none = (
        pretrain.warnings(epoch | {"twins_without_frame": left_out}, [])[0] for left_out in (1.0, 0.2, 0.0)
    )
    remedy = "have no crop of the first view's frame, so set pretrain.twin_time to nearest or own"
    assert f"100 % of the twins {remedy}" in all_of_them and "batch_size" not in all_of_them
    assert f"20 % of the twins {remedy}" in some and "pretrain.batch_size" in some
    assert "pretrain.batch_size" in none and "twin_time" not in none


def test_patches_of_one_crop_are_told_of_once_where_another_time_is_asked_for() -> None:
    epoch = {"epoch": 1.0, "collapsed": 0.0, "share_with_one_crop": 0.031}
    (told,) = pretrain.warnings(epoch, [])
    assert "3.1 % of the patches are seen in one frame only" in told
    assert pretrain.warnings(epoch | {"epoch": 2.0}, [epoch]) == []
    assert pretrain.warnings(epoch | {"share_with_one_crop": 0.0}, []) == []


@pytest.mark.parametrize("views", ["time", "both"])
def test_views_of_two_times_need_two_crops_of_a_track(views: str) -> None:
    with pytest.raises(UsageError, match=rf"pretrain\.views {views} .*set extract\.crops to 2 or more"):
        pretrain.check(load(None, [f"pretrain.views={views}", "extract.crops=1"]))


@pytest.mark.parametrize(("policy", "share"), [("later", 0), ("later+mutual-information", 0.5), ("random", 0)])
def test_later_and_mutual_information_share_the_steps(policy: str, share: float) -> None:
    config = load(None, [f"score.policy={policy}", "pretrain.views=both", "pretrain.twin_time=nearest"])
    built = pretrain.training_settings(config)
    assert (built.later_share, built.views, built.twin_time) == (share, "both", "nearest")


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        (
            ["score.policy=nearest"],
            "score.policy nearest gives a patch one twin, .* set pretrain.twins to 1, or score.pol",
        ),
        (["score.policy=oracle", "clips.masks=/m", "clips.path=/v"], "score.policy oracle gives a patch one twin"),
        (
            ["score.candidates=2"],
            "pretrain.twins 3 are more partners than the 2 that are stored: set it lower, or score",
        ),
        (
            ["pretrain.framework=vicreg", "pretrain.twin_choice=all"],
            "'vicreg' cannot weigh several twins of a patch: set",
        ),
        (["pretrain.twins=0"], r"pretrain\.twins"),
        (["pretrain.twin_choice=best"], r"pretrain\.twin_choice"),
        (["pretrain.framework=vicreg", "pretrain.twin_choice=strength"], None),
        (["pretrain.twin_choice=all", "score.policy=later+mutual-information"], None),
        (["pretrain.twin_choice=all", "pretrain.framework=vicreg", "score.policy=none"], None),
        (["score.policy=later", "score.candidates=1"], None),
        (["score.policy=random", "pretrain.twin_weight=0"], None),
    ],
)
def test_more_twins_than_a_policy_a_scoring_or_a_loss_has_are_refused_before_training(
    asked: list[str], named: str | None
) -> None:
    small = [f"pretrain.backbone_settings={json.dumps(small_settings().backbone_settings)}", "pretrain.twins=3"]
    if named is None:
        pretrain.check(load(None, ["extract.image_size=16", *small, *asked]))
        return
    with pytest.raises(UsageError, match=named):
        pretrain.check(load(None, ["extract.image_size=16", *small, *asked]))


@pytest.mark.parametrize(
    ("policy", "twins"), [("mutual-information", 3), ("later+mutual-information", 3), ("later", 1)]
)
def test_several_twins_are_those_of_mutual_information(policy: str, twins: int) -> None:
    built = pretrain.training_settings(load(None, [f"score.policy={policy}", "pretrain.twins=3"]))
    assert built.twins == twins


def test_how_many_partners_count_is_told_once() -> None:
    epoch = {"epoch": 1.0, "collapsed": 0.0, "partners": 1.84}
    (told,) = pretrain.warnings(epoch, [])
    assert "patches with a twin have 1.8 partners on average" in told
    assert pretrain.warnings(epoch | {"epoch": 2.0}, [epoch]) == []


def test_steps_without_a_twin_loss_are_warned_of_once() -> None:
    epoch = {"epoch": 1.0, "collapsed": 0.0, "steps_without_twin_loss": 0.25, "share_with_twin": 0.004}
    (warning,) = pretrain.warnings(epoch, [])
    assert "epoch 1: 25 % of the steps have no twin loss" in warning
    assert "(0.4 % of their rows)" in warning and "pretrain.batch_size" in warning
    assert "image_share" not in warning
    assert "pretrain.image_share lower" in pretrain.warnings(epoch | {"share_of_images": 0.5}, [])[0]
    assert pretrain.warnings(epoch | {"epoch": 2.0}, [epoch]) == []
    assert pretrain.warnings(epoch | {"steps_without_twin_loss": 0.0}, []) == []


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["pretrain.framework=dino"], True),
        (["pretrain.framework=dino", "pretrain.framework_settings={encoder: trained}"], False),
        (["pretrain.framework=byol"], False),
        (["pretrain.framework=byol", "pretrain.framework_settings={encoder: momentum}"], True),
        ([], False),
    ],
)
def test_a_stage_says_that_it_holds_the_momentum_encoder(overrides: list[str], named: bool, tmp_path: Path) -> None:
    scored = scored_windows(tmp_path / "store", {"a": [(np.zeros((1, 4, 4, 3), np.uint8), [-1])]})
    assert ("encoder" in pretrain.stage(load(None, overrides), scored).key) == named


# ---- images beside the video


def images_in(folder: Path, count: int = 3) -> str:
    """A folder of grey images of 16 pixels: 200, 201, …"""
    folder.mkdir(parents=True)
    for number in range(count):
        Image.fromarray(np.full((16, 16), 200 + number, np.uint8)).save(folder / f"{number}.png")
    return str(folder)


def test_a_models_name_depends_on_the_content_of_its_images_and_their_share_and_not_on_their_place(
    tmp_path: Path,
) -> None:
    scored = scored_windows(tmp_path / "store", {"a": [(np.zeros((1, 4, 4, 3), np.uint8), [-1])]})

    def name(images: str | None, share: float = 0.5) -> str:
        return pretrain.stage(config(images=images, image_share=share), scored).hash

    here, copy, other = (images_in(tmp_path / place, count) for place, count in (("a", 3), ("b", 3), ("c", 4)))
    without = pretrain.stage(config(), scored).hash
    assert {without} == {name(None), name(None, 0.25), name(here, 0.0)}, "nothing is read"
    assert name(here) == name(copy)
    assert len({without, name(here), name(here, 0.25), name(other), name("cifar10"), name("stl10")}) == 6
    with pytest.raises(UsageError, match=r"pretrain\.images: there is no file or folder '.*absent'"):
        name(str(tmp_path / "absent"))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["image_share=0.01"], r"pretrain: image_share 0\.01 of a batch of 8 is 0 images"),
        (["image_share=0.375", "workers=2"], "3 images, which 2 workers cannot share: set it to a multiple of 0.25"),
        (["image_share=1"], "fewer than 2 patches for the twin branch: set it lower, or twin_weight to 0"),
        (["image_share=1.5"], r"pretrain\.image_share"),
        (["images=absent.npz"], "no data set 'absent.npz'"),
        (["image_share=0.5", "twin_share=0.75"], "image_share leaves 4 rows for patches: set one of them lower"),
    ],
)
def test_images_and_shares_that_cannot_be_trained_on_are_found_before_training(
    more: list[str], message: str, tmp_path: Path
) -> None:
    small = [f"pretrain.{n}={json.dumps(v)}" for n, v in config().pretrain.model_dump(exclude_unset=True).items()]
    asked = [f"pretrain.images={images_in(tmp_path / 'images')}", *(f"pretrain.{setting}" for setting in more)]
    with pytest.raises(UsageError, match=message):
        pretrain.check(load(None, ["extract.image_size=16", *small, *asked]))


def test_too_few_patches_with_a_twin_for_their_share_are_found_before_training(tmp_path: Path) -> None:
    described = config(twin_share=0.5)
    scored = scored_windows(tmp_path, {})
    for paired, policy in ((3, "mutual-information"), (3, "none"), (4, "none")):
        counts = {name: [0] for name in map(score.column, score.COUNTED)} | {"patches": [20], "twin": [paired]}
        known = replace(scored, ledger=pa.table(counts), policy=policy)
        if paired == 3:
            with pytest.raises(
                UsageError, match=r"pretrain\.twin_share 0\.5 .* 4 patches with a twin, and there are 3"
            ):
                pretrain._paired(described, known)
        else:
            assert "4 of 8 rows of a batch" in pretrain._paired(described, known)


def test_images_alone_are_trained_on_without_twins_and_unused_ones_need_not_be_there(tmp_path: Path) -> None:
    images = images_in(tmp_path / "images")
    alone = config(images=images, image_share=1.0)
    pretrain.check(alone.model_validate(alone.model_dump() | {"score": {"policy": "none"}}))
    pretrain.check(config(images="absent", image_share=0.0))


def test_what_of_the_images_is_not_used_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = images_in(tmp_path / "images")
    (tmp_path / "images" / "notes.doc").touch()
    pretrain.check(config(images=images))
    assert "files are left out by their suffix: 1 .doc" in " ".join(capsys.readouterr().err.split())


def test_validations_on_labels_that_were_corrected_since_are_left_out_of_the_history(tmp_path: Path) -> None:
    labels = np.arange(20) % 2
    arrays = {"x_train": np.zeros((20, 8, 8), np.uint8), "x_test": np.zeros((4, 8, 8), np.uint8)}
    np.savez(tmp_path / "set.npz", **arrays, y_train=labels, y_test=labels[:4])
    described = load(None, [f"store={tmp_path / 'store'}", f"evaluate.datasets=['{tmp_path / 'set.npz'}']"])
    scored = scored_windows(tmp_path / "store", {"a": [(np.zeros((4, 16, 16, 3), np.uint8), [-1] * 4)]})
    stage = pretrain.stage(described, scored)
    epoch = dict.fromkeys(pretrain.SHOWN, 1.0) | {"validation_knn": 0.5}
    stage.store.write_json(stage.path("history.json"), [epoch])

    def validations() -> list[bool]:
        return ["validation_knn" in epoch for epoch in pretrain.load(described, scored).history]

    assert validations() == [True], "a model of an earlier version, without a record"
    stage.store.write_json(stage.path("validated_on.json"), ray_training._validated_on(described))
    assert validations() == [True]
    np.savez(tmp_path / "set.npz", **arrays, y_train=1 - labels, y_test=labels[:4])
    assert validations() == [False]


@pytest.mark.parametrize("resume", [True, False])
def test_a_model_is_trained_by_one_command_at_a_time_whatever_the_experiments_are_called(
    resume: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scored = scored_windows(tmp_path / "store", {"a": [(np.zeros((1, 16, 16, 3), np.uint8), [-1])]})
    one = config()
    other = one.model_copy(update={"name": "other"})
    refusals = []

    def connect(ray: Any) -> None:
        model = pretrain.stage(one, scored)
        model.store.write_bytes(model.path("train", "checkpoint"), b"")
        with pytest.raises(UsageError, match=f"the model '{model.folder}' of the store .* is in use by another") as no:
            pretrain.run(other, scored, lambda epoch: None, resume)
        refusals.append(no)
        assert model.store.exists(model.path("train", "checkpoint")), "deleted under the other command"
        raise UsageError("no Ray in this test")

    monkeypatch.setattr(pretrain.cluster, "connect", connect)
    with pytest.raises(UsageError, match="no Ray in this test"):
        pretrain.run(one, scored, lambda epoch: None)
    assert refusals


@pytest.mark.parametrize("stored", [{}, [], [{}], [None], [{"epoch": 1, "loss": 2.0}]])
def test_a_history_that_was_changed_by_hand_is_named_as_broken(stored: Any, tmp_path: Path) -> None:
    described = load(None, [f"store={tmp_path / 'store'}"])
    scored = scored_windows(tmp_path / "store", {"a": [(np.zeros((4, 16, 16, 3), np.uint8), [-1] * 4)]})
    stage = pretrain.stage(described, scored)
    stage.store.write_json(stage.path("history.json"), stored)
    with pytest.raises(StageError, match=r"history\.json' of the store .* is broken, delete it to compute it again"):
        pretrain.load(described, scored)
