"""What must not be written into files or logs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

_SECRET = re.compile(
    r"secret|token|passw|credential|signature|(access|account|api|private|sas)[-_]?key|^(x-amz-\w+|sig|sas|auth)$", re.I
)
_IN_URL = re.compile(r"(?<=://)[^/@\s]*:[^/@\s]*(?=@)")
_ASSIGNED = re.compile(r"([\w.-]+)(=)([^&\s,;\"']+)")
_PLACE = re.compile(r"((?:[\w.-]+=)*)((?:[A-Za-z][\w+.-]*://|~|[^:]*/).*|\.\.)", re.DOTALL)
_NAMED_FILES = (".toml", ".py")
_SAYS_WHERE = ("--out", "--address")
_MODELS = ("--model", "--classifier", "--selector", "--denoiser")
_OF_A_MODEL = re.compile(r"(?<=[:=])(?:~|/|\.\./).*?(?=@\w+=|,\w+=|, \w+:| > |$)", re.DOTALL)
"""The path in onnx:FILE, hf:FOLDER or weights=FILE, of which options, or other models, may follow."""
_RELATIVE = re.compile(r"((?:^|=)\w+:|[@,]weights=)([^:/@,=]*/.*?)(?=@\w+=|,\w+=|$)", re.DOTALL)
"""Likewise, in a word of a command line, of a path that leads from the working folder."""
_ON_THE_HUB = re.compile(r"=?(hf|ddpm):[\w-][\w.-]*/[\w.-]+")
"""OWNER/NAME, which a folder may be called like as well."""


def is_secret(name: str) -> bool:
    """Whether a value of that name is likely a credential: AWS_SECRET_ACCESS_KEY, token, --password."""
    return bool(_SECRET.search(name))


def masked(words: Sequence[str]) -> list[str]:
    """A command line in which *** stands for what looks like a credential: user:password@ in a URL, name=value and
    --name value where the name says so."""
    found = []
    hide = False
    for word in words:
        if hide and not word.startswith("-"):
            found.append("***")
        else:
            text = _IN_URL.sub("***", word)
            found.append(_ASSIGNED.sub(lambda match: _assigned(*match.groups()), text))
        hide = word.startswith("-") and "=" not in word and is_secret(word.lstrip("-"))
    return found


def _assigned(name: str, sign: str, value: str) -> str:
    return f"{name}{sign}{'***' if is_secret(name) else value}"


def placeless(words: Sequence[str]) -> list[str]:
    """A command line that says nothing of the machine: in the place of a path and of a URL, and of where the run is and
    who runs it, stands …, with the file's own name where it is a grid, a plugin or a model's."""
    found = []
    for before, word in zip(["", *words], words, strict=False):
        match, (start, sign, _) = _PLACE.fullmatch(word), word.partition("=")
        option = start if sign and start.startswith("--") else before
        if match and not before:
            program = PurePosixPath(word)
            found += ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
        elif option in _SAYS_WHERE:
            found.append(f"{option}=…" if option == start else "…")
        elif option == "--beacon":
            found.append(word)
        elif match:
            path = PurePosixPath(match[2].partition("?")[0])  # a URL's options may name a host
            named = path.suffix in _NAMED_FILES or option in _MODELS
            found.append(f"{match[1]}…" + (f"/{path.name}" if named else ""))
        else:
            found.append(_RELATIVE.sub(_without_folder, model_without_place(word)))
    return found


def _without_folder(match: re.Match[str]) -> str:
    return match[0] if _ON_THE_HUB.fullmatch(match[0]) else f"{match[1]}…/{PurePosixPath(match[2]).name}"


def model_without_place(model: str) -> str:
    """The name of a model, or of several, with … in the place of the folder where a file of it is."""
    return _OF_A_MODEL.sub(lambda match: f"…/{PurePosixPath(match[0]).name}", model)


def without_place(settings: Mapping[str, Any], dataset: str) -> dict[str, Any]:
    """Settings of a trial or a grid, with the name of the data where they say in which folder it is, and without the
    folders of models."""
    told = dict(settings)
    if isinstance(data := told.get("data"), str) and "/" in data:
        told["data"] = dataset
    if isinstance(model := told.get("model"), str):
        told["model"] = model_without_place(model)
    if isinstance(parts := told.get("parts"), list):
        told["parts"] = [without_place(part, dataset) for part in parts]
    return told
