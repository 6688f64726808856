"""How most photos are decoded: a JPEG that needs no turning and no other colours, faster than Pillow does it."""

import numpy as np
import simplejpeg
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

from ctl_lightning.data.pictures.metadata import is_srgb, turn
from ctl_lightning.data.pictures.opening import MOST_BYTES


def decode_plain(image: Image.Image) -> NDArray[np.uint8] | None:
    """The pixels of an opened picture, uint8 (H, W, 3), RGB: those that Pillow gives, as both use libjpeg-turbo.

    None: it is left to Pillow, which reads more, and says of a broken or truncated file what is wrong with it.
    """
    if type(image) is not JpegImageFile or image.mode not in ("L", "RGB") or image.decoderconfig:
        return None  # also what is to be decoded at reduced size
    if turn(image) is not None or not is_srgb(image):
        return None
    assert image.fp is not None  # it is open
    image.fp.seek(0)
    try:
        pixels: NDArray[np.uint8] = simplejpeg.decode_jpeg(image.fp.read(MOST_BYTES), strict=True)
    except ValueError:
        return None
    return pixels
