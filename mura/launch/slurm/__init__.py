"""SLURM: runs as jobs of a queue, what such a job does on its machine, and a run over the tasks that srun started."""
