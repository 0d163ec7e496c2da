"""The command line and the config: what is checked before anything starts. No other room knows Hydra and OmegaConf.

No torch here: `--help`, `--cfg job` and a mistyped option must answer at once. Public are

- command_line: hydra_arguments, resume_arguments, study_arguments, understood_settings, search_path
- help: help_page
- hydra_hooks: register_resolvers (and CheckBeforeRun, which conf/train.yaml names)
- start: claim_folder, fetch_weights, removed_if_refused, refuse_another_experiment, write_settings
- other_launchers: run_job, run_as_command, report_and_raise
- parts: make, make_each, make_schedule
- search: read_tuning, read_chosen, refuse_mixture, write_preset
- rules: check_config, check_values, check_launcher
- sentences: exit_with_sentence, explain_error
"""

from mura.processes import PROGRAM

CONF_DIR = PROGRAM / "conf"
