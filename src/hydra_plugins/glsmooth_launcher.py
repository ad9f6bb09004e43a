"""Launchers of submitit that wait for every job: Hydra finds a launcher in this package, and nowhere else.

The official ones leave at the first job that was killed, while others run on.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn

try:
    from hydra_plugins.hydra_submitit_launcher import config, submitit_launcher
except ImportError:  # without the extra glsmooth[slurm] there are no such launchers
    pass
else:
    from hydra.core.singleton import Singleton
    from hydra.core.utils import JobStatus, filter_overrides

    from glsmooth.errors import UserError

    #: srun does not give a job's tasks the processors that sbatch was asked for unless it is told (since Slurm 22.05).
    _PROCESSORS = 'if [ -n "$SLURM_CPUS_PER_TASK" ]; then export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK; fi'

    class _Patient(submitit_launcher.BaseSubmititLauncher):
        """What both launchers do."""

        def submit(self, job_overrides: Sequence[Sequence[str]], first: int, **parameters: Any) -> list[Any]:
            """Submit a job for each list of overrides, all together.

            Args:
                job_overrides: of each job.
                first: number of the first one.
                parameters: of sbatch, beside those of the configuration.

            Returns:
                submitit's jobs.

            Raises:
                UserError: there is no Slurm, or it takes no such jobs.
            """
            import submitit

            assert self.config is not None
            params = dict(self.params)
            options = {"folder": params.pop("submitit_folder")}
            if "max_num_timeout" in params:
                options[f"{self._EXECUTOR}_max_num_timeout"] = params.pop("max_num_timeout")
            if "setup" in params:
                params["setup"] = [*(params["setup"] or ()), _PROCESSORS]
            if parameters:
                params["additional_parameters"] = {**(params.get("additional_parameters") or {}), **parameters}
            shared = {field.name for field in fields(config.BaseQueueConf)}
            if self._EXECUTOR == "slurm" and shutil.which("srun") is None:  # where submitit looks
                raise UserError("this machine has no Slurm (srun); start from the login node, or leave out cluster=")
            executor = submitit.AutoExecutor(cluster=self._EXECUTOR, **options)
            executor.update_parameters(
                **{name if name in shared else f"{self._EXECUTOR}_{name}": value for name, value in params.items()}
            )
            self._sweep.mkdir(parents=True, exist_ok=True)
            state = Singleton.get_state()
            calls = [
                (list(overrides), "hydra.sweep.dir", number, str(number), state)
                for number, overrides in enumerate(job_overrides, first)
            ]
            try:
                jobs: list[Any] = executor.map_array(self, *zip(*calls, strict=True))
            except submitit.core.utils.FailedJobError as error:
                said = [line.removeprefix("sbatch: error: ") for line in str(error).splitlines() if line.strip()]
                raise UserError(
                    f"sbatch refuses the jobs ({'; '.join(said)}); set hydra.launcher.partition, account, gres and the "
                    "others, in the file of cluster=, to what your site has"
                ) from error
            return jobs

        def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
            """Submit the jobs, and wait for all."""
            from glsmooth.commands.jobs import wait_for

            jobs = self.submit(job_overrides, initial_job_idx)
            typed = [filter_overrides(overrides) for overrides in job_overrides]
            results = wait_for(jobs, typed, self._sweep)
            shared = set.intersection(*map(set, typed)) if len(typed) > 1 else set()
            for overrides, result in zip(typed, results, strict=True):  # what a job prints is in its log
                if result.status == JobStatus.COMPLETED and result.hydra_cfg is not None:
                    name = " ".join(one for one in overrides if one not in shared)
                    print(f"{name}: {os.path.relpath(result.hydra_cfg.hydra.runtime.output_dir)}")
            return results

        @property
        def _sweep(self) -> Path:
            assert self.config is not None
            return Path(str(self.config.hydra.sweep.dir))

    class SlurmLauncher(_Patient, submitit_launcher.SlurmLauncher):
        """A Slurm job for each run."""

    class LocalLauncher(_Patient, submitit_launcher.LocalLauncher):
        """A process of this machine for each run, all at once."""
