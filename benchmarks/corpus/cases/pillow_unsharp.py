"""Sharpening an image of a mode that cannot be sharpened keeps the picture made for the result, in C."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "Pillow", "11.2.1", "11.3.0"
KIND, BYTES = "native", 4_600
RIGHT = ("native memory",)


def service() -> Callable[[], object]:
    """Uploads of any mode, sharpened."""
    from contextlib import suppress  # noqa: PLC0415

    from PIL import Image, ImageFilter  # noqa: PLC0415

    image, sharpen = Image.new("I", (64, 64)), ImageFilter.UnsharpMask()

    def request() -> object:
        with suppress(ValueError):
            image.filter(sharpen)
        return None

    return request
