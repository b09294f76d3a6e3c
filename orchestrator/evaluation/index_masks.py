"""Masks of numbers: images whose pixels are indices of classes or objects."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from infoaug.orchestrator.evaluation.images import check_size
from infoaug.orchestrator.settings import one_line


def read(path: Path, *, white: int = 255) -> NDArray[np.uint8]:
    """The indices u8[H, W] of a mask: those of a palette, or grey values, also where they are stored as equal colours.

    Args:
        path: the file.
        white: the index of the white pixels of a mask of 1 bit.

    Raises:
        ValueError: the file cannot be read, or has colours or more than 8 bits.
    """
    try:
        with Image.open(path) as image:
            check_size(*image.size[::-1])
            bands = np.asarray(image)
    except Exception as error:  # Pillow raises errors of many kinds for a broken file
        raise ValueError(one_line(f"the mask '{path}' cannot be read ({error}): copy it again")) from None
    if bands.dtype == np.bool_:
        return np.where(bands, np.uint8(white), np.uint8(0))
    if bands.ndim == 3:
        alike = (bands[..., : 1 if bands.shape[2] == 2 else 3] == bands[..., :1]).all()  # the last of 2 or 4 is opacity
        bands = bands[..., 0] if alike else bands
    if bands.ndim != 2 or bands.dtype != np.uint8:
        raise ValueError(
            one_line(
                f"the mask '{path}' has colours or more than 8 bits: save it as a PNG with a palette, or in grey of 8 "
                "bits, with the number of the class or the object in every pixel"
            )
        )
    return np.ascontiguousarray(bands)
