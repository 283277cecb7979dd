"""What Ray reads from the environment while it is imported; this file never imports it."""

from __future__ import annotations

import logging
import os

EVERYWHERE = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no telemetry
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # workers use this environment, not a copy of it
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # relative paths mean the same in a trial as outside
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_task_oom_retries": "2",  # Ray's default is to repeat for ever what does not fit in memory
    # A process that died is told of in the result of its piece; Ray says so on stdout as well.
    "RAY_DEDUP_LOGS_SKIP_REGEX": "worker died or was killed|retries remaining",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune's newer reporter prints even when told to be silent
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # five files per trial that nobody reads
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C belongs to the command line
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # they are handed on, not printed
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",  # records are the checkpoint of a study
}
LOCAL = {
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # binds every socket to loopback
    "RAY_AUTH_MODE": "disabled",  # so it needs no token, and writes none to the home folder
    # glibc has 8 arenas per processor; on two, the threads of a worker take them all. A trial's new
    # thread then gets another one each time, and leaves there what it has freed.
    "MALLOC_ARENA_MAX": "256",
}
LOUD = ("ray.tune", "ray.air", "ray.data", "ray.train")


def prepare(*, local: bool) -> None:
    """Set what Ray shall find in the environment; what the user has set stays.

    Args:
        local: Whether a Ray of our own is started, rather than one joined that others set up.
    """
    for name, value in (EVERYWHERE | LOCAL if local else EVERYWHERE).items():
        os.environ.setdefault(name, value)
    for logger in LOUD:
        logging.getLogger(logger).setLevel(logging.CRITICAL)
