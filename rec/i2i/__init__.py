"""Which items go together: neighbours of items, from who took both."""

from rec.i2i.cosine import INSTATOK_SCORES, CosineSums, action_scores, cosine
from rec.i2i.interests import interest_scores, is_interest, predicted_interests
from rec.i2i.neighbors import ItemNeighbors, neighbors_frame, neighbors_from_frame
from rec.i2i.swing import SwingSums, swing
from rec.i2i.weighted_score import weighted_score

__all__ = [
    "INSTATOK_SCORES",
    "CosineSums",
    "ItemNeighbors",
    "SwingSums",
    "action_scores",
    "cosine",
    "interest_scores",
    "is_interest",
    "neighbors_frame",
    "neighbors_from_frame",
    "predicted_interests",
    "swing",
    "weighted_score",
]
