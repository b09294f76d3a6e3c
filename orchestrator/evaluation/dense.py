"""The dense features that a protocol asks a backbone for."""

from torch import nn

from infoaug.models.dense import DenseFeatures
from infoaug.orchestrator.errors import UsageError
from infoaug.orchestrator.settings import one_line


def dense_features(backbone: nn.Module, asked: str, layer: int | None = None, stride: int = 8) -> DenseFeatures:
    """`DenseFeatures` on the backbone's device; `asked` is the setting that needs them, for the message.

    Raises:
        UsageError: the backbone has none.
    """
    try:
        return DenseFeatures(backbone, layer, stride)
    except ValueError as error:
        raise UsageError(one_line(f"{asked}: {error}").rstrip(".")) from None
