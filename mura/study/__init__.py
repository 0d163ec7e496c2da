"""What a study trains: its arms, its grid of runs, and what is missing of it."""
