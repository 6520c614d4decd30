"""A coordinate that is no int or float is converted, and the result is never let go, in C."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "Pillow", "12.1.1", "12.2.0"
KIND, BYTES = "refcount", 64
RIGHT = ("# RIGHT", "PIL/Image.py")


def service() -> Callable[[], object]:
    """Pixels looked up by decimal coordinates."""
    from decimal import Decimal  # noqa: PLC0415

    from PIL import Image  # noqa: PLC0415

    image = Image.new("RGB", (2000, 2000))
    where = (Decimal(1500), Decimal(1999))

    def request() -> object:
        return image.getpixel(where)  # RIGHT

    return request
