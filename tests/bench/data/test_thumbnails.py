from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from bench.data import load_images
from bench.data.thumbnails import keep_thumbnails
from results.store.folder import RunFolder
from results.store.run import read_thumbnails
from tests.conftest import small_trial


def test_every_certified_image_is_kept_once_and_unchanged(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    few, more = (small_trial(certify={"n": 40, "n0": 10, "images": images}) for images in (5, 10))
    keep_thumbnails(run, [few, few])
    assert len(read_thumbnails(tmp_path)) == 5
    keep_thumbnails(run, [few, more])
    kept = read_thumbnails(tmp_path)
    assert sorted(kept["index"]) == [50 * place for place in range(10)]  # of 500; the five are among them
    images = load_images("synthetic", "test").images
    for index, png in kept[["index", "png"]].itertuples(index=False):
        picture = np.asarray(Image.open(io.BytesIO(png)))
        assert (picture == images[index].transpose(1, 2, 0)).all()
