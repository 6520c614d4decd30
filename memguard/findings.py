"""What is found about growth, as frozen values: verdicts, and what an examination shows."""

from __future__ import annotations

from memguard.values import field, value

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from memguard.kinds import VerdictKind

__all__ = [
    "Census",
    "Chain",
    "LeakReport",
    "Link",
    "Lost",
    "Named",
    "Native",
    "Site",
    "Suspect",
    "Swelling",
    "Trace",
    "TypeGrowth",
    "Verdict",
]


@value
class Verdict:
    """What the trend of memory says about a service.

    ``kind`` is ``"flat"``, ``"filling"`` (grows and bends, or a registered holder fills), ``"leak-like"`` (grows and
    does not bend), ``"step"``, ``"spike"``, ``"periodic"`` or ``"unknown"``; ``confidence`` lies between 0 and 1.
    ``bytes_per_s`` is the growth of what no registered holder accounts for, ``bytes_per_request`` the same per
    completed request (None: none complete). ``since_at`` is the instant at which the growth began, as far as is known,
    ``seconds_to_limit`` how long it takes at this rate (None: no limit, or no growth that lasts). ``seen_s`` is the
    span of time that was looked at. ``words`` says it in one sentence, the answer first.
    """

    kind: VerdictKind
    confidence: float
    bytes_per_s: float
    bytes_per_request: float | None
    since_at: float | None
    seconds_to_limit: float | None
    seen_s: float
    words: str


@value
class Census:
    """How many objects that the collector tracks are alive, by the qualified name of their type.

    ``objects`` were counted; ``complete`` is False when the budget ended first, ``unseen`` says in words what was not
    counted (that, and frozen objects). ``cost_s`` is the time it took, ``hold_s`` the longest single stretch
    that kept other threads out. Text, numbers and bytes are not tracked and not counted.
    """

    at: float
    counts: Mapping[str, int]
    objects: int
    complete: bool
    cost_s: float
    hold_s: float
    unseen: str = ""


@value
class TypeGrowth:
    """One type of which more are alive than before; names as in a census."""

    type: str
    before: int
    after: int

    @property
    def grown(self) -> int:
        """How many more there are."""
        return self.after - self.before


@value
class Link:
    """One step of a chain: ``name`` is how the one before calls it (".jobs", "['a']", "[3]"), ``type`` what it is.

    ``items`` is how many it holds, where it is a container.
    """

    name: str
    type: str
    items: int | None = None


@value
class Chain:
    """How a root holds an object: names of attributes and keys, and types; never contents.

    ``root`` says what it starts at ("app"), ``kind`` what that is: ``"module"``, ``"class"``, ``"function"``,
    ``"lru_cache"``, ``"thread"``, ``"task"``, ``"frame"``, ``"context"``, ``"C"`` (nothing in Python refers to its
    first object), or ``"none"`` when no root was reached, of which ``note`` gives the reason. The last link is the
    object itself.
    """

    kind: str
    root: str
    links: tuple[Link, ...]
    note: str = ""
    cost_s: float = 0.0
    hold_s: float = 0.0

    @property
    def found(self) -> bool:
        """Whether a root was reached."""
        return self.kind != "none"

    @property
    def path(self) -> str:
        """The chain as one would write it in Python, as far as it can be: "app.store.jobs[3]"."""
        text = self.root
        for link in self.links:
            text += link.name if link.name[:1] in {".", "["} else f" {link.name}"
        return text

    def __str__(self) -> str:
        held = self.links[-1].type if self.links else ""
        return f"{self.path} ({held})" + (f"; {self.note}" if self.note else "")


@value
class Site:
    """A place in the code whose allocations stay: ``where`` is "file:line", ``frames`` the calls, innermost first.

    ``bytes`` and ``blocks`` are what was allocated there since tracing began and is alive; ``ages_bytes[k]`` is how
    much of it is older than k + 1 parts of the window; ``p`` is the probability, corrected for the number of sites
    (Holm), of seeing so much survive if most of what is born there died young.
    """

    where: str
    frames: tuple[str, ...]
    bytes: int
    blocks: int
    ages_bytes: tuple[int, ...]
    p: float


@value
class Trace:
    """What a bounded window of tracemalloc saw, or why there was none (``refused``, "" when it ran).

    ``shared`` says that somebody else had it running (it was left running). ``slowdown_ratio`` is how much slower the
    service ran meanwhile (0.2: a fifth), None when nobody could tell; ``peak_bytes`` is what the tracer itself held.
    ``note`` says what was cut short.
    """

    sites: tuple[Site, ...]
    seconds: float
    frames: int
    refused: str = ""
    shared: bool = False
    peak_bytes: int = 0
    slowdown_ratio: float | None = None
    traced_bytes: int = 0
    note: str = ""


