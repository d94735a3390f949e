"""What the paths of certification logs say of them: σ, method, seed, data and network, as the field names its folders.

    data/certify/cifar10/macer/num_16/lbd_4.0/cifar_resnet20/noise_0.50_6947   macer, σ = .5, seed 6947, resnet20
    data/cifar10c/severity_1/cat_rs/fog.tsv                                    cat_rs-severity_1-fog, σ not said

They are guesses: whoever imports such logs looks at them first.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from results.errors import BenchError
from results.printable import as_utf8
from results.store.logs import UNKNOWN, LogError, check_header, stated
from results.store.settings import ImportedTrial

METHODS = {
    "cohen": "gaussian", "gaussian": "gaussian", "salman": "smoothadv", "smoothadv": "smoothadv", "stab": "stability",
    "stability": "stability", "cat-rs": "cat_rs", "cat_rs": "cat_rs", "catrs": "cat_rs", "macer": "macer",
    "consistency": "consistency", "smoothmix": "smoothmix", "ensemble": "ensemble",
}  # fmt: skip
"""Folders by the method that is meant."""
DATA = {
    "cifar10c": r"cifar[-_]?10[-_]?c(?![a-z])",
    "cifar100": r"cifar[-_]?100(?!\d)",
    "cifar10": r"cifar[-_]?10(?!\d)",
    "tiny_imagenet": r"tiny[-_]?imagenet",
    "imagenet": r"imagenet",
    "fashion_mnist": r"fashion[-_]?mnist",
    "mnist": r"mnist",
    "svhn": r"svhn",
}
USUAL_DATA, USUAL_MODEL = "cifar10", "resnet110"
"""What a log is of where its path does not say; another network where the data are others."""
_MODEL = re.compile(r"(?:cifar_)?((?:resnet|densenet)[-_]?\d+|wrn[-_]?\d+[-_]\d+|vit[a-z0-9-]*)(?![a-z])", re.I)
_SIGMA = re.compile(r"(?<![a-z])(sigma|σ|noise_sd|noise|sd|std)[_=-]?(\d*\.\d+|\d+)(?![\d.])", re.I)
_BARE = re.compile(r"(?<![\w.])(\d?\.\d+)(?![\w.])")
_SEED = re.compile(r"(?<![a-z])seed[_=-]?(\d{1,9})(?!\d)", re.I)
_SAID_NOTHING = re.compile(
    r"data|certif(?:y|ied|ication|icates?)|tests?|logs?|results?|outputs?|runs?|experiments?|best_models|full|skip\d+"
    r"|\d{8}|\d{6}|(?:all_)?results?_df",
    re.I,
)
_MAY_BE_LOG = re.compile(r"(?:\.(?:tsv|csv|txt|log)(?:_\w+)?|\.\d+\w*)", re.I)
"""Endings of files that are looked into; what has no ending is, if its first line has tabs or commas."""
_VERIFIER = re.compile(r"RS_(?P<name>.+)_(?P<sigma>[\d.]+)_(?P<alpha>[\d.e-]+)_(?P<n0>\d+)_(?P<n>\d+)")
_PARTIAL = re.compile(r"(?:misclassified|abstained|result)_df\.csv")
LONGEST_NAME = 64


@dataclass(frozen=True)
class Guess:
    """What a log's path, or its own lines, say of it; what they do not say is None."""

    method: str
    sigma: float | None = None
    seed: int | None = None
    dataset: str | None = None
    model: str | None = None
    n: int | None = None
    n0: int | None = None
    alpha: float | None = None
    variant: tuple[str, ...] = field(default=())
    """The other parts of its path, which tell it from others of the method."""

    @property
    def name(self) -> str:
        """A row of the tables: the method with all parts."""
        name = "-".join(_cleaned(part) for part in (self.method, *self.variant))
        if len(name) > LONGEST_NAME:
            name = f"{name[: LONGEST_NAME - 13]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
        return name


def find_logs(folder: Path) -> list[Path]:
    """The files of a folder, and of those in it, that may be logs by their names; hidden ones are left out.

    Raises:
        BenchError: there are none.
    """
    found = []
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = [Path(place, name) for name in sorted(names) if not name.startswith(".")]
        found += [path for path in paths if path.is_file() and _may_be_log(path)]
    if not found:
        raise BenchError(f"{as_utf8(str(folder))}: holds no file that may be a log (.tsv, .csv, .txt, .log)")
    return found


