"""What Ray reads from the environment when it is imported. Every module that imports ray imports this one before."""

from __future__ import annotations

import os

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a trial with gpus_per_trial=0 sees no GPU
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Tune would swallow the first Ctrl-C even after its run has ended
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
for _variable, _value in QUIET.items():
    os.environ.setdefault(_variable, _value)
if "RAY_ADDRESS" not in os.environ:  # a private cluster
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")  # otherwise Ray writes a readable token into the home folder
    # Whatever _node_ip_address says, Ray listens on every interface of a Linux machine, except with this.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
