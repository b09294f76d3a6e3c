import pytest
import torch
from torch import nn

from infoaug.models.heads import Prototypes, mlp


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


def test_another_activation_can_stand_for_the_relu():
    assert kinds(mlp(5, 7, 3, activation=nn.GELU)) == ["Linear", "BatchNorm1d", "GELU", "Linear"]


def test_prototypes_give_cosines_in_float32_whatever_the_lengths():
    prototypes = Prototypes(5, 3)
    torch.testing.assert_close(prototypes.weight.norm(dim=1), torch.ones(3))
    embeddings = torch.randn(4, 5)
    expected = torch.cosine_similarity(embeddings[:, None], prototypes.weight, dim=2)
    with torch.no_grad():
        prototypes.weight *= 3
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(prototypes(7 * embeddings), expected)
        assert prototypes(embeddings.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_prototypes_take_a_gradient_of_zero_and_let_the_embeddings_learn(frozen):
    prototypes, embeddings = Prototypes(5, 3), torch.randn(4, 5, requires_grad=True)
    prototypes(embeddings, frozen=torch.tensor(frozen))[:, 0].sum().backward()
    assert prototypes.weight.grad.any() == (not frozen) and embeddings.grad.any()


def test_a_head_without_an_output_is_refused():
    with pytest.raises(ValueError, match="output"):
        mlp(5)
