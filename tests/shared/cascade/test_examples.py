"""The examples in the docstrings of the core do what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import cachenet.shared.cascade

MODULES = [module.name for module in pkgutil.iter_modules(cachenet.shared.cascade.__path__, "cachenet.shared.cascade.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_hold(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES) >= 10
