"""The finished run folders that these tests read."""

from run_folders import run, study_folder

__all__ = ["run", "study_folder"]
