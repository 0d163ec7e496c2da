"""What a study trains: `arms` says what an arm is, `grid` which runs there are, `plan` which are missing.

`space` says what a search for good settings varies, `search` what is tried and chosen, and `trials` runs it. `watch`
shows a study while it runs.
"""
