"""The layers of a backbone, from its input to its output, as learning rates and freezing count them."""

from timm.models import group_parameters
from torch import nn

# Some versions of timm put the tokens that a ViT adds to its patches into its last layer.
_STEM_TOKENS = ("cls_token", "dist_token", "reg_token", "pos_embed")


def layers(backbone: nn.Module) -> dict[str, int]:
    """The layer of every parameter, by name: 0 for the stem or the embedding of patches, then one for each block.

    Raises:
        ValueError: the backbone does not say what its layers are, as timm's do by `group_matcher`.
    """
    matcher = getattr(backbone, "group_matcher", None)
    if matcher is None:
        raise ValueError(f"{type(backbone).__name__} does not name its layers: it needs timm's method group_matcher.")
    found: dict[str, int] = group_parameters(backbone, matcher(coarse=False), reverse=True)
    return found | {name: 0 for name in found if name in _STEM_TOKENS}


def scales(backbone: nn.Module, decay: float) -> dict[str, float]:
    """The factor of every parameter's learning rate, by name: `decay` in the last layer, its square before, and so on.

    What follows the backbone has the factor 1 (Bao et al. 2022, BEiT, appendix).

    Raises:
        ValueError: as `layers`.
    """
    found = layers(backbone)
    top = max(found.values()) + 1
    return {name: decay ** (top - layer) for name, layer in found.items()}


def freeze(backbone: nn.Module, count: int) -> list[str]:
    """Exclude the first layers from training.

    Returns:
        Names of the modules with parameters of which none is trained. In eval mode their statistics stay, too.

    Raises:
        ValueError: as `layers`, or all layers would be frozen.
    """
    if not count:
        return []
    found = layers(backbone)
    total = max(found.values()) + 1
    if count >= total:
        raise ValueError(f"the backbone has {total} layers: freeze {total - 1} at most, so that one is trained.")
    for name, parameter in backbone.named_parameters():
        if found[name] < count:
            parameter.requires_grad_(False)
    with_parameters = ((name, [*module.parameters()]) for name, module in backbone.named_modules())
    return [name for name, own in with_parameters if own and not any(each.requires_grad for each in own)]
