"""`tandem recommend` and `tandem candidates`: what a bundle finds for one user, and for many."""

from pydantic import PositiveInt

from rec.cli.command import Answer
from rec.config import BatchConfig, Config, HomePath
from rec.errors import ConfigError


class RecommendOptions(Config):
    """Whom to recommend how many items."""

    user_id: str
    n: PositiveInt = 10
    home: HomePath
    version: str | None = None


class CandidatesOptions(BatchConfig):
    """For whom candidates are found, and where their table goes: a folder or an object-store URL.

    By default for all users of the bundle; `user_ids` names some, and `users_file` is a text file with one id a line.
    """

    out: str
    user_ids: tuple[str, ...] = ()
    users_file: str | None = None
    home: HomePath
    version: str | None = None


def run_recommend(options: RecommendOptions) -> Answer:
    """Prints and returns one user's items."""
    import rec

    answer = rec.load(options.home, options.version).recommend(options.user_id, options.n)
    known = "" if answer.user_known else " (never seen; answered from what is popular)"
    print(f"user {options.user_id}{known}, model {answer.version}")
    print(f"{'':>3}  {'score':>8}  {'item':>8}  title")
    for item in answer.items:
        print(f"{item.position + 1:>3}  {item.score:8.3f}  {item.item_id:>8}  {item.title or ''}")
    return answer.to_json()


def run_candidates(options: CandidatesOptions) -> Answer:
    """Writes the table of candidates."""
    from rec.batch import write_candidates
    from rec.data.id_lists import read_ids

    if options.user_ids and options.users_file is not None:
        raise ConfigError("names users, and so does user_ids: give one of them", field="users_file")
    listed = options.user_ids or None
    if options.users_file is not None:
        listed = read_ids(options.users_file)
    config = BatchConfig.model_validate(options.model_dump(include=set(BatchConfig.model_fields)))
    answer = write_candidates(
        config,
        options.out,
        home=options.home,
        version=options.version,
        user_ids=listed,
        listed_in=options.users_file,
    )
    print(
        f"{answer['n_rows']:,} candidates of {answer['n_users']:,} users in {answer['out']}, model {answer['version']}"
    )
    return answer
