"""The program as a person uses it: what it prints, and what it says to bad input."""

import json
import os
import pty
import subprocess
import sys

import pytest

from batchnorm.cli import progress

SMALL = ["train", "--epochs", "1", "--train-images", "512", "--recalibration-images", "256", "--threads", "1"]


def run(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "batchnorm", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
    )


def test_a_run_ends_with_the_textbooks_table(tmp_path):
    result = run(*SMALL, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].split("  ")[0] == "arm"
    for word in ("loss", "train acc", "test acc", "examples/sec"):
        assert word in lines[0]
    assert [line.split()[0] for line in lines[1:5]] == ["none", "batch", "batch", "batch"]
    assert "batch norm1 gamma [" in result.stdout
    assert "batch norm1 beta  [" in result.stdout
    assert lines[-1].startswith("report  runs/")
    assert (tmp_path / lines[-1].split(maxsplit=1)[1]).is_file()
    assert result.stderr == ""


def test_several_seeds_give_mean_and_deviation(tmp_path):
    result = run(*SMALL, "--seeds", "1,0", "--arms", "batch", cwd=tmp_path)
    assert " ± " in result.stdout
    assert "batch seed 1 norm1 gamma [" in result.stdout
    assert "batch seed 1 norm1 beta  [" in result.stdout


def test_json_is_the_summary_and_nothing_else(tmp_path):
    result = run(*SMALL, "--json", "--out", "here", cwd=tmp_path)
    printed = json.loads(result.stdout)
    assert printed.pop("directory") == "here"
    assert printed == json.loads((tmp_path / "here" / "summary.json").read_text())


def test_resume_finds_the_last_run_with_the_same_settings(tmp_path):
    first = run(*SMALL, cwd=tmp_path)
    again = run(*SMALL, "--resume", cwd=tmp_path)
    assert again.stdout == first.stdout
    other = run(*SMALL, "--lr", "0.5", "--resume", cwd=tmp_path)
    assert other.returncode == 2
    assert "resume expected a run with these settings under runs, got none" in other.stderr


def test_resume_begins_a_run_that_was_killed_before_its_first_record(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "run.lock").write_text("12345")
    result = run(*SMALL, "--arms", "none", "--resume", "--out", "here", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "here" / "summary.json").is_file()


