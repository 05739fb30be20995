"""What serves the workflow and the command line: the plan of jobs, their settings, the sources that they depend on, Slurm."""
