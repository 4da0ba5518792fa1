"""The clock of the machine and its rate of plain matrix products, measured right before and after each section.

CPUs of one name differ by a factor of two, and ratios differ with them: a contender whose time goes into products gains
more from a fast core than one whose time goes into Python. A product of two matrices of 2,048 x 2,048 takes
``2 * 2048**3`` operations; the rate is that of the median product on one thread. bfloat16 is left out where the CPU has
no instructions for it, because emulation would take minutes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from statistics import median

from benchmarks.commands import run_command
from benchmarks.context import Context
from benchmarks.record import Row

__all__ = ["describe_speed", "main", "measure_speed", "record_speed"]

SECTION = "machine_speed"
_SIZE = 2048


def record_speed(context: Context, *sections: str) -> None:
    """Measure the machine in a process of its own, and record the result for sections that end or begin now."""
    command = ["-m", "benchmarks.machine_speed", "--seconds", str(context.sizes.product_s)]
    lines, _, _ = run_command(command, scratch=context.new_scratch("speed"))
    speed = json.loads(lines[-1])
    for section in sections:
        context.results.append(SECTION, {"section": section, **speed})
    context.log(describe_speed([speed]))


def measure_speed(seconds: float, *, size: int = _SIZE) -> Row:
    """Return CPU model, clock in MHz, and the rate of products in FLOP/s by number type.

    Args:
        seconds: How long to multiply in each type; at least one product is timed.
        size: Rows and columns of the matrices.
    """
    import psutil
    import torch

    from sweeper.models.device_choice import choose_dtype
    from sweeper.store.provenance import collect

    torch.set_num_threads(1)
    dtypes = {choose_dtype("auto", "cpu")[0], torch.float32}
    rates = {str(dtype).removeprefix("torch."): _product_rate(dtype, seconds, size) for dtype in dtypes}
    clock = psutil.cpu_freq()
    return {"cpu": collect()["machine"]["cpu"], "mhz": clock.current if clock else None, "product_flops": rates}


def _product_rate(dtype: object, seconds: float, size: int) -> float:
    import torch

    one, other = (torch.randn(size, size).to(dtype) for _ in range(2))  # type: ignore[call-overload]
    torch.mm(one, other)
    times: list[float] = []
    while sum(times) < seconds or not times:
        started = time.perf_counter()
        torch.mm(one, other)
        times.append(time.perf_counter() - started)
    return 2 * size**3 / median(times)


def describe_speed(rows: Sequence[Row]) -> str:
    """Describe the machine during a section in one line: CPU model, clock, rates."""
    if not rows:
        return "clock and rate of products not recorded"
    clocks = [row["mhz"] for row in rows if row["mhz"]]
    clock = f"{_range_text(clocks)} MHz" if clocks else "unknown clock"
    dtypes = sorted(rows[0]["product_flops"])
    rates = [f"{name} {_range_text([row['product_flops'][name] / 1e9 for row in rows])}" for name in dtypes]
    models = " or ".join(sorted({row["cpu"] for row in rows}))
    return f"{models} at {clock}; products of {_SIZE} x {_SIZE} on one thread: {', '.join(rates)} GFLOP/s"


def _range_text(values: Sequence[float]) -> str:
    low, high = f"{min(values):.0f}", f"{max(values):.0f}"
    return low if low == high else f"{low} to {high}"


def main() -> None:
    """Print the speed as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each number type")
    sys.stdout.write(json.dumps(measure_speed(parser.parse_args().seconds)) + "\n")


if __name__ == "__main__":
    main()
