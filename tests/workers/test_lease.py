"""The lease: one at a time, until it is given back or its holder dies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memguard.workers.lease import Lease

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # forks beside other tests' threads


def _in_child(work: Callable[[], bool]) -> int:
    """The exit status of a forked child that does this."""
    pid = os.fork()
    if not pid:
        status = 99
        try:
            status = int(work())
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(name="lease")
def _lease(tmp_path: Path) -> Lease:
    return Lease(tmp_path / "recycle")


def test_one_has_it(lease: Lease) -> None:
    """While one has it nobody else gets it; afterwards anybody."""
    assert lease.take(10.0)
    assert lease.take(11.0), "taking it again holds it for longer"
    assert lease.holder(11.0) == os.getpid()
    assert _in_child(lambda: lease.take(12.0)) == 0
    lease.release()
    assert lease.holder(12.0) is None
    assert _in_child(lambda: lease.take(12.0)) == 1


def test_it_dies_with_its_holder(lease: Lease) -> None:
    """A holder that ended without giving it back has it no longer."""
    assert _in_child(lambda: lease.take(10.0)) == 1
    assert lease.holder(10.0) is None
    assert lease.take(10.0)


def test_it_can_be_taken_from_one_who_hangs(tmp_path: Path) -> None:
    """A holder that lives on and on has it for the longest time only."""
    lease = Lease(tmp_path / "recycle", longest_s=60.0)
    assert lease.take(10.0)
    assert _in_child(lambda: lease.take(69.0)) == 0
    assert _in_child(lambda: lease.take(71.0)) == 1


def test_nobody_gives_back_what_another_has(lease: Lease) -> None:
    """A release by one who has not got it changes nothing."""
    assert lease.take(10.0)

    def other() -> bool:
        lease.release()
        return True

    assert _in_child(other) == 1
    assert lease.holder(10.0) == os.getpid()


@pytest.mark.parametrize("kept", range(28))
def test_half_a_record_binds_nobody(lease: Lease, kept: int) -> None:
    """A holder that was killed while it wrote has not got it."""
    assert _in_child(lambda: lease.take(10.0)) == 1
    os.truncate(lease.path, kept)
    assert lease.take(10.0)


def test_one_record_over_another_binds_nobody(lease: Lease) -> None:
    """A record that was half overwritten is none."""
    assert lease.take(10.0)
    with Path(lease.path).open("r+b") as file:
        file.write(b"\x01\x02\x03")
    assert lease.holder(10.0) is None
    assert _in_child(lambda: lease.take(10.0)) == 1


@pytest.mark.parametrize("name", ["", "..", "-x", "a b"])
def test_it_needs_a_name(name: str) -> None:
    """What is neither a group nor a path is refused."""
    with pytest.raises(ValueError, match="letters, digits"):
        Lease(name)
