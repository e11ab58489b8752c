"""DRR on MovieLens: agents, what stands beside them, and the table of both."""
