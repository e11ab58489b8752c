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
    monkeypatch.syspath_prepend(str(BENCHMARKS.parent))
    yield
    for name in [name for name in sys.modules if name.split(".")[0] in ("two_stage", "two_stage_delicious", "results")]:
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
    means, errors, _ = np.array([crossed_mean(table) for table in tables]).T
    assert (errors**2).mean() == pytest.approx(means.var(), rel=0.05)
    plain = tables.reshape(n_tables, -1).var(axis=1, ddof=1).mean() / (n_seeds * n_logs)
    assert plain < means.var() / 3
    assert crossed_mean(np.ones((1, 1))) == (1.0, None, None)
    assert crossed_mean(np.array([[1.0, 3.0]])) == (2.0, pytest.approx(1.0), 1.0)


@pytest.mark.parametrize(("by_seed", "by_log"), [(0.0, 2.0), (1.0, 1.0), (0.3, 0.3), (0.0, 0.0)])
def test_p_values_of_few_logs_are_as_rare_as_they_say(by_seed, by_log):
    """Of 4,000 tables of 5 seeds and 3 logs around 0; two standard errors are passed far more often than 4.6%."""
    from two_stage.summary import crossed_mean

    rng = np.random.default_rng(0)
    n_tables, n_seeds, n_logs = 4000, 5, 3
    tables = rng.normal(0, 1, (n_tables, n_seeds, n_logs))
    tables += by_seed * rng.normal(0, 1, (n_tables, n_seeds, 1)) + by_log * rng.normal(0, 1, (n_tables, 1, n_logs))
    found = [crossed_mean(table) for table in tables]
    three_errors = 3 * np.sqrt(0.05 * 0.95 / n_tables)
    assert np.mean([one.p_value < 0.05 for one in found]) < 0.05 + three_errors
    assert np.mean([one.p_value < 0.001 for one in found]) <= 0.001
    if by_log == 2.0:
        assert np.mean([abs(one.mean) > 2 * one.std_error for one in found]) > 0.12


def test_a_verdict_says_the_side_and_no_p_value_where_the_error_is_hardly_known():
    from two_stage.report import verdict
    from two_stage.summary import CrossedMean

    assert verdict(CrossedMean(-0.168, 0.058, 2.0)) == "below; 2.0 df, p 0.101"
    assert verdict(CrossedMean(0.168, 0.058, 0.8)) == "above; too few logs for p"
    assert verdict(CrossedMean(-0.1, 0.058, 0.8)) == "within two standard errors; too few logs for p"
    assert verdict(CrossedMean(0.1, None, None)) == "one run"


def test_degrees_of_freedom_are_those_of_the_factor_that_varies():
    """Where only logs differ, the mean over seeds is a plain sample of logs, and so is its t test."""
    from scipy import stats
    from two_stage.summary import crossed_mean

    logs = np.array([1.0, 4.0, 2.0, 7.0])
    found = crossed_mean(np.tile(logs, (5, 1)))
    assert found.df == pytest.approx(3)
    assert found.std_error == pytest.approx(stats.sem(logs))
    assert found.p_value == pytest.approx(stats.ttest_1samp(logs, 0).pvalue)
    assert crossed_mean(np.zeros((3, 3))).p_value == 1.0


def _table(gains: dict[str, float], logging_policy: float, noise: float = 0.01):
    """Of 3 seeds and 3 logs, precision@1 of ce 0.5 and of the others by so much more; all in both stages."""
    from two_stage.report import Table

    rng = np.random.default_rng(0)
    runs = [
        {"settings": {"objective": objective, "seed": seed, "log": log}}
        | {"rows": {stage: {"precision@1": 0.5 + gain + noise * rng.normal()} for stage in ("one-stage", "two-stage")}}
        for objective, gain in gains.items()
        for seed in range(3)
        for log in range(3)
    ]
    rows = {"logging policy": {"precision@1": logging_policy}, "most clicked": {"precision@1": 0.4}}
    bounds = {log: {"rows": rows, "log": {"right": 0.3}} for log in range(3)}
    return Table.of(
        reversed(runs), bounds, objectives=list(gains), seeds=[0, 1, 2], logs=[0, 1, 2], metrics=["precision@1"]
    )


def test_differences_are_paired_by_seed_and_log():
    from two_stage.report import differences
    from two_stage.summary import crossed_mean

    table = _table({"ce": 0.0, "1-ips": 0.1}, 0.5)
    found = {row["a"]: row for row in differences(table, ["precision@1"])}
    cells = {
        (objective, seed, log): run["rows"]["two-stage"]["precision@1"]
        for (objective, seed, log), run in table.runs.items()
    }
    expected = crossed_mean(
        np.array([[cells["1-ips", seed, log] - cells["ce", seed, log] for log in range(3)] for seed in range(3)])
    )
    row = found["two-stage 1-ips"]
    assert row["b"] == "two-stage ce"
    assert (row["difference"], row["std_error"], row["df"], row["p_value"]) == (*expected, expected.p_value)


