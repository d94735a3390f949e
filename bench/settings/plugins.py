"""Plugins: files or modules of a user's own, named on the command line, whose decorators register what they define.

No grid and no run names one: what is imported is what the user gave or installed.
"""

from __future__ import annotations

import hashlib
import logging
import re
import sys
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from importlib.abc import ExecutionLoader
from importlib.util import decode_source, module_from_spec, spec_from_loader
from pathlib import Path

from bench.settings.registries import DATASETS, NETWORKS
from methods import METHODS
from methods.registry import OURS
from results.errors import BenchError
from results.store.folder import refuse_devices

logger = logging.getLogger("bench")
REGISTRIES = (METHODS, NETWORKS, DATASETS)


class PluginError(BenchError):
    """A plugin that cannot be had; the message is one sentence for the user, its cause the plugin's own error."""


@dataclass(frozen=True)
class Plugin:
    """A file with its text, so that other machines get it; or a module by its name, which they must have."""

    name: str
    """The absolute path of the file, or the module."""
    source: str | None = None
    """The text of the file."""

    @property
    def module(self) -> str:
        """Its name among the modules of a process; another text is another module."""
        if self.source is None:
            return self.name
        return f"{self._stem}{hashlib.sha256(self.source.encode()).hexdigest()[:12]}"

    @property
    def _stem(self) -> str:
        return f"bench_plugin_{re.sub(r'[^A-Za-z0-9_]', '_', Path(self.name).stem)}_"

    def load(self) -> None:
        """Import it, once in a process. Another text of the same file, as after an edit in a notebook, takes its place.

        Raises:
            PluginError: its own code fails; says where.
        """
        if self.module in sys.modules:
            return
        for name, module in list(sys.modules.items()):
            if name.startswith(self._stem) and getattr(module, "__file__", None) == self.name:
                self._forget(name)
        try:
            if self.source is None:
                _look_here_too()
                import_module(self.name)
            else:
                _import_text(self.module, self.name, self.source)
        except (Exception, SystemExit) as error:  # a user's own code may raise anything
            self._forget(self.module)
            raise PluginError(f"--plugin {self.name}: {_told(error, self)}") from error

    def _forget(self, module: str) -> None:
        sys.modules.pop(module, None)
        for registry in REGISTRIES:
            registry.forget(module)


def load_plugins(given: Iterable[str]) -> list[Plugin]:
    """Import plugins, as a user names them: the path of a file that ends in .py, or a module that Python finds from the
    current folder or installed.

    Raises:
        PluginError: there is none, or its own code fails.
    """
    plugins = [_read(text) for text in given]
    for plugin in plugins:
        known, before = plugin.module in sys.modules, _registering()
        plugin.load()
        if not known and _registering() <= before:
            logger.warning("--plugin %s: registers no method, network or data set", plugin.name)
    return plugins


def _registering() -> set[str]:
    modules = {module for registry in REGISTRIES for module in registry.modules}
    return {module for module in modules if module.partition(".")[0] not in OURS}


def is_file(text: str) -> bool:
    """Whether the user means a file, not a module."""
    return text.endswith(".py") or "/" in text


def _read(text: str) -> Plugin:
    if not is_file(text):
        if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*", text):
            raise PluginError(f"--plugin {text}: must be a file that ends in .py, or the name of a module")
        return Plugin(text)
    path = Path(text).expanduser().absolute()
    try:
        refuse_devices(path)
        return Plugin(str(path), decode_source(path.read_bytes()))
    except OSError as error:
        raise PluginError(f"--plugin {text}: cannot be read: {(error.strerror or str(error)).lower()}") from None
    except (ValueError, SyntaxError, LookupError) as error:
        raise PluginError(f"--plugin {text}: is no text of Python: {error}") from None


class _Text(ExecutionLoader):
    """Imports a module whose text is here, wherever its file is."""

    def __init__(self, path: str, source: str) -> None:
        self.path, self.source = path, source

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002
        return self.path

    def get_source(self, fullname: str) -> str:  # noqa: ARG002
        return self.source


def _import_text(name: str, path: str, source: str) -> None:
    loader = _Text(path, source)
    spec = spec_from_loader(name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # as an import does, before it runs
    loader.exec_module(module)


def _look_here_too() -> None:
    """Python's own command for scripts looks into the current folder, and ours does not."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))


def _is_beside(module: str, plugin: Plugin) -> bool:
    return plugin.source is not None and Path(plugin.name).with_name(f"{module.partition('.')[0]}.py").is_file()


def _told(error: BaseException, plugin: Plugin) -> str:
    """Where an import failed, and why: the line that runs while a module is imported, in the innermost one."""
    if isinstance(error, ModuleNotFoundError) and f"{plugin.name}.".startswith(f"{error.name}."):
        return "there is no such module in the current folder or installed; the name of a file ends in .py"
    reason = f"{type(error).__name__}: {' '.join(str(error).split())}".removesuffix(": ")
    if isinstance(error, SyntaxError):
        place, line, reason = str(error.filename), error.lineno, f"{type(error).__name__}: {error.msg}"
    else:
        if isinstance(error, ModuleNotFoundError) and _is_beside(str(error.name), plugin):
            reason += ": files beside a plugin are not found: of several files make a package, and name it"
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.name == "<module>"]
        if not frames:
            return reason
        place, line = frames[-1].filename, frames[-1].lineno
    return f"line {line}: {reason}" if place == plugin.name else f"{place}:{line}: {reason}"
