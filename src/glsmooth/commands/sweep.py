"""The sweep command: trains what is missing, certifies each checkpoint, and reports all of them together.

It starts train and certify as a user would, here or as jobs of a cluster, and waits. What each of them does about
interruptions and finished runs is theirs: the same sweep again starts only what has no result.
"""

from __future__ import annotations

import shlex
import sys

from glsmooth.commands.entry import ending, environment, site_first, typed_or_help
from glsmooth.commands.jobs import failures, table_of_failures
from glsmooth.commands.plan import Plan, plan_of
from glsmooth.commands.steps import fail, run_here, run_on_cluster
from glsmooth.errors import UserError
from glsmooth.learning.stopping import stoppable
from glsmooth.runs.files import check_writable

__all__ = ["main"]

HELP = """\
Train, certify and report in one line: every combination of the values that are typed, and one report of all.

Usage: glsmooth sweep [group=choice,...] [key=value,...] ['region.NAME=[low,high],[low,high]']

Fields
  Those of train and of certify; commas make lists. What train has (transform, smoothing, dataset, model, loss,
  optimizer, trainer, experiment, seed) is trained for each combination, what certify has (monte_carlo, bound,
  dataset.subset, precision, ...) is certified for each. trainer.accelerator, trainer.devices, logger, limits, cluster
  and hydra.launcher go to both; train.KEY=VALUE and certify.KEY=VALUE to one of them: certify.seed=1.
  region        each checkpoint is certified in all regions by one set of votes; by default in that of its training.
                Balls: region.ball=10,20 'region.over=[tx,ty]'

Settings
  jobs          processes at once on this machine (1)
  shards        jobs that share the images of each certification (1)
  dry_run       true: print what would be done, and stop
  hydra.run.dir where the report goes; by default outputs/sweep/<id>. Trained networks and certifications lie in
                outputs/train and outputs/certify, where train and certify write them, too: the same sweep again, or a
                larger one, does only what is missing
  cluster       settings of your site, from --config-dir; or hydra/launcher=slurm: trainings become jobs, and each
                certification a job that begins when its training has ended well (afterok)

Examples
  glsmooth sweep experiment=demo smoothing.brightness.scale=0.3,0.6 seed=0,1,2
  glsmooth sweep transform=brightness smoothing.brightness.scale=0.1,0.2,0.4 'region.brightness=[-0.1,0.1],[-0.2,0.2]'
  glsmooth sweep --config-dir ~/site cluster=mysite experiment=imagenet/gamma,imagenet/contrast seed=0,1 shards=8
"""


def main() -> None:
    """Run the sweep that ``sys.argv`` describes."""
    arguments = typed_or_help(HELP)
    if arguments is None:
        return
    failures.clear()
    with ending("sweep"), environment(), site_first(), stoppable("; the same command goes on from here"):
        run(plan_of(arguments))


def run(plan: Plan) -> None:
    """Do what is missing, then report.

    Raises:
        UserError: a job failed; the others were done and reported before.
    """
    missing = [step for step in plan.steps if step.state != "finished"]
    _announce(plan)
    if plan.settings["dry_run"]:
        for step in plan.steps:
            print(f"{'done' if step.state == 'finished' else 'to do'}: {step.command} {shlex.join(step.overrides)}")
        return
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"hydra.run.dir={plan.folder}: cannot be made ({error.strerror}); choose another hydra.run.dir"
        ) from error
    check_writable(plan.folder)
    if missing:
        if plan.launcher.endswith(".BasicLauncher"):
            run_here(plan, missing)
        else:
            run_on_cluster(plan, missing)
    _report(plan)
    sys.stderr.write(table_of_failures())
    if failures:
        raise UserError(failures[0].reason)


def _announce(plan: Plan) -> None:
    for command, what in (("train", "Trainings"), ("certify", "Certifications")):
        every = [step for step in plan.steps if step.command == command]
        done = sum(step.state == "finished" for step in every)
        print(f"{what}: {len(every)}, done before: {done}", file=sys.stderr)
    if len(plan.regions) > 1:
        print(f"Regions: {len(plan.regions)}, decided by the same votes", file=sys.stderr)


def _report(plan: Plan) -> None:
    """sweep.json, and the report of what has a result.

    A run that was damaged since it ended counts as one without a result, and leaves the others.
    """
    try:
        _report_finished(plan)
    except UserError:
        if not _refuse_damaged(plan):
            raise
        _report_finished(plan)


def _report_finished(plan: Plan) -> None:
    from glsmooth.commands.report import report_sweep
    from glsmooth.runs.sweep import Sweep

    finished = [step for step in plan.certifications if step.state == "finished"]
    found = list(dict.fromkeys(step.directory for step in finished if step.directory is not None))
    sweep = Sweep(found, plan.regions, list(failures))
    sweep.write(plan.folder)
    if found:
        print(report_sweep(sweep, plan.folder, plan.transform_target, plan.law_targets), end="")
        print(f"\nReport: {plan.folder / 'report.html'}")


def _refuse_damaged(plan: Plan) -> bool:
    """Whether there are runs that cannot be read; they have no result then."""
    from glsmooth.runs.run import load_run

    damaged = False
    for step in plan.certifications:
        if step.state != "finished" or step.directory is None:
            continue
        try:
            load_run(step.directory, transform_target=plan.transform_target, law_targets=plan.law_targets)
        except UserError as error:
            damaged = True
            reason = str(error).strip().splitlines()[-1]
            fail(plan, step, "failed", f"{reason}; remove {step.directory}, and run the same sweep again", None)
    return damaged
