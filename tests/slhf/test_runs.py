import json

import pytest

from slhf.errors import RunError
from slhf.runs import Run, content_hash, derive_seed, write_json


def test_the_hash_depends_on_content_not_on_order():
    assert content_hash({"a": 1, "b": [2.0]}) == content_hash({"b": [2.0], "a": 1})
    assert content_hash({"a": 1}) != content_hash({"a": 2})


def test_seeds_are_addresses():
    assert derive_seed(0, 1, "leader") == derive_seed(0, 1, "leader")
    assert len({derive_seed(run, step, role) for run in (0, 1) for step in range(50) for role in ("a", "b")}) == 200


def test_a_run_is_found_again_and_finishes_once(tmp_path):
    run = Run.open(tmp_path, "x", {"tau": 0.1})
    assert not run.finished
    run.finish({"steps": 3})
    again = Run.open(tmp_path, "x", {"tau": 0.1})
    assert again == run
    assert again.finished
    assert again.result() == {"steps": 3}
    assert Run.open(tmp_path, "x", {"tau": 0.2}) != run


def test_the_manifest_holds_configuration_and_environment(tmp_path):
    manifest = json.loads((Run.open(tmp_path, "x", {"tau": 0.1}).path / "manifest.json").read_text())
    assert manifest["config"] == {"tau": 0.1}
    assert manifest["environment"]["packages"]["torch"] != "not installed"


def test_an_edited_manifest_is_refused(tmp_path):
    run = Run.open(tmp_path, "x", {"tau": 0.1})
    write_json(run.path / "manifest.json", {"config": {"tau": 0.3}})
    with pytest.raises(RunError, match=r"manifest\.json"):
        Run.open(tmp_path, "x", {"tau": 0.1})


def test_rewind_drops_later_steps_and_a_torn_line(tmp_path):
    run = Run.open(tmp_path, "x", {})
    for step in range(4):
        run.log({"step": step})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    run.rewind(2)
    assert run.metrics() == [{"step": 0}, {"step": 1}]


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()