@value
class Swelling:
    """A container that held more at each look: ``items`` at the first, the middle and the last one.

    ``holds`` is the type of what was put in last, ``bytes_each`` about how much one item keeps alive alone,
    ``site`` where the last one was made ("" when that was not traced), ``chain`` who holds the container.
    """

    type: str
    items: tuple[int, int, int]
    holds: str
    bytes_each: int
    chain: Chain
    site: str = ""
    bound: str = ""

    @property
    def grown(self) -> int:
        """Items more than at the first look."""
        return self.items[-1] - self.items[0]

    @property
    def grown_bytes(self) -> int:
        """About how many bytes those keep alive."""
        return self.grown * self.bytes_each


@value
class Native:
    """Resident memory that grew, and how much of it Python accounts for; bytes, negative when they fell.

    ``parts`` splits what the process has mapped by kind. ``modules`` are the extension modules that are not Python's
    own. ``words`` says it all.
    """

    rss_bytes: int
    python_bytes: int
    native_bytes: int
    parts: Mapping[str, int]
    modules: tuple[str, ...]
    words: str
    is_native: bool = False


@value
class Lost:
    """Blocks of Python's allocators that came in the second half of a window and that nothing in Python holds.

    ``grown_blocks`` came in all, ``blocks`` of them are held by no object that the collector sees, ``bytes`` is about
    their size. ``words`` says it, with the extension modules that are loaded.
    """

    blocks: int
    bytes: int
    grown_blocks: int
    words: str


@value
class Named:
    """Something that is known to leak, found by its name: a kind, where, how many, how many more than before."""

    kind: str
    name: str
    count: int
    grown: int
    words: str


@value
class Suspect:
    """One answer to the question what grows: ``name`` is the holder, the type, the line or the library.

    ``kind`` is ``"holder"``, ``"type"``, ``"threads"``, ``"tasks"``, ``"cycles"``, ``"site"``, ``"lost"`` (references
    that C code has lost, where the line is not known) or ``"native"``. ``certainty`` is
    ``"sure"`` (it grew in every part of the window, its holder and its size are known), ``"likely"`` or
    ``"possible"``. ``site`` is the line that made what was kept, "" when unknown.
    """

    kind: str
    name: str
    grown: int
    grown_bytes: int
    certainty: str
    words: str
    site: str = ""
    chain: Chain | None = None


@value
class LeakReport:
    """What an examination found: the answer first, then the evidence, what was not checked, and what it cost.

    ``summary`` is the answer in a sentence, ``text`` the whole for a person, ``html`` the whole as one page without
    links to anything. ``seconds`` and ``requests`` (None: nobody counts them) are the window. ``curve`` are readings
    of resident memory (seconds since the beginning, bytes). ``cost_s`` is processor time, ``hold_s`` the longest
    stretch in which no other thread ran. Types, names and sizes; never the contents of an object.
    """

    at: float
    seconds: float
    requests: int | None
    summary: str
    verdict: Verdict | None
    suspects: tuple[Suspect, ...]
    types: tuple[TypeGrowth, ...]
    swellings: tuple[Swelling, ...]
    trace: Trace
    native: Native | None
    named: tuple[Named, ...]
    unchecked: tuple[str, ...]
    curve: tuple[tuple[float, int], ...]
    census: Census
    cost_s: float
    hold_s: float
    lost: Lost | None = None
    text: str = ""
    html: str = field(default="", repr=False)

    @property
    def leaks(self) -> bool:
        """Whether something grows of which one can be sure, or nearly so."""
        return any(suspect.certainty != "possible" for suspect in self.suspects)

    def to_dict(self) -> dict[str, object]:
        """Everything but the two renderings, in plain dicts, lists, numbers and texts."""
        from dataclasses import asdict  # noqa: PLC0415 - a started guard does without it

        found: dict[str, Any] = asdict(self)
        del found["text"], found["html"]
        found["leaks"] = self.leaks
        for suspect, row in zip(self.suspects, found["suspects"], strict=True):
            row["path"] = str(suspect.chain) if suspect.chain is not None else ""
        return found

    def to_json(self, *, indent: int | None = None) -> str:
        """The same as JSON."""
        import json  # noqa: PLC0415 - a started guard does without it

        return json.dumps(self.to_dict(), indent=indent, ensure_ascii=False)

    def __str__(self) -> str:
        return self.text or self.summary
