"""`make gpu-check`: what becomes of checks that pass, fail, crash, hang or cannot be made, and a whole run on a CPU."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from itertools import count
from pathlib import Path

import psutil
import pytest
import torch

from benchmarks import device_checks
from benchmarks.device_curve import curves_of
from benchmarks.gpu_check import Check, Report, about, checks_of, exit_code, run_checks
from tests.train.fake_cuda import CUDA, FakeCuda

ABOUT = {
    "at": "2026-01-01T00:00:00+00:00",
    "machine": {"cpu": "a CPU", "cores": 2, "memory_bytes": 2**33},
    "devices": [{"name": "GPU A", "memory_bytes": 2**34, "capability": "8.0"}],
    "driver": "570.1",
    "git": {"commit": "0123456789abcdef"},
    "platform": "Linux",
    "python": "3.13.1",
    "version": "0.1.0",
    "libraries": {"torch": "2.13.0", "triton": ""},
}


def fake(name, program, *, limit_s=60.0, num_devices=0):
    """Make a check of a few lines of Python."""
    return Check(name=name, title=f"the {name}", command=["-c", program], limit_s=limit_s, num_devices=num_devices)


def verdict(status, why=""):
    return f"print({json.dumps(json.dumps({'status': status, 'why': why}))}, flush=True)"


ROW = f"print({json.dumps(json.dumps({'row': {'lanes': 4, 'what': 'a|b'}}))}, flush=True)"
PASSES = fake("pass", f"{ROW}\nprint('noise of a library')\n{verdict('passed', 'all equal')}")


def run(tmp_path, checks, *, devices=(), **options):
    """Run checks and return their results by name, as the file has them."""
    report = Report(tmp_path, ABOUT)
    run_checks(checks, report, devices=devices, **{"budget_s": 600.0, **options})
    written = json.loads((tmp_path / "gpu-check.json").read_text())
    assert written["checks"] == report.results
    return {row["name"]: row for row in written["checks"]}


def test_a_check_that_passes_leaves_its_rows_and_what_it_saw(tmp_path):
    result = run(tmp_path, [PASSES])["pass"]
    assert (result["status"], result["why"], result["rows"]) == ("passed", "all equal", [{"lanes": 4, "what": "a|b"}])
    assert "output" not in result
    assert exit_code([result]) == 0
    page = (tmp_path / "gpu-check.md").read_text()
    assert "1 passed, 0 failed, 0 not run" in page
    assert "| 4 | a\\|b |" in page
    assert "GPU A, 16 GiB, compute capability 8.0" in page
    assert "Driver: 570.1" in page
    assert "torch 2.13.0" in page


def test_failed_crashed_and_silent_checks_have_failed_and_take_no_other_with_them(tmp_path):
    programs = {
        "fail": f"import sys; print('why it is so', file=sys.stderr)\n{verdict('failed', 'off by 3')}",
        "crash": f"{ROW}\nimport os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
        "late crash": f"{verdict('passed')}\nimport os; os._exit(3)",
        "silent": "pass",
        "broken": "import a_module_that_is_not_there",
    }
    results = run(tmp_path, [*(fake(name, program) for name, program in programs.items()), PASSES])
    assert [row["status"] for row in results.values()] == ["failed"] * 5 + ["passed"]
    assert results["fail"]["why"] == "off by 3"
    assert "why it is so" in results["fail"]["output"]
    assert results["crash"]["why"] == "killed by SIGSEGV"
    assert results["crash"]["rows"] == [{"lanes": 4, "what": "a|b"}]
    assert results["late crash"]["why"] == "exited with code 3"
    assert results["silent"]["why"] == "exited without a result"
    assert "ModuleNotFoundError" in results["broken"]["output"]
    assert exit_code(list(results.values())) == 1
    assert "ModuleNotFoundError" in (tmp_path / "gpu-check.md").read_text()


@pytest.mark.slow
def test_a_check_that_hangs_is_ended_with_its_children_and_keeps_its_rows(tmp_path):
    note = tmp_path / "child"
    program = (
        f"import subprocess, sys, threading, pathlib\n{ROW}\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import threading; threading.Event().wait()'])\n"
        f"pathlib.Path({str(note)!r}).write_text(str(child.pid))\n"
        "threading.Event().wait()"
    )
    result = run(tmp_path, [fake("hang", program, limit_s=4), PASSES])
    assert result["hang"]["status"] == "failed"
    assert result["hang"]["why"] == "took more than 4 s"
    assert result["hang"]["rows"] == [{"lanes": 4, "what": "a|b"}]
    assert result["pass"]["status"] == "passed"
    child = int(note.read_text())
    assert not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE


def test_what_cannot_be_checked_is_not_run_and_no_failure(tmp_path, monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    never = "raise SystemExit(1)"
    checks = [
        fake("library", verdict("not run", "triton is not installed")),
        fake("device", never, num_devices=1),
        fake("pair", never, num_devices=2),
    ]
    results = run(tmp_path, checks)
    assert [(row["status"], row["why"]) for row in results.values()] == [
        ("not run", "triton is not installed"),
        ("not run", "no CUDA device"),
        ("not run", "no CUDA device"),
    ]
    assert exit_code(list(results.values())) == 0
    assert run(tmp_path, checks[2:], devices=["0"])["pair"]["why"] == "needs 2 CUDA devices, and 1 is visible"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert run(tmp_path, checks[1:2])["device"]["why"] == "no CUDA device is visible: CUDA_VISIBLE_DEVICES is set"


def test_a_check_sees_as_many_devices_as_it_needs_or_all(tmp_path):
    program = (
        "import json, os\n"
        "print(json.dumps({'status': 'passed', 'why': os.environ['CUDA_VISIBLE_DEVICES']}), flush=True)"
    )
    checks = [fake(str(num), program, num_devices=num) for num in range(3)]
    checks.append(dataclasses.replace(checks[1], name="all", sees_all=True))
    seen = run(tmp_path, checks, devices=["GPU-a", "GPU-b", "GPU-c"])
    assert [row["why"] for row in seen.values()] == ["GPU-a", "GPU-a", "GPU-a,GPU-b", "GPU-a,GPU-b,GPU-c"]
    assert run(tmp_path, checks[:1])["0"]["why"] == ""


def test_if_pytorch_cannot_use_the_device_nothing_else_is_run_on_it(tmp_path):
    checks = [fake("device", verdict("failed", "a build for CPUs"), num_devices=1), PASSES]
    results = run(tmp_path, checks, devices=["0"])
    assert results["device"]["status"] == "failed"
    assert (results["pass"]["status"], results["pass"]["rows"]) == ("not run", [])


def test_no_check_begins_after_the_time_is_used_up(tmp_path):
    ticks = count(step=100)
    results = run(tmp_path, [PASSES, fake("late", "pass")], budget_s=120, clock=lambda: float(next(ticks)))
    assert [row["status"] for row in results.values()] == ["passed", "not run"]
    assert results["late"]["why"] == "the 2 minutes were used up; --minutes gives it more"


def test_the_report_is_written_after_each_check(tmp_path):
    path = tmp_path / "gpu-check.json"
    program = (
        "import json, pathlib\n"
        f"names = [row['name'] for row in json.loads(pathlib.Path({str(path)!r}).read_text())['checks']]\n"
        "print(json.dumps({'status': 'passed', 'why': ' '.join(names)}), flush=True)"
    )
    results = run(tmp_path, [PASSES, fake("second", program)])
    assert results["second"]["why"] == "pass"


def test_the_report_has_no_name_of_a_user(tmp_path):
    home = str(Path.home())
    program = f"import sys; print({home!r} + '/secret/model', file=sys.stderr)\n{verdict('failed', home)}"
    report = Report(tmp_path, ABOUT)
    run_checks([fake("path", program)], report, devices=[], budget_s=60)
    for path in report.paths:
        assert home not in path.read_text()
        assert "~/secret/model" in path.read_text()


def test_what_is_known_before_the_first_check_has_versions_and_devices():
    found = about()
    assert found["libraries"]["torch"] == torch.__version__
    assert {"driver", "devices", "machine", "python", "git"} <= found.keys()


def test_every_check_exists_and_its_module_can_be_asked_for_it():
    names = [check.name for check in checks_of("cuda")]
    assert names[0] == "device"
    assert names == [check.name for check in checks_of("cpu")]
    assert set(names) == set(device_checks.CHECKS)
    assert {check.command[-1] for check in checks_of("cpu", short=True)} == set(names)
    assert all("--short" in check.command for check in checks_of("cpu", short=True))


# The checks themselves, on a CPU.


@pytest.fixture
def rows():
    return []


@pytest.fixture
def options(rows):
    return device_checks.Options(torch.device("cpu"), rows.append, short=True)


def test_trials_have_the_same_losses_in_a_pack_and_alone(options, rows):
    assert "8 trials" in device_checks.check_pack_parity(options)
    assert all(row["difference from alone"] <= row["limit"] for row in rows)


def test_a_trial_that_differs_alone_fails_the_parity_of_packs(options, rows, monkeypatch):
    def losses(_case, _device, _dtype, trials):
        return {trial.number: [1.1 if len(trials) == 1 else 1.0] for trial in trials}

    monkeypatch.setattr(device_checks, "_losses", losses)
    with pytest.raises(AssertionError, match=r"bert, classifier in float32: 0\.0909"):
        device_checks.check_pack_parity(options)
    assert rows[0]["difference from alone"] == pytest.approx(0.1 / 1.1)


def test_the_device_is_compared_with_the_cpu(options, rows):
    device_checks.check_device_parity(options)
    assert next(row["type"] for row in rows) == "float32"


@pytest.mark.slow
def test_on_a_device_its_kernels_are_compared_with_the_cpu(rows, monkeypatch):
    llama = next(case for case in device_checks._cases() if case.name == "llama, language model")
    trials = device_checks._trials()[:2]
    monkeypatch.setattr(device_checks, "_cases", lambda: [llama])
    monkeypatch.setattr(device_checks, "_trials", lambda: trials)
    monkeypatch.setattr(device_checks, "_CHUNKS", 1)
    with FakeCuda() as gpu:
        device_checks.check_device_parity(device_checks.Options(CUDA, rows.append))
    assert [row["type"] for row in rows] == ["float32", "bfloat16"]
    assert {"drop", "rotate", "gate", "gate_backward"} <= gpu.operators.keys()


@pytest.mark.parametrize(("capability", "found"), [((8, 0), (torch.bfloat16,)), ((7, 5), ())])
def test_bfloat16_is_checked_where_a_gpu_computes_in_it(capability, found):
    with FakeCuda(capability=capability):
        assert device_checks._bfloat16(CUDA) == found


@pytest.mark.parametrize("losses", [[float("nan")], [float("inf")]])
def test_a_loss_that_is_not_finite_is_no_parity(losses):
    assert device_checks._difference({0: losses}, {0: [1.0]}) == float("inf")
    assert device_checks._difference({0: [1.0]}, {0: losses}) == float("inf")


def test_a_ladder_that_changes_losses_fails(options, monkeypatch):
    results = iter([1.0, 1.2, 1.0])

    def step(_loaded, _row_loss):
        return {"losses": {0: [next(results)]}, "failures": {}, "attempts": [(8, 64), (4, 32)]}

    monkeypatch.setattr(device_checks, "_ladder_step", step)
    loaded = device_checks._Loaded(None, None, None, [0])
    limited = device_checks.contextlib.nullcontext
    with pytest.raises(AssertionError, match=r"losses differ by 0\.167"):
        device_checks._climb(options, loaded, step(None, None), lambda _: limited(("half", None)), [0.5])


@pytest.mark.parametrize("name", ["tests", "ladder"])
def test_what_needs_a_device_says_so(options, name):
    with pytest.raises(device_checks.NotRun, match="no CUDA device"):
        device_checks.CHECKS[name](options)


def test_a_driver_without_a_build_of_pytorch_for_it_is_a_failure(options):
    if torch.cuda.is_available():
        pytest.skip("this build of PyTorch can use the device")
    with pytest.raises(AssertionError, match="cannot use it"):
        device_checks.check_device(options)


def test_tests_are_counted_from_the_file_of_pytest(tmp_path):
    path = tmp_path / "tests.xml"
    path.write_text(
        '<testsuites><testsuite><testcase name="one" time="0.5"/><testcase name="two" time="1">'
        '<failure message="off"/></testcase><testcase name="three" time="0"><skipped message="no GPU"/></testcase>'
        '<testcase name="four" time="0"><error message="in its fixture"/></testcase></testsuite></testsuites>'
    )
    found = [(row["test"], row["result"], row["why"]) for row in device_checks._test_rows(path)]
    assert found == [
        ("one", "passed", ""),
        ("two", "failed", "off"),
        ("three", "skipped", "no GPU"),
        ("four", "failed", "in its fixture"),
    ]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_two_workers_run_a_sweep(options, rows):
    device_checks.check_two_workers(options)
    assert rows[0]["trials"] == rows[0]["complete"] + rows[0]["pruned"] == 5


def test_a_gpu_gets_models_of_published_shapes():
    curves = curves_of(torch.device("cuda"))
    assert [(curve.model, curve.length) for curve in curves] == [
        ("SmolLM2-135M", 64),
        ("SmolLM2-135M", 512),
        ("Qwen3-0.6B", 64),
        ("Qwen3-0.6B", 512),
    ]
    assert all(max(curve.lanes) == 16 for curve in curves)


def check_ladder(rows):
    assert [row["fewest lanes"] for row in rows] == [2, 1, 1, 1]
    assert [row["smallest pass, tokens"] for row in rows] == [128, 64, 32, 16]
    assert [(row["trained"], row["infeasible"]) for row in rows] == [(4, 0)] * 4


def check_curve(rows):
    assert [(row["contender"], row["trials"]) for row in rows] == [
        ("sweeper", 1),
        ("sweeper", 2),
        ("Trainer + PEFT", 1),
    ]
    assert [row["tokens per step"] for row in rows] == [256, 512, 256]
    assert all(row["rows/s"] > 0 for row in rows)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_whole_run_on_a_cpu_ends_with_the_gpu_parts_not_run(tmp_path):
    command = [sys.executable, "-m", "benchmarks.gpu_check", "--short", "--folder", str(tmp_path)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**device_checks.os.environ, "CUDA_VISIBLE_DEVICES": ""},
    )
    content = json.loads((tmp_path / "gpu-check.json").read_text())
    found = {row["name"]: row for row in content["checks"]}
    statuses = {row["name"]: row["status"] for row in content["checks"]}
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(statuses) == [check.name for check in checks_of("cpu")]
    need_a_gpu = {check.name for check in checks_of("cpu") if check.num_devices}
    assert need_a_gpu == {"device", "device_parity", "ladder", "tests", "two_workers"}
    assert {statuses[name] for name in need_a_gpu} == {"not run"}
    assert all(row["why"].startswith("no CUDA device") for row in content["checks"] if row["name"] in need_a_gpu)
    assert {statuses[name] for name in ("pack_parity", "simulated_ladder", "curve")} == {"passed"}
    check_ladder(found["simulated_ladder"]["rows"])
    check_curve(found["curve"]["rows"])
    assert "times the rows per second of Trainer + PEFT" in found["curve"]["why"]
    assert "no CUDA device" in (tmp_path / "gpu-check.md").read_text()
