"""The examples in docstrings of ``shared`` are correct."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import cachenet.shared

MODULES = [module.name for module in pkgutil.walk_packages(cachenet.shared.__path__, "cachenet.shared.")]


@pytest.mark.parametrize("name", MODULES)
def test_examples_of_a_module_are_correct(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    assert sum(doctest.testmod(importlib.import_module(name)).attempted for name in MODULES) >= 25
