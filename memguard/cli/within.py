"""Within a program that does not know us: a guard is started, then the program runs as Python itself would run it.

Run as ``python -m memguard.cli.within FILE …``, ``… -m MODULE …`` or ``… -c CODE …``: by ``memguard run -- COMMAND``.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import os
import runpy
import sys
from importlib.machinery import SourceFileLoader
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec

    from memguard.guard import Guard

__all__ = ["main", "spawned"]

_SPAWN: Final = "multiprocessing.spawn"
_guards: Final[list[Guard]] = []


def main(words: Sequence[str]) -> None:
    """Start a guard, and run the program as ``__main__`` to its end."""
    program, arguments = words[0], list(words[1:])
    _start()
    safe = sys.flags.safe_path  # then Python puts no folder first
    if program == "-c":
        sys.argv[:] = ["-c", *arguments[1:]]
        if not safe:
            sys.path[0] = ""
        _run(arguments[0], "<string>")
    elif program == "-m":
        sys.argv[:] = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = [program, *arguments]
        _run_file(program, safe=safe)


def _run_file(program: str, *, safe: bool) -> None:
    path = os.path.abspath(program)  # noqa: PTH100 - text, as Python's own, here and below
    code = None
    if not os.path.isdir(path):  # noqa: PTH112
        try:
            with io.open_code(path) as file:
                code = file.read()
        except OSError as error:
            print(f"{sys.executable}: can't open file {path!r}: {error.strerror}", file=sys.stderr)
            sys.exit(2)
    if code is None or not _is_text(code):
        if not safe:
            sys.path[0] = path
        runpy.run_path(path, run_name="__main__")  # a folder, an archive, a compiled file
        return
    if not safe:
        sys.path[0] = os.path.dirname(os.path.realpath(path))  # noqa: PTH120
    _run(code, path)


def _is_text(code: bytes) -> bool:
    return b"\0" not in code[:4096]


def _run(code: str | bytes, path: str) -> None:
    """Run it as ``__main__``, under a name of which nothing of ours is left."""
    module = ModuleType("__main__")
    known: dict[str, Any] = vars(module)
    known |= {"__builtins__": builtins, "__annotations__": {}}
    if isinstance(code, bytes):
        known |= {"__file__": path, "__cached__": None, "__loader__": SourceFileLoader("__main__", path)}
    sys.modules["__main__"] = module
    exec(compile(code, path, "exec"), known)  # noqa: S102 - the program that was asked for


def spawned() -> None:
    """In a child that multiprocessing started anew: it is guarded, too."""
    _start()


def _start() -> None:
    """Start a guard that makes way for one of the program's own; the program runs, whatever becomes of that."""
    import logging  # noqa: PLC0415 - where the guard says what it does; the program decides whether that is shown

    logging.getLogger("memguard").addHandler(logging.NullHandler())
    try:
        from memguard.guard import Guard  # noqa: PLC0415 - whatever it meets is told

        guard = Guard()
        guard.gives_way = True
        _guards.append(guard)
        guard.start()
    except Exception as error:  # noqa: BLE001 - as above
        print(f"memguard run: no guard inside: {type(error).__name__}: {error}", file=sys.stderr)
        return
    if _SPAWN in sys.modules:
        _follow(sys.modules[_SPAWN])
    else:
        sys.meta_path.insert(0, _Finder())


class _Finder:
    """Waits for ``multiprocessing.spawn`` to be imported: most programs never do."""

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if name != _SPAWN:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            load = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                _follow(module)

            loader.exec_module = exec_module
        return spec


def _follow(spawn: Any) -> None:  # noqa: ANN401 - a module
    """Have children that are started anew begin as we did."""
    plain = spawn.get_command_line

    def get_command_line(**known: object) -> list[str]:
        words: list[str] = plain(**known)
        if "-c" in words:  # not in a frozen program
            at = words.index("-c") + 1
            words[at] = f"from memguard.cli.within import spawned; spawned(); {words[at]}"
        return words

    spawn.get_command_line = get_command_line


if __name__ == "__main__":
    main(sys.argv[1:])
