"""Packages give their exports when they are asked for, and keep them apart from modules of the same name."""

import subprocess
import sys
from importlib import import_module

import pytest


@pytest.mark.parametrize("package", ["llm", "tabular"])
def test_all_exports_are_there_and_none_other(package):
    module = import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = module.nothing


SCRIPT = """
import sys
import {package}.{name}
from {package} import {name} as export
from {package}.{name} import {name} as defined
assert export is defined and callable(export), export
assert sys.modules["{package}.{name}"].{name} is export
"""


@pytest.mark.parametrize(("package", "name"), [("llm", "train"), ("llm", "refine"), ("tabular", "best_of")])
def test_an_export_named_like_its_module_stays_the_export(package, name):
    subprocess.run([sys.executable, "-c", SCRIPT.format(package=package, name=name)], check=True)


def test_the_register_of_algorithms_gives_modules():
    from llm.algorithms import by_name, implementation

    for spec in by_name().values():
        assert callable(implementation(spec()).loss)
