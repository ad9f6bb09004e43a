"""Takes the working directory off ``sys.path``, where ``python -m glsmooth.X`` puts it first.

Data lie there, perhaps a stranger's, and a torch.py among them would run. So the package imports this before everything
else. Nothing happens where Python runs another program, and where the package itself was found in that directory.
"""

import os
import sys


def _started_here() -> bool:
    """Is Python about to run a module of ours by ``-m``?"""
    if sys.argv[:1] != ["-m"] or sys.flags.safe_path:  # "-m" stands for the program until its module is found
        return False
    module = sys.orig_argv[-len(sys.argv)]
    if module.startswith("-"):  # -mglsmooth.X
        module = module.partition("m")[2]
    return module.partition(".")[0] == "glsmooth"


_WHERE = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
if _started_here() and sys.path[0] in ("", os.getcwd()) and os.path.realpath(_WHERE) != os.path.realpath(os.getcwd()):
    del sys.path[0]
