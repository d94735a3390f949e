"""What Python puts into the page as JSON: the keys that the scripts beside this file read."""

from __future__ import annotations

from typing import NotRequired, TypedDict

Entry = tuple[str, str]
"""A name and its value."""


class Cell(TypedDict):
    """A number of a table; without one, only `value`, `text` and `published` are there."""

    value: float | None
    """To sort by."""
    text: str
    published: str
    best: NotRequired[bool]
    spread: NotRequired[str]
    seeds: NotRequired[list[str]]
    interval: NotRequired[str]
    sigma: NotRequired[str]


class ColumnContent(TypedDict):
    """A column's heading; `ascending`: whether the best number is the smallest."""

    heading: str
    unit: str
    ascending: bool


class RowContent(TypedDict):
    """One method at one σ."""

    sigma: float
    sigmas: str
    """What stands in the column of σ."""
    title: str
    cells: list[Cell]


class TableContent(TypedDict):
    """A table, with its numbers as text."""

    name: str
    title: str
    columns: list[ColumnContent]
    rows: list[RowContent]
    caption: list[str]
    notes: list[str]


class Best(TypedDict):
    """The row with the largest ACR at a σ."""

    sigma: str
    title: str
    acr: str
    interval: str
    aside: str
    """How many rows there are of another setting; empty where all compare."""


class Summary(TypedDict):
    """What stands at the top."""

    title: str
    verdict: list[str]
    facts: list[Entry]
    best: list[Best]
    caption: list[str]


class MethodLook(TypedDict):
    """How a method is drawn: a colour of CSS, and dashes of SVG for a line two pixels wide."""

    method: str
    title: str
    colour: str
    dash: str


class Line(TypedDict):
    """The values of a method at equal steps of x, null where there is none; `points` are published ones, as (x, y), and
    `apart` is why they are of another setting; `lower` and `upper` are the ends of the values' bands, `lowest` and
    `highest` those of several seeds."""

    method: str
    values: list[float | None]
    points: NotRequired[list[tuple[float, float]]]
    apart: NotRequired[list[str]]
    lower: NotRequired[list[float | None]]
    upper: NotRequired[list[float | None]]
    lowest: NotRequired[list[float | None]]
    highest: NotRequired[list[float | None]]


class Panel(TypedDict):
    """The lines of one σ, or of the best of several; x goes from `start` in steps of `step`."""

    title: str
    start: float
    step: float
    lines: list[Line]


class CostPoint(TypedDict):
    """A method: `x` hours of all workers, `y` ACR."""

    method: str
    x: float
    y: float


class CostPanel(TypedDict):
    """The points of one σ."""

    title: str
    points: list[CostPoint]


class TrainingCharts(TypedDict):
    """Panels of what is known after each epoch."""

    accuracy: list[Panel]
    loss: list[Panel]


class Charts(TrainingCharts):
    """Panels by chart."""

    certified: list[Panel]
    envelope: list[Panel]
    p_a: list[Panel]
    cost: list[CostPanel]


class PictureContent(TypedDict):
    """A figure that the page shows as it is; its bytes are in a block of its own, called by its place: picture-0, …"""

    title: str
    words: str


class Packed(TypedDict):
    """Where an array is in the block of all: the type of its numbers, its first byte, and how many they are."""

    type: str
    offset: int
    length: int


class TrialImages(TypedDict):
    """The certificates of a trial, one number per image of its data set; `counts`: (images × num_classes) or null."""

    title: str
    trial: str
    sigma: float
    status: Packed
    predicted: Packed
    selected: Packed
    radius: Packed
    p_lower: Packed
    n: Packed
    counts: Packed | None
    num_classes: int


class DatasetImages(TypedDict):
    """The images of a data set, rising by index, and who certified them."""

    name: str
    classes: list[str]
    index: Packed
    label: Packed
    trials: list[TrialImages]


class Tiles(TypedDict):
    """The pictures of a data set: `index` of the images in the order of their tiles, left to right and top to bottom;
    `columns` of a sheet and `tiles` on one; `pitch` from tile to tile and `size` of a tile in pixels."""

    sheets: list[str]
    index: list[int]
    columns: int
    tiles: int
    pitch: int
    size: int


class Differing(TypedDict):
    """A setting on which trials differ: each value with the trials that have it."""

    key: str
    values: list[Entry]


class Settings(TypedDict):
    """The keys on which trials differ, and those on which all agree."""

    differing: list[Differing]
    shared: list[Entry]


class GridContent(TypedDict):
    """The grid of a run's last command as a TOML file, and the command line that runs it again."""

    title: str
    toml: str
    command: str


class Block(TypedDict):
    """A titled list."""

    title: str
    entries: list[Entry]


class TrialProgress(TypedDict):
    """How far a trial is; texts as people read them, empty where there is nothing to say."""

    sigma: float
    title: str
    stage: str
    epochs: str
    images: str
    left: str


class Progress(TypedDict):
    """How far a run is; `said`: sentences."""

    done: int
    trials: list[TrialProgress]
    said: list[str]


class Content(TypedDict):
    """The whole page; `progress` where the run goes on."""

    progress: Progress | None

    summary: Summary
    tables: list[TableContent]
    methods: list[MethodLook]
    charts: Charts
    pictures: list[PictureContent]
    images: list[DatasetImages]
    tiles: dict[str, Tiles]
    settings: Settings
    grids: list[GridContent]
    environment: list[Block]
    caveats: list[str]