def _may_be_log(path: Path) -> bool:
    if "." in path.name:
        return bool(_MAY_BE_LOG.fullmatch(path.suffix))
    try:
        with path.open("rb") as file:
            return bool(re.search(rb"[\t,]", file.readline(1000)))
    except OSError:
        return True  # importing it says why it cannot be read


def guessed(logs: Sequence[Path], root: Path) -> list[Guess | BenchError | OSError]:
    """What is guessed of each log, or why it is none, as far as its first lines tell.

    Args:
        root: the folder that was searched; where a path within it says nothing, its own name does.
    """
    found: list[Guess | BenchError | OSError] = []
    above = [part for part in root.resolve().parts[1:] if part]
    for log in logs:
        try:
            header, first = check_header(log)
            _refuse_part(log)
        except (BenchError, OSError) as error:
            found.append(error)
            continue
        own = _of_path(log.relative_to(root), above)
        found.append(_of_verifier(own, header, first))
    return _told_apart(found)


def settings_of(log: Path, guess: Guess | BenchError | OSError, own: Mapping[str, Any]) -> ImportedTrial:
    """What a log is imported as.

    Args:
        own: what is stated of it, as `results.store.logs.stated` takes it; it goes before what is guessed.

    Raises:
        LogError: nobody says σ; or a guess is not allowed.
        BenchError, OSError: the one that stands in place of a guess.
    """
    if not isinstance(guess, Guess):
        raise guess
    said = {key: getattr(guess, key) for key in ("name", "sigma", "seed", "dataset", "model", "n", "n0", "alpha")}
    values = {**{key: value for key, value in said.items() if value is not None}, **own}
    if "sigma" not in values:
        raise LogError(f"{log}: its path does not say σ: give --sigma")
    values.setdefault("dataset", USUAL_DATA)
    values.setdefault("model", USUAL_MODEL if values["dataset"] == USUAL_DATA else UNKNOWN)
    try:
        return stated(**values)
    except LogError as error:
        raise LogError(f"{log}: {error}") from None


def _refuse_part(log: Path) -> None:
    """Raise LogError where a log holds those images alone that had one outcome, beside the log of all."""
    whole = log.with_name("all_results_df.csv")
    if _PARTIAL.fullmatch(log.name) and whole.is_file():
        raise LogError(f"{log}: holds only the images of one outcome; all of them are in {whole.name} beside it")


def _of_path(path: PurePath, above: Sequence[str]) -> Guess:
    last = re.sub(r"\.(?:tsv|csv|txt|log)$", "", path.name, flags=re.I)
    parts = [as_utf8(part) for part in (*path.parts[:-1], last)]
    sigma, trained = _sigma_of(parts)
    if sigma is None and not any(_SIGMA.search(part) for part in parts):
        sigma, trained = _sigma_of(above)
    kept, seed = _kept_parts(parts, sigma)
    if not kept:  # a folder that says what all of it is of
        kept = next((own for part in reversed(above) if (own := _kept_parts([part], sigma)[0])), ["log"])
    method, variant = _method_of(kept)
    if trained is not None and trained != sigma:
        variant.append(f"trained_at_{trained:g}")
    everywhere = [*above, *parts]
    return Guess(method, sigma, seed, _data_of(everywhere), _model_of(everywhere), variant=tuple(variant))


def _sigma_of(parts: Sequence[str]) -> tuple[float | None, float | None]:
    """That of the certification, and that of the training where a path has both: noise_0.25/test/sigma_0.50. None where
    it does not say either, or not in which units."""
    named = [(match[1].lower(), _number(match[2])) for part in parts for match in _SIGMA.finditer(part)]
    certified = [value for name, value in named if name in ("sigma", "σ")]
    other = [value for name, value in named if name not in ("sigma", "σ")]
    if named:
        return (certified or other)[-1], other[-1] if certified and other else None
    bare = [float(text) for text in _BARE.findall(parts[-1].replace("_", " "))] if parts else []
    return (bare[0] if bare else None), None


def _number(text: str) -> float | None:
    """σ as folders are called, without its point or with it: 0.25 or 025, 1 or 100. Another whole number, such as 25 or
    128, may be of hundredths or of 255 levels."""
    if re.fullmatch(r"0\d+|[1-9]00", text):
        return float(f"{text[0]}.{text[1:]}")
    return float(text) if "." in text or len(text) == 1 else None


def _data_of(parts: Sequence[str]) -> str | None:
    for part in reversed(parts):
        for name, pattern in DATA.items():
            if re.search(pattern, part, re.I):
                return name
    return None


def _model_of(parts: Sequence[str]) -> str | None:
    return next((match[1].lower() for part in reversed(parts) for match in [_MODEL.search(part)] if match), None)


