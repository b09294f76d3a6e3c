import copy

import pytest
import timm
import torch
from timm.layers import BatchNormAct2d
from torch import nn

from infoaug.models.backbones import create_backbone
from infoaug.models.batch_norm import GlobalBatchNorm, GlobalBatchNormAct, synchronise

CHANNELS, ROWS = 3, 8
SPLITS = {"equal": 4, "unequal": 6, "one row": 7, "one rank empty": 8}  # how many of the rows rank 0 has
KINDS = {
    "plain": lambda: nn.BatchNorm2d(CHANNELS),
    "cumulative": lambda: nn.BatchNorm2d(CHANNELS, momentum=None),
    "without scale": lambda: nn.BatchNorm2d(CHANNELS, affine=False, track_running_stats=False),
    "with activation": lambda: BatchNormAct2d(CHANNELS, inplace=False),
    "vectors": lambda: nn.BatchNorm1d(CHANNELS),
}


def make(kind: str) -> nn.Module:
    torch.manual_seed(0)
    norm = KINDS[kind]().double()
    for parameter in norm.parameters():
        nn.init.normal_(parameter)
    return norm


def batches(kind: str) -> torch.Tensor:
    """Two batches far from zero, so that the variance is small beside the mean."""
    shape = (2, ROWS, CHANNELS) if kind == "vectors" else (2, ROWS, CHANNELS, 2, 3)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 1000


def steps(norm: nn.Module, images: torch.Tensor, rows: slice) -> dict[str, torch.Tensor]:
    """Two batches through a norm; outputs, gradients of rows and parameters of a loss that is unlike for every row."""
    found = {}
    weights = torch.arange(images.numel(), dtype=torch.float64).view(images.shape).cos()
    for step, (batch, weight) in enumerate(zip(images, weights, strict=True)):
        own = batch[rows].clone().requires_grad_()
        output = norm(own)
        (output * weight[rows]).sum().backward()
        found |= {f"output {step}": output.detach(), f"gradient {step}": own.grad}
    found |= {name: parameter.grad for name, parameter in norm.named_parameters()}
    return found | dict(norm.named_buffers())


def on_rank(rank: int) -> dict:
    """Runs in a process of its own."""
    results = {}
    for kind in KINDS:
        for split, rows in SPLITS.items():
            own = slice(None, rows) if rank == 0 else slice(rows, None)
            results[kind, split] = steps(synchronise(make(kind)), batches(kind), own)
        norm = synchronise(make(kind))
        half = batches(kind).float().bfloat16()[0, :4]
        if half.ndim == 4:
            half = half.contiguous(memory_format=torch.channels_last)
        output = norm.float()(half)
        results[kind, "bfloat16"] = output.dtype, output.stride() == half.stride()
        if rank == 0:  # alone: it would wait for ever if evaluation needed the other
            results[kind, "evaluation"] = synchronise(make(kind)).eval()(batches(kind)[0])
    return results


@pytest.fixture(scope="module")
def ranks(two_ranks) -> list[dict]:
    return two_ranks(on_rank)


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_normalise_as_one_process_with_the_rows_of_both(ranks, kind, split):
    expected = steps(make(kind), batches(kind), slice(None))
    for name, value in expected.items():
        one, other = (found[kind, split][name] for found in ranks)
        if name.startswith(("output", "gradient")):
            got = torch.cat([one, other])
        elif name in ("weight", "bias"):
            got = one + other
        else:
            got = one
            assert torch.equal(one, other)
        torch.testing.assert_close(got, value, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_dtype_and_memory_format_are_those_of_the_input(ranks, kind):
    assert all(found[kind, "bfloat16"] == (torch.bfloat16, True) for found in ranks)


@pytest.mark.parametrize("kind", KINDS)
def test_in_evaluation_a_rank_does_not_look_at_the_others(ranks, kind):
    torch.testing.assert_close(ranks[0][kind, "evaluation"], make(kind).eval()(batches(kind)[0]))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_with_one_process_it_is_torchs_own(kind, training):
    plain, ours = make(kind).train(training), synchronise(make(kind).train(training))
    assert isinstance(ours, GlobalBatchNorm) and ours.training is training
    for batch in batches(kind):
        torch.testing.assert_close(ours(batch), plain(batch))
    assert all(torch.equal(part, dict(plain.named_buffers())[name]) for name, part in ours.named_buffers())


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnetv2_50", "efficientnet_b0"])
def test_a_timm_model_keeps_its_tensors_their_names_and_what_it_computes(name):
    torch.manual_seed(0)
    model = create_backbone(name, 32)
    tensors = model.state_dict(keep_vars=True)
    images = torch.randn(2, 3, 32, 32)
    expected = copy.deepcopy(model).eval()(images)
    assert synchronise(model) is model
    after = model.state_dict(keep_vars=True)
    assert list(after) == list(tensors) and all(after[key] is tensor for key, tensor in tensors.items())
    assert not any(type(part) in (nn.BatchNorm1d, nn.BatchNorm2d, BatchNormAct2d) for part in model.modules())
    torch.testing.assert_close(model.eval()(images), expected)


def test_activations_of_timms_norms_stay():
    norm = BatchNormAct2d(2, act_layer=nn.SiLU)
    converted = synchronise(norm)
    assert isinstance(converted, GlobalBatchNormAct) and converted.act is norm.act and converted.drop is norm.drop


def test_twice_is_as_once_and_other_layers_stay():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), nn.GroupNorm(1, 2))
    layers = list(synchronise(model))
    assert list(synchronise(model)) == layers
    assert [type(layer) for layer in layers] == [nn.Conv2d, GlobalBatchNorm, nn.GroupNorm]


def test_a_model_on_cuda_gets_the_kernels_made_for_it():
    if not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model = synchronise(timm.create_model("resnet18").cuda())
    assert any(isinstance(part, nn.SyncBatchNorm) for part in model.modules())


def test_an_input_of_other_channels_is_refused():
    with pytest.raises(ValueError, match=r"\[B, 3, …\]"):
        GlobalBatchNorm(3)(torch.zeros(4, 2))
