"""SLURM: runs as jobs of a queue, what such a job does on its machine, and a run over the tasks that srun started.

Public are

- queue: run_jobs (with the contract of mura.launch.jobs), Resources, minutes_of, require_slurm, read_queue
- srun: check_tasks, task_arguments, cluster_environment
- task: run_task, which the job calls
"""
