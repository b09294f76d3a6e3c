import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from infoaug.models import frameworks, own_code
from infoaug.models.backbones import create_backbone, load_backbone, save_backbone
from infoaug.models.frameworks.base import Framework
from tests.models.own_models import Aligned, AlignedSettings, Tiny
from tests.models.training.trainings import random_pairs, same, small_settings, trained

TINY = "tests.models.own_models:Tiny"
OWN = "tests.models.own_models"


def test_a_backbone_of_the_users_own_is_built_with_its_settings_and_trains() -> None:
    backbone: Any = create_backbone(TINY, 16, width=6)
    assert type(backbone).__name__ == Tiny.__name__ and backbone.num_features == 6
    settings = small_settings(backbone=TINY, backbone_settings={"width": 6}, layer_decay=0.5, freeze_layers=1)
    training = trained(settings, random_pairs(), 1)
    assert training.history[0]["loss"] > 0
    rates = {group["lr"] for group in training.optimizer.param_groups}
    assert min(rates) == max(rates) / 2 and len(rates) == 2  # its last layer, and the heads


def test_a_backbone_of_the_users_own_is_saved_and_comes_back_only_where_it_is_named(tmp_path: Path) -> None:
    backbone = create_backbone(TINY, 16, width=6).eval()
    save_backbone(backbone, tmp_path, mean=(0.5,) * 3, std=(0.5,) * 3)
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(load_backbone(tmp_path, own=TINY)(images), backbone(images))
    for other in ("", "os:system", "resnet18"):
        with pytest.raises(ValueError, match=r"code of its author's own, 'tests\.models\.own_models:Tiny', .*name it"):
            load_backbone(tmp_path, own=other)


