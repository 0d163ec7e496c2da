"""A report as it is written, and what the console shows of it."""

import io

from rich.console import Console

from mura.report.write import console_table, write_report


def report(folder, out, resamples=200):
    return write_report([folder], out, resamples)


def printed(study, width=120):
    console = Console(width=width, file=io.StringIO())
    console.print(console_table(study))
    return console.file.getvalue()