def test_the_reading_says_what_the_table_says():
    from two_stage.reading import gap_lines, order_lines

    table = _table({"ce": 0.0, "1-ips": -0.1, "2-ips": 0.1}, 0.45)
    lines = order_lines(table, "precision@1")
    assert [line.split(": ")[0] for line in lines if line.startswith("two-stage")] == [
        "two-stage 2-ips > 1-ips holds",
        "two-stage 1-ips > ce is reversed",
    ]
    (unclear, *_) = order_lines(_table({"ce": 0.0, "2-ips": 0.0}, 0.45), "precision@1")
    assert unclear.startswith("one-stage 2-ips > ce is not shown")
    assert gap_lines(table, "precision@1")[0] == "logging policy - most clicked: +5.00"


def test_a_good_log_is_the_cause_only_where_weights_gain_more_with_a_worse_one():
    from two_stage.reading import policies, policy_lines

    good = _table({"ce": 0.0, "1-ips": 0.0, "2-ips": 0.0}, 0.6)
    gaining = _table({"ce": 0.0, "1-ips": 0.1, "2-ips": 0.2}, 0.42, noise=0.02)
    for tables, reading in (({1000: good, 100: gaining}, "supported"), ({1000: gaining, 100: good}, "not shown")):
        lines = policy_lines(tables, "precision@1")[-2:]
        for stage, line in zip(("one-stage", "two-stage"), lines, strict=True):
            assert f"nothing to gain, {stage}: {reading}" in line
    assert policy_lines({1000: good}, "precision@1")[-1].endswith("is open")
    weak, strong = policies({1000: good, 100: gaining}, "precision@1")
    assert (weak["policy_points"], strong["policy_points"]) == (100, 1000)
    for stage in ("one-stage", "two-stage"):
        assert weak["gains"][stage]["difference"] > strong["gains"][stage]["difference"] + 0.1


def test_each_stage_has_a_reading_of_its_own():
    from two_stage.reading import policy_lines

    good, gaining = (_table({"ce": 0.0, "1-ips": 0.0, "2-ips": gain}, 0.5) for gain in (0.0, 0.2))
    for objective in ("ce", "2-ips"):
        gaining.values[objective, "two-stage", "precision@1"][:] = good.values[objective, "two-stage", "precision@1"]
    one, two = policy_lines({1000: good, 100: gaining}, "precision@1")[-2:]
    assert "one-stage: supported" in one and "two-stage: not shown" in two


def test_the_oracle_fills_its_candidates_with_what_the_ranker_puts_last():
    from two_stage_delicious import oracle_scores

    relevant = torch.tensor([[True, False, True, False, False, False]])
    ranker_logits = torch.tensor([[1.0, 9.0, 2.0, -3.0, 5.0, -4.0]])
    assert oracle_scores(relevant, ranker_logits).argsort(dim=1, descending=True).tolist() == [[2, 0, 5, 3, 4, 1]]


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


def test_a_simulator_that_does_not_come_to_the_auc_is_refused(tmp_path, monkeypatch):
    from two_stage import simulation
    from two_stage.movielens import MovieLens

    from rec.errors import TrainingError

    rng, n = np.random.default_rng(0), 400
    data = MovieLens(
        user_codes=rng.integers(0, 3, (6, 4)),
        year_code=rng.integers(0, 3, 5),
        genres=rng.random((5, 18), dtype=np.float32),
        user=rng.integers(0, 6, n),
        item=rng.integers(0, 5, n),
        liked=rng.random(n) < 0.5,
        time=np.linspace(0, 1, n),
    )
    monkeypatch.setattr(simulation, "STEPS_PER_CHECK", 1)
    monkeypatch.setattr(simulation, "STOP_AUC", 1.0)
    with pytest.raises(TrainingError, match="in 4 epochs its validation AUC came to 0"):
        simulation.own_simulator(data, 0, tmp_path)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(simulation, "STOP_AUC", 0.0)
    simulation.own_simulator(data, 0, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["simulator-0.safetensors"]


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


def test_runs_finished_before_a_choice_are_of_its_default(tmp_path):
    from two_stage.runs import Runs

    path = tmp_path / "runs.jsonl"
    Runs(path).append({"settings": {"seed": 0}})
    runs = Runs(path, {"policy_points": 1000})
    runs.append({"settings": {"seed": 1, "policy_points": 100}})
    assert runs.find({"seed": 0, "policy_points": 1000}) is not None
    assert runs.find({"seed": 0, "policy_points": 100}) is None
    assert runs.find({"seed": 1, "policy_points": 100}) is not None


def test_auc_counts_pairs():
    from two_stage.fitting import auc

    scores, liked = np.array([3.0, 1.0, 1.0, 2.0, 0.0]), np.array([True, True, False, False, False])
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[liked] for b in scores[~liked]]
    assert auc(scores, liked) == pytest.approx(np.mean(pairs))


def test_one_vector_of_weights_takes_the_steps_of_torch():
    from two_stage.fitting import LEARNING_RATE, Adagrad

    def model() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Embedding(9, 4), torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)
        )

    ours, theirs = model(), model()
    mine = Adagrad(ours, weight_decay=1e-2)
    torchs = torch.optim.Adagrad(theirs.parameters(), lr=LEARNING_RATE, weight_decay=1e-2, foreach=True)
    for step in range(20):
        rows = torch.tensor([step % 9, 3])
        mine.step(ours(rows).square().sum())
        torchs.zero_grad()
        theirs(rows).square().sum().backward()
        torchs.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)
