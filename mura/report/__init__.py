"""Verdicts in, words and pictures out.

Public: `write.write_report` and `write.console_table`; `publish.publish`, `publish.save_workspace` and
`publish.require_workspaces` for W&B.
"""
