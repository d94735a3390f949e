"""Names that stand for things that others may add: a decorator registers one, installed packages bring more.

METHODS = Registry("method", "bench.methods")
@METHODS.register("gaussian")
"""

from __future__ import annotations

import difflib
import hashlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.util import decode_source
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

Thing = TypeVar("Thing")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
OURS = ("bench", "methods")
"""Packages of this program, whose version is its code's identity."""


class RegistryError(ValueError):
    """A name that stands for nothing, or cannot; the message is one sentence for the user."""


@dataclass(frozen=True)
class _Entry(Generic[Thing]):
    thing: Thing
    module: str
    """That registered it."""
    code: str | None
    """Digest of the text of that module; empty for ours, None where it has none."""


class Registry(Mapping[str, Thing]):
    """What is registered, then what installed packages have under an entry-point group, by name.

    Their entry points are read where a name is not registered or all names are listed, and one is loaded when it is
    asked for. `name in registry` and iteration load nothing.
    """

    def __init__(
        self,
        kind: str,
        group: str,
        *,
        ours: Mapping[str, str] | None = None,
        family: str = r"(?!)",
        fault: Callable[[object], str] = lambda thing: "" if callable(thing) else "must be callable",
    ) -> None:
        """
        Args:
            kind: what the things are, for messages.
            group: of entry points.
            ours: names of this program's own, each with the module that registers it, imported when it is asked for.
            family: pattern of more names of this program's own, which stand for nothing here and are refused.
            fault: what is wrong with a thing, as "must be …"; empty where nothing is.
        """
        self.kind, self.group = kind, group
        self._ours, self._family, self._fault = dict(ours or {}), re.compile(family), fault
        self._entries: dict[str, _Entry[Thing]] = {}
        self._points: dict[str, list[EntryPoint]] | None = None

    def register(self, name: str) -> Callable[[Thing], Thing]:
        """A decorator: the thing is called `name` from now on.

        Raises:
            RegistryError: the name is not one, or stands for something else already, or the thing is of another kind.
        """
        module = str(sys._getframe(1).f_globals.get("__name__"))

        def registered(thing: Thing) -> Thing:
            self._add(name, thing, module)
            return thing

        return registered

    def find(self, name: str) -> Thing:
        """The thing called `name`.

        Raises:
            RegistryError: there is none (with the nearest known name), or the package that has it cannot be loaded.
        """
        return self._entry(name).thing

    def code(self, name: str) -> str:
        """Digest of the source file that registers the thing, 12 hexadecimal digits; empty for this program's own.

        Raises:
            RegistryError: as `find`; or it has no source file, as in a notebook, and so is unknown to other processes.
        """
        if name in self._ours:
            return ""
        code = self._entry(name).code
        if code is None:
            raise RegistryError(
                f"{self.kind} {name!r} is registered by code without a file of its own: put it into a file and give "
                "--plugin with it"
            )
        return code

    def unknown(self, name: str) -> str:
        """A sentence that refuses the name: the nearest known one, or all."""
        near = difflib.get_close_matches(name, list(self), n=1)
        known = f": did you mean {near[0]!r}?" if near else f"; known: {', '.join(self)}"
        return f"unknown {self.kind} {name!r}{known} (one of your own: give --plugin)"

    @property
    def modules(self) -> set[str]:
        """That registered what is loaded."""
        return {entry.module for entry in self._entries.values()}

    def forget(self, module: str) -> None:
        """Of a module that failed to import or is to be imported anew: what it registered."""
        self._entries = {name: entry for name, entry in self._entries.items() if entry.module != module}

    def __getitem__(self, name: str) -> Thing:
        if name not in self:
            raise KeyError(name)
        return self.find(name)

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str) or not NAME.fullmatch(name) or self._family.fullmatch(name):
            return False
        return name in self._entries or name in self._ours or name in self._installed()

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._ours, *self._entries, *sorted(self._installed())]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def _entry(self, name: str) -> _Entry[Thing]:
        if name not in self:
            raise RegistryError(self.unknown(name))
        if name not in self._entries:
            if name in self._ours:
                import_module(self._ours[name])
            else:
                self._load(name)
        return self._entries[name]

    def _add(self, name: str, thing: Thing, module: str) -> None:
        if not NAME.fullmatch(name):
            raise RegistryError(f"{self.kind} {name!r}: a name must be letters, digits, _ and -, at most 64")
        earlier = self._entries.get(name)
        if earlier and earlier.thing is thing:
            return
        owner = earlier.module if earlier else self._ours.get(name, "bench" if self._family.fullmatch(name) else module)
        if earlier or owner != module:
            raise RegistryError(f"{self.kind} {name!r} is registered already, by {owner}")
        if fault := self._fault(thing):
            raise RegistryError(f"{self.kind} {name!r}: {fault}")
        self._entries[name] = _Entry(thing, module, _code_of(module))

    def _installed(self) -> dict[str, list[EntryPoint]]:
        if self._points is None:
            from importlib.metadata import entry_points  # not above: it takes a while, and most commands need none

            self._points = {}
            for point in entry_points(group=self.group):
                if NAME.fullmatch(point.name):
                    self._points.setdefault(point.name, []).append(point)
        return self._points

    def _load(self, name: str) -> None:
        points = self._installed()[name]
        packages = " and ".join(sorted({point.dist.name if point.dist else "?" for point in points}))
        if len({point.value for point in points}) > 1:
            raise RegistryError(f"{self.kind} {name!r}: several installed packages have one: {packages}")
        try:
            self._add(name, points[0].load(), points[0].module)
        except (Exception, SystemExit) as error:  # a package's own code may raise anything
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise RegistryError(
                f"{self.kind} {name!r} of the installed package {packages} cannot be had: {reason}"
            ) from error


def _code_of(module: str) -> str | None:
    if module.split(".")[0] in OURS:
        return ""
    found = sys.modules.get(module)
    get_source = getattr(getattr(found, "__loader__", None), "get_source", None)
    file = getattr(found, "__file__", None)
    source = None
    with suppress(ImportError, OSError):
        if get_source:  # the text that runs; a file of that name may be another by now, or on this machine
            source = get_source(module)
        elif file:
            source = decode_source(Path(file).read_bytes())
    return None if source is None else hashlib.sha256(source.encode()).hexdigest()[:12]
