"""Where Python finds the code that moat runs on the host: never first in a folder that a run can write to.

Python looks for a module in the folder of the script that was started, in ``PYTHONPATH``, and only then where things
are installed (sys.path; docs.python.org/3/library/sys_path_init.html). For a script that gives its own folder to a run
as the workspace, all of these may be the agent's to fill: a ``sqlite3.py`` left there would be imported by whoever
undoes the run, on the host. So our other processes look only where moat, what it needs and its plugins came from; and
this one looks in such folders last, as long as it lives. Stdlib only: every process of ours begins here.
"""

from __future__ import annotations

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

__all__ = ["look_there_last", "need", "own_code", "process_argv"]

# -I and -S: neither the current folder, PYTHON* variables, nor anybody's .pth files and sitecustomize. What is added is
# looked at after the standard library. The module's name stands in the argv for whoever looks at a list of processes.
_START = """\
import sys
module, path, *rest = sys.argv[1:]
sys.path += [each for each in path.split("\\n") if each and each not in sys.path]
sys.argv = [module, *rest]
import runpy
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
_NEEDED = {"moat_core", "moat_plugins", "anyio", "attr", "pluggy", "yaml"}
_PYTHON = os.path.realpath(sys.executable)
"""Without the links of a virtual environment, which an agent may have changed by the time that it is started."""


def need(module: str) -> None:
    """Remember that our other processes have to find MODULE, a plugin's, too."""
    _NEEDED.add(module.partition(".")[0])


def process_argv(module: str, *arguments: str) -> list[str]:
    """Return the command line of a Python of ours that runs MODULE with ARGUMENTS."""
    return [_PYTHON, "-I", "-S", "-c", _START, module, "\n".join(_needed_path()), *arguments]


def _needed_path() -> list[str]:
    """Return the folders of `sys.path` where things are installed, or from which something that is needed came."""
    site = sys.modules.get("site")
    if site is None and sys.flags.isolated:  # we were started as above, with nothing but what is needed
        return list(sys.path)
    installed: list[str] = [] if site is None else [*site.getsitepackages(), site.getusersitepackages()]
    came = {_entry_of(sys.modules[name]) for name in _NEEDED if name in sys.modules}
    path = (each for each in sys.path if each in installed or (each and os.path.abspath(each) in came))
    return [os.path.realpath(each) for each in path]


def _entry_of(module: ModuleType) -> str:
    """Return the folder on `sys.path` that MODULE, of the top level, was found in; ``""`` if it is of no file."""
    places = getattr(module, "__path__", None)
    place = next(iter(places), "") if places is not None else getattr(module, "__file__", None) or ""
    return os.path.dirname(os.path.abspath(place)) if place else ""


def own_code() -> list[str]:
    """Return the files and folders of which this machine runs code for moat: Python's own, packages, moat itself."""
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix}
    places = {os.path.realpath(each) for each in prefixes}
    for name in sorted(_NEEDED & sys.modules.keys()):
        module = sys.modules[name]
        paths = getattr(module, "__path__", None) or [getattr(module, "__file__", None) or ""]
        places |= {os.path.realpath(each) for each in paths if each}
    return sorted(each for each in places if not any(_is_in(each, other) for other in places - {each}))


def _is_in(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


class _Last(MetaPathFinder):
    """Finds modules of the top level everywhere else before Python's own finder looks in FOLDERS, too."""

    def __init__(self) -> None:
        self.folders: set[str] = set()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`."""
        if path is not None:
            return None  # within a package, whose own folder decides
        elsewhere = [each for each in sys.path if not self._is_last(each)]
        return PathFinder.find_spec(fullname, elsewhere, target)

    def _is_last(self, entry: str) -> bool:
        real = os.path.realpath(entry or os.getcwd())
        return any(_is_in(real, folder) for folder in self.folders)


_LAST = _Last()


def look_there_last(folders: Iterable[str]) -> None:
    """Have this process look in FOLDERS (real paths), and in what lies in them, when a module is nowhere else.

    Modules of one's own in a workspace are found as before; what is installed is not found there any more.
    """
    found = {each for each in folders if any(_is_in(os.path.realpath(entry), each) for entry in sys.path)}
    if not found:
        return
    _LAST.folders |= found
    if _LAST not in sys.meta_path:
        own = next((number for number, each in enumerate(sys.meta_path) if each is PathFinder), len(sys.meta_path))
        sys.meta_path.insert(own, _LAST)
