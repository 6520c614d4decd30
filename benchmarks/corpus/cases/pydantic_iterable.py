"""The iterator of a lazily validated field does not show what it holds to the collector: a cycle through it stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

LIBRARY, LEAKS, FIXED = "pydantic", "2.7.0", "2.7.1"
KIND, BYTES = "cycle", 1130
RIGHT = ("Source", "# RIGHT")


def service() -> Callable[[], object]:
    """Batches whose rows come from the request that keeps the batch."""
    from collections.abc import Iterable, Iterator  # noqa: PLC0415

    from pydantic import BaseModel  # noqa: PLC0415

    class Batch(BaseModel):
        rows: Iterable[int]

    Batch.model_rebuild(_types_namespace={"Iterable": Iterable})

    class Source:
        def __init__(self) -> None:
            self.rows = [1, 2, 3]
            self.batch = Batch(rows=self)  # RIGHT

        def __iter__(self) -> Iterator[int]:
            return iter(self.rows)

    def request() -> object:
        return Source().batch  # RIGHT

    return request