def _kept_parts(parts: Sequence[str], sigma: float | None) -> tuple[list[str], int | None]:
    """What is left of a path without σ, data, network, seed and words that every path has; and the seed."""
    kept: list[str] = []
    seed = None
    for place, part in enumerate(parts):
        if found := _SEED.search(part):
            seed = int(found[1])
        of_sigma = bool(_SIGMA.search(part))
        text = _SIGMA.sub("", _SEED.sub("", _MODEL.sub("", part)))
        for pattern in DATA.values():
            text = re.sub(pattern, "", text, flags=re.I)
        tokens = [] if _SAID_NOTHING.fullmatch(text) else [token for token in text.split("_") if token]
        if of_sigma and tokens and tokens[0].isdigit():  # noise_0.50_6947
            seed = int(tokens.pop(0)[:9])
        told: set[str] = set()
        if sigma is not None and place == len(parts) - 1:  # gaussian_0.25.csv, cifar10_gaussian_025_certification
            told = {f"{sigma:g}", f"{sigma:.2f}", f"{100 * sigma:03.0f}"}
        tokens = [token for token in tokens if token not in told and not _SAID_NOTHING.fullmatch(token)]
        text = "_".join(tokens).strip("_-. ")
        if _cleaned(text) and text not in kept:
            kept.append(text)
    return kept, seed


def _method_of(parts: Sequence[str]) -> tuple[str, list[str]]:
    """The method, and the other parts: the first that is called as a method is, or has such a word in it; else the
    first."""
    for words in (lambda part: [part], lambda part: part.split("_")):
        for place, part in enumerate(parts):
            for word in words(part):
                name = METHODS.get(re.sub(r"(?:19|20)\d\d$", "", word.lower()))
                if name is not None:
                    rest = "_".join(other for other in words(part) if other != word)
                    others = [*[rest] * bool(rest), *parts[:place], *parts[place + 1 :]]
                    return name, [own for own in others if METHODS.get(own.lower()) != name]
    return parts[0], list(parts[1:])


def _of_verifier(guess: Guess, header: Sequence[str], first: Sequence[str]) -> Guess:
    """With what henba1's results say in their column verifier: RS_CLASSIFIER_DENOISER_σ_alpha_n0_n."""
    if "verifier" not in header or len(first) != len(header):
        return guess
    match = _VERIFIER.fullmatch(first[list(header).index("verifier")])
    if match is None:
        return guess
    try:
        sigma, alpha = float(match["sigma"]), float(match["alpha"])
    except ValueError:
        return guess
    own: dict[str, Any] = {"n": int(match["n"][:18]), "n0": int(match["n0"][:18]), "sigma": sigma, "alpha": alpha}
    return replace(guess, method=match["name"], variant=(), model=_model_of([match["name"]]) or guess.model, **own)


def _told_apart(found: list[Guess | BenchError | OSError]) -> list[Guess | BenchError | OSError]:
    """The guesses with no more parts than tell logs of one method apart; no two of one name, σ and seed."""
    guesses = {place: guess for place, guess in enumerate(found) if isinstance(guess, Guess)}
    for method in {guess.method for guess in guesses.values()}:
        own = {place: guess for place, guess in guesses.items() if guess.method == method}
        common = set.intersection(*(set(guess.variant) for guess in own.values()))
        for place, guess in own.items():
            guesses[place] = replace(guess, variant=tuple(part for part in guess.variant if part not in common))
    for key, usual in (("dataset", USUAL_DATA), ("model", USUAL_MODEL)):
        values: dict[str, set[str]] = {}
        for guess in guesses.values():
            values.setdefault(guess.name, set()).add(getattr(guess, key) or usual)
        for place, guess in guesses.items():
            value = getattr(guess, key) or usual
            if len(values[guess.name]) > 1 and value != usual:
                guesses[place] = replace(guess, variant=(*guess.variant, value))
    taken: dict[tuple[str, float | None, int | None], int] = {}
    for place, guess in guesses.items():
        key_of = (guess.name, guess.sigma, guess.seed)
        taken[key_of] = taken.get(key_of, 0) + 1
        if taken[key_of] > 1:
            guesses[place] = replace(guess, variant=(*guess.variant, str(taken[key_of])))
    return [guesses.get(place, other) for place, other in enumerate(found)]


def _cleaned(text: str) -> str:
    """In the characters of a row's name."""
    return re.sub(r"[^A-Za-z0-9_-]+", "_", text).strip("_-")
