"""What a user meets who mistypes, on the real entries."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from helpers import ROOT, TINY, config, run, run_here

from efpn.entry import JobFailed, say_how_to_go_on
from efpn.errors import Interrupted

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "script", ["train.py", "evaluate.py", "predict.py", "export.py", "benchmark.py", "summarise.py"]
)
def test_help_shows_how_to_call(script: str) -> None:
    done = run(script, "--help")
    assert done.returncode == 0 and f"python {script} " in done.stdout and "powered by Hydra" not in done.stdout


def test_help_names_the_groups_without_torch() -> None:
    done = run("train.py", "--help")
    assert done.returncode == 0 and "experiment:" in done.stdout and "tt100k_efpn" in done.stdout


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["experiment=tt100k_efpm"], "Could not find 'experiment/tt100k_efpm' (did you mean tt100k_efpn?)"),
        (["phases.distill.max_step=3"], "no such key (did you mean phases.distill.max_steps?)"),
        (["phase=distil"], "phase=distil: unknown (did you mean distill?)"),
        (["loss.lambda=1"], "loss.lambda: the config has no such key (did you mean loss.lambda_pos?)"),
        (["model.tiles.margin=1"], "no such key (did you mean extension.margin?); --cfg job"),  # where it is
        (["quick=yes"], "quick: a group that is not there by itself; add it with a plus, +quick=CHOICE"),
        (
            ["-m", "+sweep=table2", "row=ftt,espcn"],
            "row: a group that is not there by itself; add it with a plus, +row=",
        ),
        (["+row=ftt,espcn"], "+row=ftt,espcn: several rows are a sweep: python train.py -m ... +row=ftt,espcn"),
        (["format=onnx"], "format: the config has no such key"),  # another command's group
        (["mining.name=a"], "no such key (did you mean mining.nms?)"),  # the name of several: the nearest
        (["trainer={foo: 2}"], "trainer.foo: the config has no such key"),
        (["loss.lamda=1"], "what else loss's class takes needs a plus, +loss.lamda=VALUE"),
        (["-m", "loss.lambda=1,2"], "loss.lambda: the config has no such key (did you mean loss.lambda_pos?)"),
        (["-m", "seed=0,1", "loss.lamda=3"], "loss.lamda: the config has no such key (did you mean loss.lambda_pos?)"),
        (
            ["+small_roi_bellow=48"],
            "+small_roi_bellow=48: nothing reads small_roi_bellow (did you mean small_roi_below?)",
        ),
        (["++small_roi_bellow=48"], "++small_roi_bellow=48: nothing reads small_roi_bellow (did you mean"),
        (["+phases.finetune.max_stepps=5"], "nothing reads phases.finetune.max_stepps (did you mean max_steps?)"),
        (["+phases.finetune.dta.batch_size=2"], "nothing reads phases.finetune.dta (did you mean data?)"),
        (["+paths.output=x"], "nothing reads paths.output (did you mean outputs?)"),
        (["+mine=demo", "name=${oc.select:mine,a}", "phase=none"], "phase=none: unknown; use"),
        (["+mine.x=1", "mine.x=3", "phase=none"], "phase=none: unknown; use"),  # one word builds on another
        (["--cfg", "job", "-m", "seed=0,1"], "--cfg goes without -m"),
        (["+sweep=table2"], "+sweep=table2: a sweep is many runs: python train.py -m ... +sweep=table2"),
        (["loss=null"], "a group is never null"),
        (["model.rpn.anchor_sizes=[8,16]"], "model.rpn.anchor_sizes=[8, 16]: give 5 sizes, one for each of p2, p3, p4"),
        (
            ["extension=ftt", "extension.upsampler.groups=3"],
            "extension.upsampler.groups=3: must divide the width, 64; use 1 or 64",
        ),
        (
            ["phase=distill", "extension=ftt", "extension.upsampler.reduction=2"],
            "extension.upsampler.reduction=2: must be 1 or 3",
        ),
        (["model.rpn.bg_iou=0.8"], "model.rpn.bg_iou=0.8: must be at most model.rpn.fg_iou=0.7"),
        (["phase=finetune", "model.tiles.dense_from=0"], "model.tiles.dense_from=0: must be a number greater than"),
        (["trainr.devices=1", "sed=3"], "trainr.devices: the config has no such key (did you mean trainer.devices?)"),
        (["phase=control", "phases.control=null"], "phases.control=null: a phase is a group of options"),
        (["loss.lambda_pos="], "loss.lambda_pos=: must be a number, 0 or greater"),
        (["seed=one"], "seed=one: must be a whole number from 0 to 4294967295"),
        (
            ["detector=fcos", "mining.per_image=7"],
            "mining.per_image: read by detector=faster_rcnn, not by the one chosen",
        ),
        (["data.train_transform.scale_jitter=[3,1]"], "data.train_transform.scale_jitter=[3, 1]: must be [low, high]"),
        (["data.train_transform.scale_jitter=[0.1,100]"], "scale_jitter=[0.1, 100]: must be [low, high] with 0.05"),
        (["~data._target_"], "data: has no _target_; begin conf/data/NAME.yaml with `defaults: [base, _self_]`"),
        (["trainer.precision=half"], "trainer.precision=half: must be one of auto, 32-true, bf16-mixed"),
    ],
)
def test_a_mistyped_word_is_named_with_the_right_ones(arguments: list[str], message: str, tmp_path: Path) -> None:
    # where a word were let through, the run would end at once: it may neither draw images nor train
    call = run if "-m" in arguments else run_here  # a sweep's keys are read as the process starts
    done = call(
        "train.py",
        *arguments,
        f"data.root={tmp_path}",
        f"paths.outputs={tmp_path / 'outputs'}",  # not what `make demo` may have left under way
        "data.source.counts={train: 1, val: 1, test: 1}",
        "phases.baseline.max_steps=1",
    )
    assert done.returncode == 2 and message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "word, message",
    [
        ("columns=[AP_S,AP_XL]", "columns: no metric AP_XL (did you mean AP_L?); choose from AP, AR, "),
        ("choose=F1_X", "choose: no metric F1_X (did you mean F1_"),
    ],
)
def test_a_column_that_is_not_there_is_told_before_the_rows_are_read(word: str, message: str) -> None:
    done = run_here("summarise.py", "sweep=nowhere", word)
    assert done.returncode == 2 and done.stderr.startswith(f"error: {message}"), done.stderr


def test_a_missing_data_folder_is_an_error_without_a_traceback(tmp_path: Path) -> None:
    done = run("train.py", "experiment=tt100k_efpn", f"data.root={tmp_path / 'nowhere'}")
    assert done.returncode == 2 and "data.root" in done.stderr and "nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_class_that_is_not_there_and_a_folder_that_cannot_be_made_are_one_line_each(data: Path) -> None:
    for word, message in (
        ("phases.baseline.task._target_=efpn.tasks.Nope", "to be had (efpn.tasks has no Nope)"),
        (
            "paths.outputs=/proc/x",
            "/proc/x/demo/seed0/baseline: no folder can be made there; change who may use it, or",
        ),
    ):
        done = run_here("train.py", *TINY, f"data.root={data}", word)
        assert done.returncode == 2 and message in done.stderr and done.stderr.startswith("error: "), done.stderr
        assert done.stderr.count("\n") == 1


def test_a_stop_says_how_to_go_on_only_where_something_was_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "experiment=demo"])
    cfg = config("train", "experiment=demo", f"paths.outputs={tmp_path}")
    assert say_how_to_go_on(Interrupted(15, "stopped"), cfg) == 143
    assert capsys.readouterr().err == "stopped; nothing was saved yet; run the same command again\n"
    point = Path(cfg.paths.run, "baseline/last.ckpt")
    point.parent.mkdir(parents=True)
    point.touch()
    say_how_to_go_on(Interrupted(15, "stopped"), cfg)
    assert capsys.readouterr().err == "stopped; go on with `python train.py experiment=demo resume=true`\n"


def test_a_sweep_with_several_devices_is_refused() -> None:
    done = run("train.py", "-m", "experiment=demo", "trainer=ddp", "trainer.devices=2", "loss.lambda_pos=0.5,1.0")
    assert done.returncode == 2 and "would each replay the sweep" in done.stderr
    assert "hydra/launcher=slurm" in done.stderr


def test_a_missing_run_is_an_error_without_a_traceback() -> None:
    done = run("evaluate.py", "run=outputs/nowhere")
    assert done.returncode == 2 and "run=outputs/nowhere: no such file or folder" in done.stderr


def test_evaluation_without_a_run_says_so() -> None:
    done = run("evaluate.py")
    assert done.returncode == 2 and done.stderr == "error: run is not given; run=VALUE, see --help\n"


@pytest.mark.parametrize(
    "script, table, hint",
    [
        ("evaluate.py", "table2", "table2 is made of trainings: train.py -m +sweep=TABLE, then summarise.py"),
        ("summarise.py", "table6", "table6 is made of one run's ways to detect: evaluate.py run=RUN table=TABLE"),
        ("evaluate.py", "table9", ""),
    ],
)
def test_a_table_of_the_other_command_says_which(script: str, table: str, hint: str) -> None:
    done = run(script, f"table={table}")
    assert done.returncode == 2 and f"Could not find 'table/{table}'" in done.stderr
    assert done.stderr.strip().splitlines()[-1].strip() == (hint or "table8")


def test_what_else_is_mistyped_beside_a_table_brings_no_hint() -> None:
    done = run("evaluate.py", "table=table3", "trainer=nope")
    assert "Could not find 'trainer/nope'" in done.stderr and "is made of" not in done.stderr


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What looks like a finished phase to all that does not read its weights."""
    folder = tmp_path_factory.mktemp("run") / "finetune"
    folder.mkdir()
    (folder / "weights.ckpt").touch()
    (folder / "config.yaml").write_text(
        "{name: demo, seed: 0, phases: {finetune: {}}, data: {}, model: {}, trainer: {}}"
    )
    return folder


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["run=outputs/nowhere", "images=conf"], "run=outputs/nowhere: no such file or folder"),
        (["images=nowhere"], "images=nowhere: no such file or folder"),
        (
            ["images=conf", "model.rpn.score_thresh=0.1"],
            "has its own; change it with a plus, +model.rpn",
        ),
        (["images=[README.md]"], "images=README.md: no image by its ending"),
        (["images=conf/*.jpg"], "images=conf/*.jpg: matches no image"),
        (["images=conf", "slices.size=0"], "slices.size=0: must be a whole number, at least 1"),
        (
            ["images=conf", "slices.size=64", "slices.overlap=1.0"],
            "slices.overlap=1.0: must be a number from 0 on",
        ),
        (["images=conf", "score_threshold=half"], "score_threshold=half: must be a number from 0 to 1"),
        (["images=conf", "slices=512"], "slices=512: a group of options; give slices.size=512"),
        (["images=conf", "slices.size=big"], "slices.size=big: must be a whole number, at least 1"),
        (["images=conf", "score_threshold=50"], "score_threshold=50: must be a number from 0 to 1"),
        (["images=conf", "trainer=ddp"], "trainer.devices=-1: this runs on one device"),
        (["images=conf", "+paths.outputs=x"], "+paths.outputs=x: nothing reads paths"),
        ([], "images is not given; images=VALUE, see --help"),
        (
            ["run=null", "images=conf"],
            "run is not given; run=VALUE (run=models/signs/seed0 is one for drawn signs), see --help",
        ),
    ],
)
def test_what_cannot_be_predicted_is_named_at_once(finished: Path, arguments: list[str], message: str) -> None:
    done = run_here("predict.py", f"run={finished}", *arguments)
    assert done.returncode == 2 and message in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "script, arguments",
    [
        ("train.py", ["experiment=tt100k_efpn", "data.root=nowhere"]),
        ("train.py", ["experiment=demo", "phase=distil"]),
        ("predict.py", ["images=nowhere"]),
        ("benchmark.py", ["run=nowhere", "images=nowhere"]),
    ],
)
def test_mistakes_are_answered_before_torch_is_imported(script: str, arguments: list[str], finished: Path) -> None:
    code = (
        "import sys, runpy\n"
        f"try: runpy.run_path('{script}', run_name='__main__')\n"
        "except SystemExit as e: print('status', e.code)\n"
        "print('torch' in sys.modules)"
    )
    place = [f"run={finished}"] if script == "predict.py" else []
    command = [sys.executable, "-c", code, *place, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.stdout.split() == ["status", "2", "False"]


def test_a_config_that_is_no_yaml_is_named_with_the_line(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/broken.yaml").write_text("defaults: [base, _self_]\nsource: [\n")
    done = run_here("train.py", f"--config-dir={tmp_path}", "data=broken")
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert (
        "error: a config file is no YAML: " in done.stderr and "broken.yaml" in done.stderr and "line 3" in done.stderr
    )


def test_one_call_knows_nothing_of_anothers_failure():
    JobFailed("loss.lambda_pos=0", "of a sweep of this process before", 2)
    done = run_here("train.py", "--cfg", "job")
    assert done.returncode == 0 and "jobs failed" not in done.stderr
