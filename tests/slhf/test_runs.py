import errno
import json
import os
import subprocess
import sys

import pytest

from slhf import runs
from slhf.errors import RunError
from slhf.runs import Run, content_hash, derive_seed, write_directory, write_json


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
        run.log({"step": step}, "samples.jsonl")
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')
    (run.path / ".metrics.jsonl.123.tmp").write_text("of a process that was killed")
    run.rewind(2)
    assert run.metrics() == run.metrics("samples.jsonl") == [{"step": 0}, {"step": 1}]
    assert not list(run.path.glob(".*.tmp"))


@pytest.mark.parametrize("steps", [[0], [0, 0, 1], [0, 2], []])
def test_steps_that_are_missing_or_repeated_before_the_checkpoint_are_refused(tmp_path, steps):
    run = Run.open(tmp_path, "x", {})
    for step in steps:
        run.log({"step": step})
    with pytest.raises(RunError, match="steps 0 to 1 once each"):
        run.rewind(2)


def test_nan_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()
    run = Run.open(tmp_path, "x", {})
    with pytest.raises(RunError, match=r"Step 3: loss of metrics\.jsonl is not finite"):
        run.log({"step": 3, "loss": float("nan"), "kl": 0.0})
    assert run.metrics() == []


def test_a_directory_is_whole_or_not_there(tmp_path):
    def half(path):
        (path / "a").write_text("new")
        raise KeyboardInterrupt

    target = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        write_directory(target, half)
    assert not target.exists()
    write_directory(target, lambda path: (path / "a").write_text("old"))
    with pytest.raises(KeyboardInterrupt):
        write_directory(target, half)
    assert (target / "a").read_text() == "old"
    write_directory(target, lambda path: (path / "b").write_text("new"))  # over the leftover of the crash
    assert [path.name for path in target.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_all_of_a_directory_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    synced, target = [], tmp_path / "state"
    monkeypatch.setattr(runs, "sync", lambda path: synced.append((path.name, target.exists())))

    def fill(path):
        (path / "inner").mkdir()
        (path / "inner" / "file").write_text("x")

    write_directory(target, fill)
    assert {name for name, named in synced if not named} == {"inner", "file", ".state.tmp"}
    assert synced[-1] == (tmp_path.name, True)


def test_the_lock_keeps_other_processes_out_and_dies_with_its_holder(tmp_path):
    run = Run.open(tmp_path, "x", {})
    holder = (
        "import sys, pathlib; from slhf.runs import Run\n"
        "with Run(pathlib.Path(sys.argv[1])).lock():\n    print(flush=True); sys.stdin.read()"
    )
    arguments = [sys.executable, "-c", holder, str(run.path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        with pytest.raises(RunError, match=f"in use by process {process.pid}"), run.lock():
            pass
        process.kill()
    with run.lock(), run.lock():  # free again, and its holder may take it twice
        pass
    with run.lock():
        pass


def full_after(monkeypatch, count):
    """A disk on which ``count`` more bytes fit."""
    honest, left = os.write, [count]

    def write(descriptor, data):
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = honest(descriptor, data[: left[0]])
        left[0] -= written
        return written

    monkeypatch.setattr(runs.os, "write", write)


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    run = Run.open(tmp_path, "x", {})
    run.log({"step": 0})
    before = (run.path / "metrics.jsonl").read_bytes()
    full_after(monkeypatch, 5)
    with pytest.raises(OSError, match="No space left"):
        run.log({"step": 1, "loss": 0.5})
    assert (run.path / "metrics.jsonl").read_bytes() == before


def test_a_full_disk_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, 1)

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_json(path, 2)
    assert json.loads(path.read_text()) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_library_says_of_a_full_disk_is_the_systems_error(tmp_path):
    """safetensors raises its own; what the directory held before stays, and the half-written one goes."""

    class SafetensorError(Exception):
        pass

    def fill(path):
        (path / "a").write_text("half")
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    target = tmp_path / "checkpoint"
    write_directory(target, lambda path: (path / "a").write_text("old"))
    with pytest.raises(OSError, match="No space left") as caught:
        write_directory(target, fill)
    assert caught.value.errno == errno.ENOSPC
    assert (target / "a").read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_the_error_that_ends_a_run_is_raised_where_it_cannot_be_kept(tmp_path, monkeypatch):
    run = Run.open(tmp_path, "x", {})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runs, "write_json", full)
    with pytest.raises(RunError, match="the judge is gone"), run.error_kept():
        raise RunError("the judge is gone")


def test_a_log_has_lines_that_end_at_newlines_only(tmp_path):
    run = Run.open(tmp_path, "x", {})
    (run.path / "metrics.jsonl").write_text('{"step": 0, "said": "a\u2028b\u0085c"}\n', encoding="utf-8")
    assert run.metrics() == [{"step": 0, "said": "a\u2028b\u0085c"}]
    run.rewind(1)
    assert run.metrics() == [{"step": 0, "said": "a\u2028b\u0085c"}]
