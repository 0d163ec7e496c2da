"""Many runs: as processes of this machine, or as jobs of a SLURM queue. Public are

- jobs: Job, Outcome, JobListener, run_jobs
- placement: place_runs
- processes: start_server (and forking_context, run_script, for tests that start a run of their own)
- slurm: see there
"""
