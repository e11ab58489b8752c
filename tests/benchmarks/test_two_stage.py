"""Parts of the MovieLens two-stage benchmark whose mistakes would not show in its table."""

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks" / "quality"


@pytest.fixture(autouse=True)
def _importable(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] == "two_stage"]:
        del sys.modules[name]


def test_the_exact_loss_has_the_gradient_of_the_two_stage_policy():
    """Against all 5^3 slates: slate_size times the loss is minus pi(a) / p(a) to first order, pi the policy's value."""
    from two_stage.exact import exact_two_stage_ips

    n_items, slate_size = 5, 3
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(1, n_items, generator=generator).requires_grad_()
    ranker_logits = 3 * torch.randn(1, n_items, generator=generator)
    action = torch.tensor([2])
    loss = exact_two_stage_ips(
        logits, action, torch.tensor([0.3]), ranker_logits, slate_size=slate_size, slate_temperature=1.0, alpha=1.0
    )
    (found,) = torch.autograd.grad(loss, logits)

    p = logits.double().softmax(dim=1)[0]
    strength = ranker_logits.double()[0].exp()
    slates = torch.tensor(list(itertools.product(range(n_items), repeat=slate_size)))
    shown = (strength[slates] * (slates == action)).sum(dim=1) / strength[slates].sum(dim=1)
    value = (p[slates].prod(dim=1) * shown).sum()
    (gradient,) = torch.autograd.grad(value, logits)
    expected = -gradient / (slate_size * p[action].detach())
    torch.testing.assert_close(found, expected.float(), rtol=3e-3, atol=3e-4)


def test_the_simulator_says_the_same_of_pairs_and_of_whole_rows():
    from two_stage.models import Generator, Ranker, Simulator
    from two_stage.movielens import MovieLens

    rng = np.random.default_rng(0)
    data = MovieLens(
        user_codes=rng.integers(0, 3, (6, 4)),
        year_code=rng.integers(0, 3, 5),
        genres=rng.random((5, 18), dtype=np.float32),
        user=np.arange(6),
        item=np.arange(6) % 5,
        liked=np.ones(6, bool),
        time=np.linspace(0, 1, 6),
    )
    user, item = (torch.from_numpy(part.ravel()) for part in np.indices((6, 5)))
    time = torch.rand(6, 5)
    everyone = torch.arange(6)
    simulator, ranker, policy = Simulator(data), Ranker(data), Generator(data)
    with torch.no_grad():
        torch.testing.assert_close(simulator(everyone, time), simulator.pairs(user, item, time.ravel()).view(6, 5))
        at = time[:, 0]
        torch.testing.assert_close(ranker(everyone, at), ranker.pairs(user, item, at.repeat_interleave(5)).view(6, 5))
        torch.testing.assert_close(policy(everyone), policy.pairs(user, item).view(6, 5))


def test_the_standard_error_of_a_crossed_mean_covers_both_factors():
    """Its square is the variance of the mean over many tables, within 5%; the plain one is a quarter of it."""
    from two_stage.summary import crossed_mean

    rng = np.random.default_rng(0)
    n_tables, n_seeds, n_logs = 4000, 5, 4
    tables = rng.normal(0, 1, (n_tables, n_seeds, 1)) + rng.normal(0, 2, (n_tables, 1, n_logs))
    tables = tables + rng.normal(0, 1, (n_tables, n_seeds, n_logs))
    means, errors = np.array([crossed_mean(table) for table in tables]).T
    assert (errors**2).mean() == pytest.approx(means.var(), rel=0.05)
    plain = tables.reshape(n_tables, -1).var(axis=1, ddof=1).mean() / (n_seeds * n_logs)
    assert plain < means.var() / 3
    assert crossed_mean(np.ones((1, 1))) == (1.0, None)
    assert crossed_mean(np.array([[1.0, 3.0]])) == (2.0, pytest.approx(1.0))


def test_lists_leave_out_clicks_and_are_reranked():
    from two_stage.evaluation import Judge

    n_items = 40
    relevant = torch.zeros(1, n_items, dtype=torch.bool)
    relevant[0, 20:] = True
    clicked = torch.zeros_like(relevant)
    clicked[0, 30:] = True
    by_place = torch.arange(n_items).float()[None]
    judge = Judge(torch.tensor([0]), relevant, clicked, ranker_logits=-by_place)
    assert judge.one_stage(by_place)["precision@10"] == 1.0, "29 down to 20, as 39 to 30 were clicked"
    assert judge.one_stage(by_place)["recall@10"] == 0.5
    assert judge.two_stage(by_place)["precision@10"] == 0.0, "the ranker puts 0 to 9 first, out of 0 to 29"
    long = torch.arange(n_items - 1, -1, -1)[None]
    assert judge.unclicked_of(long, 3).tolist() == [[29, 28, 27]]


def test_runs_survive_a_line_cut_short(tmp_path):
    from two_stage.runs import UNKNOWN_COMMIT, Runs, commits

    runs = Runs(tmp_path / "runs.jsonl")
    runs.git_sha = "earlier"
    runs.append({"settings": {"seed": 0}, "rows": 1})
    with runs.path.open("a") as file:
        file.write('\n{"settings": {"seed": 3}, "rows": 4}\n{"settings": {"seed": 1}, "ro')
    runs.append({"settings": {"seed": 2}, "rows": 3})
    runs.git_sha = "later"
    runs.append({"settings": {"seed": 4}, "rows": 5})
    assert runs.find({"seed": 0}) == {"settings": {"seed": 0}, "rows": 1, "git_sha": "earlier"}
    assert runs.find({"seed": 1}) is None
    assert runs.find({"seed": 2}) == {"settings": {"seed": 2}, "rows": 3, "git_sha": "earlier"}
    # One was written before runs said so.
    assert commits(runs) == {"earlier": 2, UNKNOWN_COMMIT: 1, "later": 1}


def test_auc_counts_pairs():
    from two_stage.fitting import auc

    scores, liked = np.array([3.0, 1.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False, False])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[liked] for b in scores[~liked]]
    assert auc(scores, liked) == pytest.approx(np.mean(pairs))
