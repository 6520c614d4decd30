"""Fusing: the part of a guard that has to do with a fuse, and with the MemoryErrors that it makes."""

from __future__ import annotations

from memguard.errors import AdmissionRefused
from memguard.fuse.letting_go import release
from memguard.units import format_seconds

TYPE_CHECKING = False
if TYPE_CHECKING:
    from memguard.fuse.rolling import Fuse
    from memguard.model import Snapshot
    from memguard.ports import Clock
    from memguard.rules import Rules
    from memguard.sight import Sight
    from memguard.telling import Teller
    from memguard.threads import Bell

__all__ = ["Fusing"]

# As in holding: a guard without a fuse does not pay for one in memory.


class Fusing:
    """Makes the fuse that the rules ask for, and answers for work that met a MemoryError."""

    rules: Rules
    _bell: Bell
    _clock: Clock
    _fuse: Fuse | None
    _sight: Sight
    _teller: Teller

    if TYPE_CHECKING:

        @property
        def snapshot(self) -> Snapshot:
            """As the guard has it."""
            ...

    def _fused(self, *, own_probe: bool) -> Fuse | None:
        """The fuse that the rules ask for; none for somebody's own probe, which need not measure this process."""
        if not self.rules.fuse or self.rules.mode == "observe" or own_probe:
            return None
        from memguard.fuse.rolling import Fuse  # noqa: PLC0415

        force = self.rules.fuse == "force"
        return Fuse(room=self._sight.room_bytes, tell=self._teller.tell, clock=self._clock, force=force)

    def memory_error(self, error: BaseException | None = None) -> AdmissionRefused:
        """What to answer when work met a MemoryError, with or without a fuse: 503, like a refusal at the gate.

        Lets go of what the frames of the failed work hold, and has the guard collect and trim before long. From any
        thread; for hosts, which give the error that they caught.
        """
        if self._fuse is not None and self._fuse.armed:
            self._fuse.note(error)
            self._bell.ring()
        elif error is not None:
            release(error)
        retry_s = self.rules.dwell_s
        reason = f"the work needed more memory than is left; retry in about {format_seconds(retry_s)}"
        return AdmissionRefused(reason, retry_after_s=retry_s, level=self.snapshot.level.name)
