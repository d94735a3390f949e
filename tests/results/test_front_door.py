"""What `import results` offers, in a notebook and to pydoc."""

from __future__ import annotations

import pydoc

import pytest

import results


def test_every_name_is_there_and_documented() -> None:
    text = pydoc.plain(pydoc.render_doc(results))
    for name in results.__all__:
        assert getattr(results, name).__doc__
        assert f"{name}(" in text
    assert set(results.__all__) <= set(dir(results))


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'certified_acuracy'"):
        _ = results.certified_acuracy
