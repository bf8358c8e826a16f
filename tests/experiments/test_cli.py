"""``slhf`` as a user meets it: one name for everything, whatever is installed."""

import json
import re
from importlib import import_module, metadata
from inspect import signature

import pytest

from experiments import cli, doctor
from experiments.run import HERE
from slhf import extras, hardware
from tabular.commands import COMMANDS

GAME = str(HERE / "sweeps" / "games" / "condorcet.csv")


def test_help_teaches(capsys):
    assert cli.main(["--help"]) == 0
    shown = capsys.readouterr().out
    for name in (*COMMANDS, *cli.MODELS, *cli.SETUP):
        assert f"  {name} " in shown
    assert "slhf solve P.csv" in shown
    assert cli.main([]) == 2


def test_an_unknown_command_is_met_with_the_nearest(capsys):
    assert cli.main(["eval"]) == 2
    assert capsys.readouterr().err == "error: there is no command eval; did you mean evaluate? (see slhf --help)\n"


def test_exact_commands_answer_under_this_name(capsys):
    assert cli.main(["solve", GAME, "--concept", "slhf", "--tau", "0.1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["concept"] == "slhf"
    with pytest.raises(SystemExit):
        cli.main(["solve", "--help"])
    shown = capsys.readouterr().out
    assert "usage: slhf solve" in shown
    assert "python -m tabular" not in shown


@pytest.mark.parametrize("name", [*cli.MODELS, *cli.SETUP])
def test_a_command_hands_over_with_its_name(name, monkeypatch):
    command = {**cli.MODELS, **cli.SETUP}[name]
    module = import_module(f"experiments.{command.module}")
    assert list(signature(module.main).parameters) == ["arguments", "prog"]
    given = []
    monkeypatch.setattr(module, "main", lambda arguments, prog: given.append((arguments, prog)) or 0)
    assert cli.main([name, "--x"]) == 0
    assert given == [(["--x", *command.given], f"slhf {name}")]


def test_help_shows_examples_as_they_are_typed(capsys):
    with pytest.raises(SystemExit):
        cli.main(["refine", "--help"])
    shown = capsys.readouterr().out
    assert "slhf refine prompts.txt" in shown
    assert "python experiments" not in shown


def test_without_the_extra_a_command_says_how_to_install_it(capsys, monkeypatch):
    there = extras.find_spec
    monkeypatch.setattr(extras, "find_spec", lambda name: None if name == "torch" else there(name))
    for name in ("train", "evaluate", "plan"):
        assert cli.main([name]) == 1
        told = capsys.readouterr().err
        assert told == f"error: slhf {name} needs the package torch: {extras.install_command('llm')}\n"
    assert cli.main(["describe", GAME]) == 0


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (None, "pip install 'slhf[llm]'"),
        ({"url": "file:///a/my clone", "dir_info": {}}, "pip install '/a/my clone[llm]'"),
        ({"url": "file:///a/clone", "dir_info": {"editable": True}}, "pip install -e '/a/clone[llm]'"),
        (
            {"url": "https://host.example/slhf.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "pip install 'slhf[llm] @ git+https://host.example/slhf.git@abc'",
        ),
    ],
)
def test_an_extra_comes_from_where_the_project_came_from(monkeypatch, source, expected):
    class Distribution:
        def read_text(self, name):
            assert name == "direct_url.json"
            return None if source is None else json.dumps(source)

    monkeypatch.setattr(metadata, "distribution", lambda name: Distribution())
    assert extras.install_command("llm") == expected


# --- slhf doctor


def test_the_doctor_says_what_is_here(capsys, monkeypatch):
    monkeypatch.setattr(hardware, "bfloat16_units", lambda *_: (False, "AVX2 only"))
    assert doctor.main(["--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    quickstart = found.get("quickstart", {"make run": "about 1 minutes, set-up not included"})  # nothing on a GPU
    assert re.fullmatch(r"about \d+ minutes, set-up not included", quickstart["make run"])
    assert found["machine"]["bfloat16 units"].startswith("no (AVX2 only)")
    assert found["machine"]["cores"].startswith(str(hardware.usable_cores()))
    assert found["software"]["numpy"] == metadata.version("numpy")
    assert found["conflicts"] == []


def test_the_doctor_leaves_out_what_has_nothing_to_say(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "SECTIONS", (("one", lambda: {"a": "b"}), ("two", dict)))
    assert doctor.main([]) == 0
    assert capsys.readouterr().out == "one\n  a b\n\nconflicts\n  none\n"


def installed(folder, name, version, *needs):
    package = folder / f"{name}-{version}.dist-info"
    package.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}", *(f"Requires-Dist: {x}" for x in needs)]
    (package / "METADATA").write_text("\n".join(lines) + "\n")


def test_a_foreign_llm_and_an_unmet_requirement_are_conflicts(tmp_path, capsys, monkeypatch):
    installed(tmp_path, "llm", "1.0")
    installed(tmp_path, "vllm", "9.0", "numpy<1.0", "nothing-of-the-kind>=1; extra == 'all'")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert doctor.main(["--json"]) == 1
    foreign, unmet = json.loads(capsys.readouterr().out)["conflicts"]
    assert "pip uninstall llm" in foreign
    assert unmet == f"vllm needs numpy<1.0, but {metadata.version('numpy')} is installed"


def test_what_hides_a_package_is_named(tmp_path, monkeypatch):
    (tmp_path / "numpy.py").write_text("")
    (tmp_path / "tabular.py").write_text("")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    told = "\n".join(doctor.shadows())
    assert f"{tmp_path / 'numpy'}, which hides the installed numpy" in told
    assert "`import tabular` finds" in told


def test_the_build_of_torch_is_held_against_the_gpu(monkeypatch, tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'Some GPU, 40960 MiB'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(doctor, "_version", lambda name: "2.13.0+cpu")
    assert doctor.gpu() == "Some GPU, 40960 MiB; this build of torch is for CPUs only and does not use it"
    monkeypatch.setattr(doctor, "_version", lambda name: "2.13.0")
    assert doctor.gpu() == "Some GPU, 40960 MiB"
