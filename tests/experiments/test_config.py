from pathlib import Path

import pytest

from experiments.config import LanguageModelSweep, build_algorithm, load_sweep, runs_of
from experiments.run import HERE
from slhf.errors import ConfigError

QUICKSTART = HERE / "sweeps" / "quickstart.yaml"
FINITE = HERE / "sweeps" / "finite_answers.yaml"


@pytest.mark.parametrize("path", sorted((HERE / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_sweep_of_the_project_loads(path):
    for sweep in load_sweep(path):
        if isinstance(sweep, LanguageModelSweep):
            assert runs_of(sweep)
        else:
            assert [build_algorithm(entry).name for entry in sweep.algorithms]


def test_overrides_by_path_by_algorithm_and_by_last_part():
    (sweep,) = load_sweep(QUICKSTART, ["train.steps=3", "batch_size=4", "rloo.tau=0.5", "seed=7", "timescale=9"])
    specs = {entry["name"]: build_algorithm(entry) for entry in sweep.algorithms}
    assert (sweep.train.steps, sweep.train.batch_size, sweep.seed) == (3, 4, 7)
    assert specs["rloo"].tau == 0.5
    assert specs["stackelberg_gda"].timescale == 9
    assert specs["nash_md"].tau != 0.5


def test_what_may_be_null_and_what_is_a_list():
    (sweep,) = load_sweep(QUICKSTART, ["trackers=[tensorboard]", "tokens_per_micro_batch=null", "keep_every=4"])
    assert sweep.train.trackers == ("tensorboard",)
    assert sweep.train.tokens_per_micro_batch is None
    assert sweep.train.keep_every == 4


def test_a_field_of_several_algorithms_is_set_in_each():
    (sweep,) = load_sweep(QUICKSTART, ["learning_rate=1e-5"])
    assert {build_algorithm(entry).learning_rate for entry in sweep.algorithms} == {1e-5}


def test_an_entry_may_have_a_sharing_and_a_title_of_its_own(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text(
        "name: x\nalgorithms:\n- {name: stackelberg_gda, sharing: two, title: Apart}\n- {name: rloo}\n",
        encoding="utf-8",
    )
    apart, rloo = runs_of(*load_sweep(path))
    assert (apart.sweep.model.sharing, apart.title) == ("two", "Apart")
    assert (rloo.sweep.model.sharing, rloo.title) == ("one", None)
    sweeps = load_sweep(path, ["stackelberg_gda.sharing=one,two"])
    assert [runs_of(sweep)[0].sweep.model.sharing for sweep in sweeps] == ["one", "two"]
    assert {sweep.model.sharing for sweep in sweeps} == {"one"}
    for bad, message in [("sharing: three", "Unknown sharing .* 'three'"), ("title: 3", "title = 3 is not a text")]:
        path.write_text(f"name: x\nalgorithms:\n- {{name: stackelberg_gda, {bad}}}\n", encoding="utf-8")
        with pytest.raises(ConfigError, match=message):
            load_sweep(path)


def test_a_part_that_is_null_in_the_file_can_be_set(tmp_path):
    path = tmp_path / "sweep.yaml"
    path.write_text("name: x\nmodel: {lora: null, dtype: float32}\nalgorithms:\n- {name: rloo}\n", encoding="utf-8")
    (sweep,) = load_sweep(path, ["rank=8"])
    assert sweep.model.lora.rank == 8


def test_several_values_make_every_combination():
    sweeps = load_sweep(QUICKSTART, ["seed=0,1", "timescale=1,5,10"])
    points = {(s.seed, build_algorithm(s.algorithms[0]).timescale) for s in sweeps}
    assert points == {(s, k) for s in (0, 1) for k in (1, 5, 10)}


def test_matrices_of_a_file_start_from_its_folder_and_overrides_from_here():
    games = [sweep.judge.matrix for sweep in load_sweep(FINITE, ["trained=one"])]
    assert games == [str(HERE / "sweeps" / "games" / name) for name in ("condorcet.csv", "random5.csv", "winner.csv")]
    assert {sweep.judge.matrix for sweep in load_sweep(FINITE, ["judge.matrix=mine.csv"])} == {"mine.csv"}


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.stesp=3", r"did you mean train\.steps"),
        ("timscale=3", "did you mean timescale"),
        ("rloo.timescale=3", r"Unknown key 'rloo\.timescale'"),
        ("steps", "write key=value"),
        ("steps=", "write key=value"),
        ("steps=many", r"train\.steps = 'many'"),
        ("seed=1.5", r"seed = 1\.5"),
        ("train.steps=0", "steps = 0: must be at least 1"),
        ("evaluation.rounds=1", "rounds = 1: must be at least 2"),
        ("warmup=1.5", r"TrainConfig\.warmup = 1\.5"),
        ("schedule=cosin", r"train\.schedule = 'cosin'"),
        ("trackers=[tensorbord]", r"names 'tensorbord'; there are: tensorboard, wandb, trackio"),
        ("model.dtype=int8", r"model\.dtype = 'int8'"),
        ("judge.dtype=int8", r"judge\.dtype = 'int8'"),
        ("dtype=float32", r"'dtype' is ambiguous; write one of: model\.dtype, judge\.dtype"),
        ("tau_leader=-1", r"tau_leader = -1\.0: must not be negative"),
    ],
)
def test_a_bad_override_is_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_sweep(QUICKSTART, [override])


def test_the_kind_of_judge_may_come_after_its_settings():
    (sweep,) = load_sweep(QUICKSTART, ["judge.dtype=bfloat16", "judge.model=here", "judge.kind=reward_model"])
    assert (sweep.judge.kind, sweep.judge.model, sweep.judge.dtype) == ("reward_model", "here", "bfloat16")


def test_some_of_a_files_algorithms():
    (sweep,) = load_sweep(QUICKSTART, ["algorithms=[nash_md, rloo]", "rloo.tau=0.5"])
    assert [entry["name"] for entry in sweep.algorithms] == ["rloo", "nash_md"]
    assert sweep.algorithms[0]["tau"] == 0.5
    assert [len(sweep.algorithms) for sweep in load_sweep(QUICKSTART, ["algorithms=nash_md,rloo"])] == [1, 1]
    with pytest.raises(ConfigError, match="algorithm of this sweep 'spo'"):
        load_sweep(QUICKSTART, ["algorithms=[spo]"])


def test_a_whole_path_wins_over_a_last_part():
    """Both the finite sweep and its model have a seed; the short key is the sweep's."""
    first, *_ = load_sweep(FINITE, ["seed=3"])
    assert (first.seed, first.model.seed) == (3, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: [", "is not YAML"),
        ("- a", "must be a mapping"),
        ("kind: tabluar\nname: x\nalgorithms: [{name: rloo}]", "Unknown kind 'tabluar'"),
        ("name: x\nalgorithms: []", "algorithms is empty"),
        ("name: x\nalgorithms: [{name: rlo}]", "did you mean rloo"),
        ("name: x\nalgorithms: [{name: rloo, tua: 1}]", "did you mean tau"),
        ("name: x\ntrian: {steps: 1}\nalgorithms: [{name: rloo}]", "did you mean train"),
        ("name: x\ntrain: {step: 1}\nalgorithms: [{name: rloo}]", "did you mean steps"),
        ("algorithms: [{name: rloo}]", "name"),
    ],
)
def test_a_bad_file_is_named(tmp_path, text, message):
    path = tmp_path / "sweep.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_sweep(path)


def test_a_missing_file_lists_the_ones_there_are(tmp_path):
    with pytest.raises(ConfigError, match=r"valid are .*quickstart"):
        load_sweep(tmp_path / "none.yaml")


def test_the_projects_own_sweeps_go_by_name_from_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_sweep(Path("quickstart")) == load_sweep(QUICKSTART)
    games = {sweep.judge.matrix for sweep in load_sweep(Path("finite_answers"))}
    assert all(Path(game).is_file() for game in games)
    with pytest.raises(ConfigError, match=r"no sweep file quikstart; .* did you mean quickstart\?"):
        load_sweep(Path("quikstart"))
    (tmp_path / "quickstart").write_text("name: mine\nalgorithms: [{name: rloo}]\n")
    assert load_sweep(Path("quickstart"))[0].name == "mine"
