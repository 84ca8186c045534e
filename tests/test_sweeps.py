"""Sweeps whose jobs fail or share phases: each has its turn, nothing is trained twice, a rerun does what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from helpers import ROOT, TINY, one_step, run, wandb_records
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn, JobStatus
from hydra.utils import instantiate
from omegaconf import OmegaConf

from efpn.next_steps import SayWhatNext
from efpn.runs.phases import own_config
from efpn.runs.sweeps import SweptKeys, composed, note_row, read_row

pytestmark = pytest.mark.slow
SWEEP = ["-m", *TINY, "phase=baseline", "sequence=[baseline]"]


def test_a_table_is_trained_once_goes_on_after_a_fault_and_is_summarised(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "staged"))  # tables, until they are synced
    tiny = [word for word in TINY if word != "logger=none"]
    where = [f"paths.outputs={tmp_path}", f"data.root={data}", *one_step("baseline", "finetune")]
    words = [
        "-m",
        *tiny,
        *where,
        "logger=wandb",
        "logger.offline=true",
        "+sweep=table2",
        "+row=fpn,undistilled",
        "seed=0,1",
    ]
    folder = tmp_path / "demo"
    folder.mkdir()
    (folder / "undistilled").touch()  # in the way of two of the four jobs
    first = run("train.py", *words)
    assert first.returncode == 2 and "Traceback" not in first.stderr
    assert "error: 2 of the sweep's jobs failed; the same command does only what is missing" in first.stderr
    for seed in (0, 1):
        assert f"\n  +row=undistilled seed={seed}: {folder}/undistilled" in first.stderr
    assert "evaluate.py" not in first.stdout
    checkpoints = {path: path.stat().st_mtime_ns for path in folder.glob("**/weights.ckpt")}
    shared = {folder / f"seed{seed}" / "baseline" / "weights.ckpt" for seed in (0, 1)}
    assert set(checkpoints) == shared
    (folder / "undistilled").unlink()
    quickly = '+hydra.callbacks.next.after_sweep=["images=0","figures=false","choose_threshold=false"]'
    again = run("train.py", *words, "score_after=true", quickly)
    assert again.returncode == 0, again.stderr
    own = {folder / "undistilled" / f"seed{seed}" / "finetune" / "weights.ckpt" for seed in (0, 1)}
    assert set(folder.glob("**/weights.ckpt")) == shared | own
    assert all(path.stat().st_mtime_ns == time for path, time in checkpoints.items()) and "kept" in again.stdout
    same = f"logger=wandb paths.outputs={tmp_path} logger.offline=true\n"
    flags = "images=0 figures=false choose_threshold=false"
    assert f"python evaluate.py {flags} 'run={folder}/*/seed*/row.json' {same}" in again.stdout
    assert f"python summarise.py sweep={folder} table=table2 {same}" in again.stdout

    runs = [wandb_records(path.parent) for path in [*sorted(shared), *sorted(own)]]  # in this order they were trained
    said = [(one["run"][0]["run_group"], one["run"][0]["job_type"], one["run"][0]["display_name"]) for one in runs]
    assert said[0] == ("demo", "baseline", "demo/seed0/baseline")
    assert said[3] == ("demo", "finetune", "demo/undistilled/seed1/finetune")
    assert {one["artifact"][0]["name"] for one in runs} == {"rows-demo"}
    rows = [[(line[0], line[2]) for line in one["table"][0]] for one in runs]
    assert rows[3] == [("fpn", 0), ("fpn", 1), ("undistilled", 0), ("undistilled", 1)]  # it has grown
    assert [len(one) for one in rows] == [1, 2, 3, 4] and rows[0] == [("fpn", 0)]

    rest = "control, espcn, ftt, second_pass, control_head, oracle_head"
    assert f"sweep table2 also has rows that are not trained here: {rest}" in again.stdout
    summary = json.loads((folder / "summary-test-table2/summary.json").read_text())
    assert [(row["name"], row["seeds"]) for row in summary["rows"]] == [("fpn", [0, 1]), ("undistilled", [0, 1])]
    assert f"left out: {rest.replace(', ', ' (not trained); ')} (not trained)." in summary["notes"][0]
    assert summary["reference"] == "FPN" and summary["columns"][:3] == ["acc_S", "rec_S", "F1_S"]


@pytest.mark.parametrize(
    "word, apart",
    [
        ("loss.lambda_pos=0.5", {"distill", "finetune"}),
        ("loss.lambda_pos=1.0", set()),
        ("phases.finetune.task.optimizer.lr=0.1", {"control", "finetune"}),
        ("mining.per_image=7", {"finetune"}),
        ("model.channels=32", {"baseline", "control", "distill", "finetune"}),
        ("trainer.precision=bf16-mixed", {"baseline", "control", "distill", "finetune"}),  # asked for: no other run
        ("+row=undistilled", {"finetune"}),  # of these; its sequence has no distillation
        ("+row=second_pass", set()),  # the demo's own form
    ],
)
def test_jobs_share_what_their_words_do_not_change(word: str, apart: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    keys = set() if word.startswith("+row") else {word.split("=")[0]}  # one row is one too
    monkeypatch.setattr(SweptKeys(), "keys", keys)
    composed.cache_clear()
    words = ["experiment=demo", "seed=3", word, "hydra.mode=MULTIRUN"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        monkeypatch.setattr(HydraConfig.instance(), "cfg", compose("train", words, return_hydra_config=True))
        cfg = compose("train", words)
        places = {phase: own_config(cfg, phase) for phase in ("baseline", "control", "distill", "finetune")}
        if word == "+row=undistilled":
            del places["distill"]
        assert {phase for phase, own in places.items() if own is cfg} == apart
        assert all(own.paths.run == "outputs/demo/seed3" for own in places.values() if own is not cfg)
        assert cfg.paths.run == f"outputs/demo/{word.lstrip('+').removeprefix('row=').replace('=', '-')}/seed3"


def test_a_part_of_a_row_that_is_trained_by_itself_is_not_the_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(SweptKeys(), "keys", set())
    words = ["experiment=demo", "+row=ftt", f"paths.outputs={tmp_path}", "hydra.mode=MULTIRUN", "hydra.job.num=0"]
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for phase, last in (("all", "finetune"), ("distill", "distill")):
            given = [*words, f"phase={phase}"]
            monkeypatch.setattr(HydraConfig.instance(), "cfg", compose("train", given, return_hydra_config=True))
            cfg = compose("train", given)
            note_row(cfg, Path(cfg.paths.run, last))
    assert read_row(Path(cfg.paths.run, "row.json"))["phase"].name == "finetune"


@pytest.mark.parametrize(
    "left, swept, said",
    [
        ("demo/seed0/baseline/weights.ckpt", {"seed"}, "/demo/seed*"),
        ("demo/seed0/baseline/weights.ckpt", {"seed", "phase"}, "/demo/seed*"),
        ("demo/espcn/seed0/row.json", {"row"}, "/demo/*/seed*/row.json"),
        ("demo/seed0/baseline/weights.ckpt", {"experiment"}, None),
    ],
)
def test_a_sweep_ends_with_the_commands_that_look_at_it(
    left: str, swept: set[str], said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(SweptKeys(), "keys", swept)
    for place in (left, "demo/nearest/seed0/row.json"):  # the latter of a sweep before
        (tmp_path / place).parent.mkdir(parents=True)
        (tmp_path / place).touch()
    root = own_data(tmp_path / "data")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        data = compose("train", ["experiment=own", f"data.root={root}"]).data
    cfg = {
        "paths": {"unswept": f"{tmp_path}/demo/seed0", "data": ""},
        "hydra": {"runtime": {"choices": {}}},
        "score_after": False,
    }
    SayWhatNext().on_multirun_end(OmegaConf.create({**cfg, "data": data}))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()[1:]]
    evaluate, summarise = f"python evaluate.py 'run={tmp_path}{said}'", f"python summarise.py sweep={tmp_path}/demo"
    assert lines == ([evaluate, summarise] if said else [])
    data.source.splits.test.annotations = "gone.json"
    SayWhatNext().on_multirun_end(OmegaConf.create({**cfg, "data": data}))
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()[1:]]
    assert lines == ([f"{evaluate} split=val", f"{summarise} split=val"] if said else [])


@pytest.mark.parametrize("sweep", [path.stem for path in (ROOT / "conf/sweep").glob("*.yaml")])
def test_the_commands_that_a_sweep_ends_with_can_be_read(
    sweep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "demo/x/seed0").mkdir(parents=True)
    (tmp_path / "demo/x/seed0/row.json").touch()
    monkeypatch.setattr(SweptKeys(), "keys", {"row"})
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        words = [f"+sweep={sweep}", "hydra.mode=MULTIRUN", f"paths.outputs={tmp_path}", "logger=wandb"]
        cfg = compose("train", words, return_hydra_config=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", cfg)
        instantiate(cfg.hydra.callbacks.next).on_multirun_end(cfg)
    scripts = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [words[1] for words in scripts] == ["evaluate.py", "summarise.py"]
    for words in scripts:
        read = get_args_parser().parse_args(words[2:])
        assert {"logger=wandb", f"paths.outputs={tmp_path}"} <= {*read.overrides}
        assert read.multirun == ("split=val,test" in read.overrides)


RUN = "hydra.mode=RUN"


def own_data(root: Path) -> Path:
    """A folder that ``experiment=own`` can read, of no image."""
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "bolt"}]}
    for split in ("train", "test"):
        (root / split).mkdir(parents=True)
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.mark.parametrize(
    "words, status, rank, said",
    [
        ([RUN], JobStatus.COMPLETED, None, ""),
        ([RUN, "data.source.splits.test.annotations=gone.json"], JobStatus.COMPLETED, None, " split=val"),
        ([RUN, "+quick=yes"], JobStatus.COMPLETED, None, " limit=6 choose_threshold=false"),
        ([RUN], JobStatus.FAILED, None, None),
        ([RUN, "phase=distill"], JobStatus.COMPLETED, None, None),
        (["hydra.mode=MULTIRUN"], JobStatus.COMPLETED, None, None),  # of a sweep, which has an end of its own
        ([RUN], JobStatus.COMPLETED, "LOCAL_RANK", None),
        ([RUN], JobStatus.COMPLETED, "NODE_RANK", None),
    ],
)
def test_a_whole_run_ends_with_the_command_that_evaluates_it(
    words: list[str],
    status: JobStatus,
    rank: str | None,
    said: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("RANK", "LOCAL_RANK", "NODE_RANK", "GROUP_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    if rank is not None:
        monkeypatch.setenv(rank, "1")
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        given = ["experiment=own", f"data.root={own_data(tmp_path)}", "paths.outputs=o", *words]
        whole = compose("train", given, return_hydra_config=True)
        monkeypatch.setattr(HydraConfig.instance(), "cfg", whole)
        callback = instantiate(whole.hydra.callbacks.next)
    callback.on_job_end(whole, JobReturn(status=status))
    out = capsys.readouterr().out
    if said is None:
        assert out == ""
    else:
        head, line, end = out.split("\n")
        assert (line, end) == (f"  python evaluate.py run={whole.paths.run}{said}", "")
        assert ("the test split cannot be read: annotation file" in head) == ("split=val" in said)


def test_a_bug_in_a_job_is_shown_and_counted(data: Path, tmp_path: Path) -> None:
    (tmp_path / "boom.py").write_text(
        "def boom(optimizer, max_steps, warmup_steps=0):\n    raise RuntimeError('boom')\n"
    )
    schedule = "phases.baseline.task.schedule._target_=boom.boom,efpn.training.schedule.warmup_cosine"
    done = run("train.py", *SWEEP, f"paths.outputs={tmp_path}", f"data.root={data}", schedule, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1 and "RuntimeError: boom" in done.stderr and "Traceback" in done.stderr
    assert "error: 1 of the sweep's jobs failed" in done.stderr
    assert len(list(tmp_path.glob("demo/*/seed0/baseline/weights.ckpt"))) == 1
