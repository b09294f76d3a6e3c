"""Two-branch training in plain PyTorch: from images and their twins to a trained backbone.

It needs neither Ray nor a config file. `images` are patches as u8[N, S, S, 3] in NumPy or u8[N, 3, S, S] in PyTorch;
`twins` holds, for every patch, the row of its twin, or −1 if it has none. With K images of a patch, of several times,
they are u8[N, K, S, S, 3] or u8[N, K, 3, S, S], and `TrainingSettings.views` says which of them a step compares:

    from infoaug.models.training import Pairs, Training, TrainingSettings

    settings = TrainingSettings(
        framework="simclr", backbone="resnet18", image_size=32, batch_size=256, epochs=2, warmup_epochs=0
    )
    training = Training(settings, Pairs.from_arrays(images, twins))
    for _ in range(settings.epochs):
        print(training.epoch())  # loss, images_per_second, feature_std, …
    backbone = training.model.kept_backbone.eval()  # normalised images [B, 3, S, S] to features [B, num_features]

`twin_weight=0` trains the baseline without twins. `Training.state` and `Training.load_state` save and resume it.
Under `torch.distributed`, every rank makes the same `Training`; `batch_size` is that of all ranks together.
"""

from infoaug.models.training.loop import Training
from infoaug.models.training.pairs import Pairs
from infoaug.models.training.settings import TrainingSettings
from infoaug.models.training.stream import Stream
from infoaug.models.training.sums import Epoch

__all__ = ["Epoch", "Pairs", "Stream", "Training", "TrainingSettings"]
