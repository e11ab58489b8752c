"""Rows of the log tables, one of each kind."""


def request(request_id="r1", **values):
    row = {
        "request_id": request_id,
        "timestamp": 1000,
        "user_id": "u1",
        "policy_version": "v1",
        "arm": "champion",
        "epsilon": 0.1,
        "temperature": 1.0,
        "k": 2,
        "degraded": False,
        "context": "{}",
        "history": ["a", "b"],
        "candidates": ["a", "b", "c"],
        "candidate_scores": [0.5, 0.25, 0.0],
        "candidate_sources": ["two_tower", "i2i", "i2i"],
    }
    return {**row, **values}


def impression(request_id="r1", position=0, item_id="a", **values):
    row = {"request_id": request_id, "position": position, "item_id": item_id, "source": "two_tower"}
    return {**row, "propensity": 0.5, "n_eligible": 3, **values}


def feedback(event_id="e1", request_id="r1", item_id="a", action="watched", timestamp=2000, **values):
    row = {"event_id": event_id, "request_id": request_id, "item_id": item_id, "action": action}
    return {**row, "timestamp": timestamp, "received_at": timestamp + 5, **values}


ROWS = {"requests": request(), "impressions": impression(), "feedback": feedback()}
