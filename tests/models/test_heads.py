import pytest
from torch import nn

from models.heads import mlp


def kinds(head: nn.Sequential) -> list[str]:
    return [type(layer).__name__ for layer in head]


def test_a_head_is_linear_layers_with_batch_norm_and_relu_between_them():
    head = mlp(5, 7, 6, 3)
    assert kinds(head) == ["Linear", "BatchNorm1d", "ReLU", "Linear", "BatchNorm1d", "ReLU", "Linear"]
    assert [layer.out_features for layer in head if isinstance(layer, nn.Linear)] == [7, 6, 3]
    assert [layer.bias is not None for layer in head if isinstance(layer, nn.Linear)] == [False, False, True]


def test_batch_norm_can_be_left_out_or_put_on_the_output():
    plain = mlp(5, 7, 3, batch_norm=False)
    assert kinds(plain) == ["Linear", "ReLU", "Linear"] and plain[0].bias is not None
    normed = mlp(5, 3, last_batch_norm=True)
    assert kinds(normed) == ["Linear", "BatchNorm1d"] and normed[0].bias is None and not normed[1].affine


def test_a_head_without_an_output_is_refused():
    with pytest.raises(ValueError, match="output"):
        mlp(5)
