"""The methods against each other: the studies' grids, and the table of what they gave."""
