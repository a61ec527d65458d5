"""Which interpreter trains: the agent's own, or that of another environment, which then needs nothing of BlockFL's.

A foreign interpreter finds its own packages first. The agent's environment stands behind them, for BlockFL itself and
for the few packages that it needs, if both are the same version of Python; otherwise BlockFL alone does, and pydantic,
numpy and rfc8785 must be there. Only pydantic, with what it is made of, is the agent's own where versions are the same.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import blockfl

TRAINER: Final = "blockfl.institution.trainer"
_PASSED_ON: Final = (
    "OMP_NUM_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "KERAS_BACKEND",
    "LD_LIBRARY_PATH",
)
_GPU: Final = ("CUDA_VISIBLE_DEVICES", "CUDA_DEVICE_ORDER", "TF_FORCE_GPU_ALLOW_GROWTH", "PYTORCH_CUDA_ALLOC_CONF")
_BEGIN: Final = f"""
import runpy, sys
version, own, packages = sys.argv[2:5]
del sys.argv[2:]
behind = packages.split(":") if version == "%d.%d" % sys.version_info[:2] else []
sys.path[:0] = behind  # older copies of what pydantic is made of would not do
import pydantic, rfc8785
del sys.path[: len(behind)]
sys.path += own.split(":") + behind
runpy.run_module("{TRAINER}", run_name="__main__", alter_sys=True)
"""


def make_command(python: Path | None, agent: int) -> tuple[str, ...]:
    """Return what starts the training process.

    Args:
        python: The interpreter of another environment; None: the agent's own.
        agent: The agent's process id.
    """
    if python is None:
        return (sys.executable, "-P", "-B", "-m", TRAINER, str(agent))
    # Not resolved: an environment's interpreter is a link, and knows by its own place where its packages are.
    program = os.path.abspath(python)  # noqa: PTH100 - keeps the link
    own = [str(Path(place).parent) for place in blockfl.__path__]
    packages = [place for place in sys.path if place.endswith("-packages")]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return (program, "-P", "-B", "-c", _BEGIN, str(agent), version, ":".join(own), ":".join(packages))


def make_environment(scratch: Path, environment: Mapping[str, str], *, gpu: bool = False) -> dict[str, str]:
    """Return the training process's whole environment: nothing of the agent's but the number of threads.

    Args:
        scratch: Its home and temporary directory.
        environment: The agent's.
        gpu: Whether it may use GPUs: those that ``CUDA_VISIBLE_DEVICES`` of the agent names, or all.
    """
    home = str(scratch)
    passed_on = _PASSED_ON + (_GPU if gpu else ())
    made = {
        "PATH": "/usr/local/bin:/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "HOME": home,
        "TMPDIR": home,
        "KERAS_HOME": home,
        "MPLCONFIGDIR": home,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONHASHSEED": "0",
        "PYTHONUNBUFFERED": "1",
    } | {name: environment[name] for name in passed_on if name in environment}
    if gpu and "CUDA_VISIBLE_DEVICES" not in environment:
        del made["CUDA_VISIBLE_DEVICES"]
    return made
