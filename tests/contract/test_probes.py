"""What every probe promises, whoever wrote it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from memguard.ports import Probe
from memguard.probes.cgroup import CgroupProbe
from memguard.probes.children import ChildrenProbe
from memguard.probes.portable import PortableProbe
from memguard.probes.procfs import HostProbe, MappedProbe, TreeProbe

if TYPE_CHECKING:
    from collections.abc import Iterator

on_linux = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="there is no /proc here")


class ProbePromises:
    """The promises of ``ports.Probe``; a subclass says in ``make`` how to open one."""

    def make(self, folder: Path) -> Probe:
        raise NotImplementedError

    @pytest.fixture
    def probe(self, tmp_path: Path) -> Iterator[Probe]:
        probe = self.make(tmp_path)
        yield probe
        probe.close()

    def test_it_has_the_shape(self, probe: Probe) -> None:
        """It is a Probe by shape."""
        assert isinstance(probe, Probe)

    def test_it_reads_bytes(self, probe: Probe) -> None:
        """Each reading is a whole number of bytes, 0 or more, never a truth value or a float."""
        for _ in range(3):
            used = probe.read()
            assert type(used) is int
            assert used >= 0

    def test_it_names_its_measure(self, probe: Probe) -> None:
        """The source is words, the same after reading as before."""
        words = probe.source
        assert isinstance(words, str)
        assert words.strip()
        probe.read()
        assert probe.source == words

    def test_it_does_not_guess_once_closed(self, probe: Probe) -> None:
        """After close, a reading raises OSError or ValueError instead of telling an old number."""
        probe.read()
        probe.close()
        with pytest.raises((OSError, ValueError)):
            probe.read()

    def test_close_may_be_called_twice(self, probe: Probe) -> None:
        """Closing again does nothing, and takes nobody else's descriptor away."""
        probe.close()
        other = os.open(os.devnull, os.O_RDONLY)
        probe.close()
        os.close(other)


@on_linux
class TestTree(ProbePromises):
    def make(self, folder: Path) -> Probe:
        return TreeProbe()


@on_linux
class TestAddressSpace(ProbePromises):
    def make(self, folder: Path) -> Probe:
        return MappedProbe("address-space")


@on_linux
class TestPrivateMappings(ProbePromises):
    def make(self, folder: Path) -> Probe:
        return MappedProbe("data")


@on_linux
class TestHost(ProbePromises):
    def make(self, folder: Path) -> Probe:
        return HostProbe()


@on_linux
class TestChildren(ProbePromises):
    def make(self, folder: Path) -> Probe:
        return ChildrenProbe()


class TestCgroupV1(ProbePromises):
    def make(self, folder: Path) -> Probe:
        (folder / "memory.usage_in_bytes").write_text("1000\n")
        (folder / "memory.stat").write_text("total_inactive_file 100\ntotal_active_file 200\n")
        return CgroupProbe("/", version=1, root=str(folder))


class TestCgroupV2(ProbePromises):
    def make(self, folder: Path) -> Probe:
        (folder / "memory.current").write_text("1000\n")
        (folder / "memory.stat").write_text("inactive_file 100\nactive_file 200\n")
        return CgroupProbe("/", version=2, exact_above_bytes=2000, root=str(folder))


class TestPortableTree(ProbePromises):
    def make(self, folder: Path) -> Probe:
        return PortableProbe("tree")


class TestPortableAddressSpace(ProbePromises):
    def make(self, folder: Path) -> Probe:
        return PortableProbe("address-space")


class TestPortableHost(ProbePromises):
    def make(self, folder: Path) -> Probe:
        return PortableProbe("host")
