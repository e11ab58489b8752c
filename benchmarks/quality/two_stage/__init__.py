"""The experiment of Ma et al. (2020) on MovieLens-1M: world, log, ranker, generators and their evaluation.

Source: Off-policy Learning in Two-stage Recommender Systems, doi:10.1145/3366423.3380130.
"""
