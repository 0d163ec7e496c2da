"""Many runs: as processes of this machine, or as jobs of a SLURM queue."""
