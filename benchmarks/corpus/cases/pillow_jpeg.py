"""A JPEG that is refused while it is written keeps libjpeg's state, in C."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "Pillow", "11.2.1", "11.3.0"
KIND, BYTES = "native", 2450
RIGHT = ("native memory",)


def service() -> Callable[[], object]:
    """Thumbnails written with options that do not go together."""
    import io  # noqa: PLC0415
    from contextlib import suppress  # noqa: PLC0415

    from PIL import Image  # noqa: PLC0415

    image = Image.new("RGB", (64, 64))

    def request() -> object:
        with suppress(OSError):
            image.save(io.BytesIO(), "JPEG", keep_rgb=True, subsampling="4:2:0")
        return None

    return request
