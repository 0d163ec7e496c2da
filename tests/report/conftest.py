"""The finished run folders that these tests read, and their report."""

import pytest
from reports import report
from run_folders import run, study_folder

__all__ = ["run", "study_folder"]


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    return tmp_path_factory.mktemp("report")


@pytest.fixture(scope="session")
def study(study_folder, out):
    return report(study_folder, out)
