"""`tandem evaluate`: a bundle beside baselines on held-out data."""

from rec.cli.command import Answer
from rec.cli.data import read
from rec.config import EvaluationConfig, HomePath


class EvaluateOptions(EvaluationConfig):
    """Which model to evaluate, beside which baselines; the data are those it was trained on unless given."""

    home: HomePath
    version: str | None = None
    path: str | None = None


def run_evaluate(options: EvaluateOptions) -> Answer:
    """Prints and returns the metrics of the bundle and of each baseline."""
    from rec.bundle_evaluation import evaluate_bundle, trained_on

    data = trained_on(options.home, options.version)
    if options.path is not None:
        data = data.model_copy(update={"path": options.path})
    config = EvaluationConfig.model_validate(options.model_dump(exclude={"home", "version", "path"}))
    answer = evaluate_bundle(read(data), config, options.home, options.version)
    _print_metrics(answer)
    return answer


def _print_metrics(answer: Answer) -> None:
    from rec.metrics import format_difference, format_estimate
    from rec.source_report import source_table

    for model, metrics in answer["models"].items():
        told = "  ".join(f"{name} {format_estimate(metric)}" for name, metric in metrics.items())
        print(f"{model:<18} {told}")
    for note in answer["notes"]:
        print(note)
    for pair in answer["paired"]:
        print(f"{pair['a']} - {pair['b']}: {pair['metric']} {format_difference(pair)}")
    if (found := answer.get("calibration")) is not None:
        print(
            f"calibration of the ranker: expected error {found['expected_error']:.4f} ({found['by_chance']:.4f} by "
            f"chance), log loss {found['log_loss']:.4f}, {found['n']:,} answers"
        )
    if "exposure" in answer:
        _print_exposure(answer["exposure"])
    if "sources" in answer:
        print("\n".join(source_table(answer["sources"])))


def _print_exposure(exposure: Answer) -> None:
    print(f"exposure of {exposure['n_groups']} values of {exposure['column']}, {exposure['k']} items a list:")
    for name, shares in exposure["models"].items():
        largest = "  ".join(f"{group} {share:.1%}" for group, share in list(shares["largest"].items())[:3])
        items = f"  {shares['items_a_list']:.2f} items a list" if "items_a_list" in shares else ""
        print(f"{name:<18} gini {shares['gini']:.3f}  shown {shares['shown']:.0%}{items}  largest {largest}")
