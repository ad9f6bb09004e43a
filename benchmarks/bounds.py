"""How long do bounds take? Every built-in default and every row of the paper's table, by every method.

    python benchmarks/bounds.py

Prints seconds after imports, this process's CPU time beside wall-clock time: on a shared machine the first is the
steadier one. Each result is computed once, from cold caches.
"""

from __future__ import annotations

import os
import platform
import time

from hydra import compose, initialize_config_dir

import glsmooth as gs
from glsmooth.bounds import METHODS, NotApplicable
from glsmooth.configuration.build import build_family, build_region
from glsmooth.configuration.folder import conf_dir
from glsmooth.transforms import BUILTIN

#: Rows of Table 1 that are not a built-in default.
EXTRA = {"gamma, [0.5, 1]": ["transform=gamma", "region.gamma=[0.5,1.0]"]}


def configured(overrides: list[str]) -> tuple[gs.SmoothedFamily, gs.Box]:
    cfg = compose("bounds", overrides)
    family = build_family(cfg.transform, cfg.smoothing)
    return family, build_region(cfg.region, family.transform)


def main() -> None:
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{'':<38}" + "".join(f"{name:>16}" for name in METHODS) + f"{'seconds':>10}{'CPU s':>8}")
    total_wall = total_cpu = 0.0
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        rows = {**{name: [f"transform={name}"] for name in BUILTIN}, **EXTRA}
        for name, overrides in rows.items():
            family, region = configured(overrides)
            wall, cpu = time.perf_counter(), time.process_time()
            cells = []
            for method in METHODS:
                try:
                    cells.append(f"{gs.required_probability(family, region, method):.5f}")
                except NotApplicable:
                    cells.append("-")
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            total_wall, total_cpu = total_wall + wall, total_cpu + cpu
            print(f"{name:<38}" + "".join(f"{cell:>16}" for cell in cells) + f"{wall:>10.2f}{cpu:>8.2f}")
    print(f"{'all':<38}" + " " * 16 * len(METHODS) + f"{total_wall:>10.2f}{total_cpu:>8.2f}")


if __name__ == "__main__":
    main()