def test_resume_begins_nothing_in_a_directory_of_something_else(tmp_path):
    (tmp_path / "runs" / "older").mkdir(parents=True)
    result = run(*SMALL, "--resume", "--out", "runs", cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == "batchnorm: error: train: resume expected a run in runs, got none\n"
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["older"]


def test_help_writes_every_kind_of_value_alike():
    shown = run("train", "--help").stdout
    assert "--out <path>" in shown
    assert "PATH" not in shown


def test_a_path_is_printed_as_it_stands(tmp_path):
    name = "ru[/a]n [red] :tada: " + "x" * 80
    result = run(*SMALL, "--arms", "batch", "--out", name, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-2:] == [f"records {name}", f"report  {name}/report.html"]
    assert "gamma [" in result.stdout
    again = run("report", name, cwd=tmp_path)
    assert again.stdout == f"report  {name}/report.html\n"


def test_a_warning_is_one_line_as_it_stands(capsys):
    text = "the same command with --resume --out 'ru[/a]n :tada:' " + "goes on " * 20
    progress.warn(text)
    assert capsys.readouterr().err == f"! {text}\n"


def test_signs_that_a_terminal_lacks_are_replaced(tmp_path):
    result = run(*SMALL, "--seeds", "0-1", "--arms", "batch", cwd=tmp_path, PYTHONIOENCODING="ascii")
    assert result.returncode == 0, result.stderr
    assert " ? " in result.stdout
    assert (tmp_path / result.stdout.splitlines()[-1].split(maxsplit=1)[1]).is_file()
    assert run("explain", "BN001", PYTHONIOENCODING="ascii").returncode == 0


def test_a_terminal_sees_progress(tmp_path):
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "batchnorm", *SMALL], cwd=tmp_path, stdout=follower, stderr=follower
    )
    os.close(follower)
    shown = b""
    try:
        while chunk := os.read(leader, 65536):
            shown += chunk
    except OSError:  # Linux's way to say that the other end is closed
        pass
    assert process.wait() == 0
    for word in (b"images/s", b"batch seed 0 epoch  1", b"recalibrated"):
        assert word in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--lr", "0"], "train: lr expected a finite number > 0, got 0.0"),
        (["--lr", "fast"], "Invalid value for '--lr'"),
        (["--seeds", "a"], "train: seeds expected numbers as 0,1 or 0-5, got 'a'"),
        (["--seeds", ","], "train: seeds expected integers >= 0, got none"),
        (["--seeds", "0,5-1"], "train: seeds expected the smaller number first, as 1-5, got '5-1'"),
        (["--backend", "warp"], "train: backend expected one of auto, eager, native, torch, got warp"),
        (["--batch-size", "70000"], "train: batch_size expected at most the 512 training images"),
        (["--batch-size", "1"], "train: batch_size expected at least 2 images per micro-batch"),
        (["--device", "warp"], "train: device expected one that is here, got 'warp'"),
        (["--device", "meta"], "train: device expected one that is here, got 'meta'"),
        (["--threads", "99999999999"], "train: threads expected at most 1024, got 99999999999"),
        (["--seeds", "18446744073709551616"], "train: seeds expected integers up to 4294967295, got 18446"),
        (["--seeds", "0-9999999999"], "train: seeds expected at most 1000 numbers in a range, got '0-99"),
        (["--stats", "ghost:1e9"], "Ghost: size expected "),
        (["--out", ""], "train: out expected a directory, got an empty name"),
        (["--resume", "--out", "nowhere"], "train: resume expected a run in nowhere, got none"),
        (["--device", "cuda"], "train: device expected one that is here, got 'cuda'"),
        (
            ["--out", "/proc/nowhere"],
            "train: out expected a directory that can be written, got /proc/nowhere",
        ),
        (["--data-dir", "/nowhere"], "/nowhere"),
        (["--turbo"], "No such option: --turbo"),
    ],
)
def test_bad_input_gets_one_line_and_exit_code_2(tmp_path, arguments, message):
    result = run(*SMALL, *arguments, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stdout == ""
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_corrupt_file_is_named_with_both_checksums(tmp_path):
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(b"not an image")
    for name in ("train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"):
        (tmp_path / f"{name}-ubyte.gz").write_bytes(b"")
    result = run(*SMALL, "--data-dir", str(tmp_path), cwd=tmp_path)
    assert result.returncode == 2
    assert "train-images-idx3-ubyte" in result.stderr
    assert "expected" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_corrupt_checkpoint_is_named(tmp_path):
    run(*SMALL, "--out", "here", cwd=tmp_path)
    (tmp_path / "here" / "checkpoint.safetensors").write_bytes(b"\0" * 100)
    result = run(*SMALL, "--out", "here", "--resume", cwd=tmp_path)
    assert result.returncode == 2
    assert "here/checkpoint.safetensors expected a checkpoint of batchnorm train" in result.stderr
    assert result.stderr.count("\n") == 1


def test_a_full_disk_is_one_line(tmp_path):
    if not os.access("/dev/shm", os.W_OK) or os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True
    ).returncode:
        pytest.skip("this machine lets nobody mount")
    try:
        result = run(*SMALL, "--out", str(disk / "run"), cwd=tmp_path)
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    assert result.returncode == 2
    assert "No space left on device" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_does_not_load_torch():
    code = (
        "import sys; sys.argv = ['batchnorm', 'train', '--help']\n"
        "try:\n    import batchnorm.cli; batchnorm.cli.main()\n"
        "finally:\n    assert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_what_the_doctor_finds_while_training_is_said_and_stands_in_the_report(tmp_path):
    code = (
        "import batchnorm.cli.train as t; t.WATCH_EVERY = 8\n"
        "from batchnorm.records import Finding, Fix\n"
        "import batchnorm.doctor.watch as w\n"
        "fault = Finding('BN012', 'slow', 'warn', 'norm1', 'Slow [indeed].', {}, Fix('safe', 'wait'))\n"
        "w.examine = lambda patient, rules: ((fault,), (), {})\n"
        "from batchnorm.cli import main; main()"
    )
    arguments = [*SMALL, "--batch-size", "16", "--arms", "batch", "--out", "run"]
    result = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == "! batch, seed 0, epoch 1: BN012 slow in norm1: Slow [indeed].\n"
    assert "Found by the doctor during training" in (tmp_path / "run" / "report.html").read_text()