def test_a_hostile_recipe_imports_nothing(tmp_path: Path) -> None:
    save_backbone(create_backbone(TINY, 16), tmp_path, mean=(0.5,) * 3, std=(0.5,) * 3)
    (tmp_path / "evil_module.py").write_text("raise SystemExit('it ran')")
    recipe = tmp_path / "backbone.json"
    recipe.write_text(recipe.read_text().replace(TINY, "evil_module:Net"))
    with pytest.raises(ValueError, match=r"own code|author's own"):
        load_backbone(tmp_path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module_here:Net", r"cannot be imported \(ModuleNotFoundError: .*put it into the current folder"),
        (f"{OWN}:Missing", "has no 'Missing': name one of "),
        (f"{OWN}:tiny", "has no 'tiny': did you mean 'Tiny'?"),
        (f"{OWN}:AlignedSettings", "is not a subclass of torch.nn.modules.module.Module: derive it from that class"),
        ("os:system", "is not a subclass"),
        ("../evil:Net", "not of the form module:Class"),
        (f"{OWN}:Tiny:Net", "not of the form module:Class"),
        (f"{OWN}:Nameless", "needs an integer num_features"),
    ],
)
def test_classes_that_cannot_be_used_are_refused_in_a_sentence(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_backbone(name, 16)


def test_a_module_that_ends_the_process_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    (tmp_path / "leaves_at_once.py").write_text("import sys\nsys.exit(3)\n")
    with pytest.raises(ValueError, match=r"\(SystemExit: 3, in leaves_at_once\.py, line 2\): correct it"):
        create_backbone("leaves_at_once:Net", 16)


HEAD = "from torch import nn\n\nclass Net(nn.Module):\n    def __init__(self, "


@pytest.mark.parametrize(
    ("code", "settings", "message"),
    [
        ("def (:\n", {}, r"\(SyntaxError: .*, in \w+\.py, line 1\): correct it"),
        ("import this_is_not_there\n", {}, r"\(ModuleNotFoundError: .*\): install 'this_is_not_there', which it needs"),
        ("\n\nraise OSError('no file')\n", {}, r"\(OSError: no file, in \w+\.py, line 3\): correct it"),
        (f"{HEAD}image_size):\n        self.layer = nn.Linear(1, 1)\n", {}, r"call super\(\).__init__\(\) first"),
        (f"{HEAD}image_size):\n        self.num_features = 3\n", {}, r"call super\(\).__init__\(\) first"),
        (
            f"{HEAD}image_size):\n        1 / 0\n",
            {},
            r"\(ZeroDivisionError: .*, in \w+\.py, line 5\): correct its code",
        ),
        (f"{HEAD}size):\n        pass\n", {}, "must take image_size, the side of its images"),
        (
            f"{HEAD}image_size):\n        pass\n",
            {"layers": 2},
            r"not take 'layers': set pretrain.backbone_settings={} ",
        ),
        (f"{HEAD}image_size, width=3):\n        pass\n", {"layers": 2}, "keyword.*; it takes width"),
        (f"{HEAD}image_size, width):\n        pass\n", {}, "needs 'width': give it in pretrain.backbone_settings"),
    ],
)
def test_what_is_wrong_with_a_users_code_is_said_with_what_to_do(
    code: str, settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    name = f"of_a_user_{abs(hash((code, *settings)))}"
    (tmp_path / f"{name}.py").write_text(code)
    with pytest.raises(ValueError, match=message) as refused:
        create_backbone(f"{name}:Net", 16, **settings)
    assert "\n" not in str(refused.value)


def test_a_class_that_takes_any_keyword_is_given_all_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    text = f"{HEAD}**given):\n        super().__init__()\n        self.num_features, self.given = 4, given\n"
    (tmp_path / "takes_any_keyword.py").write_text(text)
    built: Any = create_backbone("takes_any_keyword:Net", 16, depth=3)
    assert built.given == {"image_size": 16, "depth": 3}


def test_a_module_of_the_current_folder_is_found_and_its_code_is_identified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(own_code, "_loaded", set())
    package = tmp_path / "package_of_a_user"
    package.mkdir()
    for file, text in (("__init__", ""), ("nets", "from torch import nn\nclass Net(nn.Module): pass\n")):
        (package / f"{file}.py").write_text(text)
    (tmp_path / "net_of_a_user.py").write_text("from torch import nn\nclass Net(nn.Module): pass\n")
    names = {"package_of_a_user.nets:Net": package, "net_of_a_user:Net": tmp_path / "net_of_a_user.py"}
    for name, path in names.items():
        assert own_code.load(name, nn.Module).__name__ == "Net" and own_code.source(name) == path
    assert own_code.sources() == sorted(names.values())
    before = [own_code.digest(name) for name in names]
    (package / "nets.py").write_text("changed = True\n")
    after = [own_code.digest(name) for name in names]
    assert before[0] != after[0] and before[1] == after[1]
    assert sys.path[-1] == str(Path.cwd()), "last, so that it hides no other module"


def test_installed_code_is_no_code_of_the_users_own() -> None:
    assert own_code.source("torch.nn:Linear") is None and own_code.digest("json:JSONDecoder") == ""


def test_a_framework_of_the_users_own_has_typed_settings_and_resumes_to_the_last_bit() -> None:
    name = f"{OWN}:Aligned"
    assert frameworks.settings_type(name) is AlignedSettings
    backbone = create_backbone(TINY, 16)
    assert isinstance(frameworks.create(name, backbone, power=1.5), Aligned)
    with pytest.raises(ValueError, match="did you mean 'power'"):
        frameworks.create(name, backbone, powr=1.5)
    with pytest.raises(ValueError, match=r"is not a subclass of infoaug.models.frameworks.base.Framework"):
        frameworks.create(TINY, backbone)
    assert Framework.settings_type().written() == {}
    for known in frameworks.available():  # so that a class of the user's own inherits them
        made = frameworks.create(known, backbone)
        assert type(made).settings_type is frameworks.settings_type(known)
    settings = small_settings(framework_settings={"power": 1.5}).model_copy(
        update={"framework": name, "backbone": TINY, "backbone_settings": {}}
    )
    whole, first = trained(settings, random_pairs(), 3), trained(settings, random_pairs(), 1)
    resumed = trained(settings, random_pairs(), 0)
    resumed.load_state(first.state())
    for _ in range(2):
        resumed.epoch()
    assert same(whole.model.state_dict(), resumed.model.state_dict())
