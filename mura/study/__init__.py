"""What a study trains: `arms` says what an arm is, `grid` which runs there are, `plan` which are missing.

`watch` shows a study while it runs.
"""
