"""The configuration of serving: typed, frozen, and free of torch and Ray."""

from typing import Annotated, Final, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from rec.config import Config, Fraction, HomePath

BATCH_SIZE: Final = 16
CHAMPION: Final = "champion"
# What nobody but this machine reaches.
LOOPBACK: Final = ("127.0.0.1", "localhost")
Port = Annotated[int, Field(ge=0, le=65_535)]
HostName = Annotated[str, Field(pattern=r"^([0-9A-Za-z_.-]+|[0-9A-Fa-f:]+)$")]


class PolicyConfig(Config):
    """How a slate is drawn from the ranked candidates; rec.policy holds the formula.

    `epsilon` is the share of positions filled uniformly from everything eligible, `temperature` that of the softmax, in
    units of the ranker's scores. With both at 0 the best are shown in order, and nothing is learned about the others.
    """

    epsilon: Annotated[float, Field(ge=0, le=1)] = 0.02
    temperature: NonNegativeFloat = 0.1


class LogConfig(Config):
    """What is kept of answers and feedback, and how safely.

    `spool` is the folder in which it waits for the tables, by default `spool` below a home on the local disk; gateways
    on several machines need one that all of them see. `candidate_share` of the requests, drawn at random, are logged
    with their candidates; only these can judge other policies. What is logged is in the tables about `commit_s` later.
    An answer reaches the disk within `sync_s`, with 0 before it is sent; feedback always before it is acknowledged.
    Above `max_spool_bytes` feedback gets a 503, and `when_full` says whether requests do, too, or are answered without
    being logged. An idempotency key is remembered for at least `idempotency_s`; above `max_key_bytes` of them, or where
    the disk takes none, `when_full` says whether requests with a new one get a 503, or are answered as if without.
    """

    enabled: bool = True
    spool: str | None = None
    candidate_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    commit_s: Annotated[float, Field(gt=0, le=10)] = 2.0
    sync_s: NonNegativeFloat = 1.0
    max_spool_bytes: PositiveInt = 2**30
    when_full: Literal["answer", "refuse"] = "answer"
    idempotency_s: PositiveInt = 3_600
    max_key_bytes: PositiveInt = 2**30


class ArmConfig(Config):
    """Users who are answered otherwise than the others: by a version of their own, a policy of their own, or both.

    `share` is that of the users, by a hash of their ids. Without a version the arm has that of all others, without a
    policy theirs.
    """

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]
    share: Fraction
    version: str | None = None
    policy: PolicyConfig | None = None


class SessionsConfig(Config):
    """What is remembered of users between a request and the next, from feedback.

    `url` names a Redis, such as `redis://localhost:6379/0`; without one a process of the cluster remembers, until it
    ends. Kept are the latest `max_acts` acts of each user until `expire_s` after the last of them; the process keeps
    `max_users` users. A request that has waited `timeout_s` for them is answered without.
    """

    enabled: bool = True
    url: str | None = None
    max_acts: PositiveInt = 200
    max_users: PositiveInt = 50_000
    expire_s: PositiveInt = 86_400
    timeout_s: PositiveFloat = 0.2


class ServeConfig(Config):
    """What is served, where, and by how many processes.

    `home` and `version` name the bundle, the CURRENT one unless a version is given. Layout `single` runs all stages in
    every replica of the gateway, `distributed` gives each stage deployments of its own. `replicas` counts gateways,
    `stage_replicas` the copies of each stage of its own; `replica_cpus` is what each of them reserves. `port` 0 takes a
    free one. `rewards` names the actions that feedback may have and what each is worth, by default those the bundle was
    trained with; where it was with none, any action is taken. A client that takes longer than `body_timeout_s` to send
    its request is let go. `seed` makes the draws of a single replica reproducible, for tests.

    With `agent` the bundle's session agent chooses among the candidates that the context of each request names
    (docs/agents.md), in the place of retriever and ranker.

    Without a `version` the service looks every `watch_s` whether CURRENT names another, and changes to it. `arms` are
    the challengers of an experiment, and the rest of the users are the champion's; another name of the `experiment`
    divides the users anew.

    A service on loopback answers as localhost, 127.0.0.1 and what `hosts` names: the name by which a proxy in
    front is asked, where it passes that on. A service on another address answers by any name, unless there are some.

    `keys` says whether an API key is needed: `auto`, when there is any in the home, or `host` is not loopback, or
    Serve's own tools are not told it. A key may make `requests_per_s` on average and `burst` at once; whoever needs
    none shares them with all others. A gateway answers `max_ongoing_requests` at a time, up to `batch_size` of
    those that wait together in one pass of the stages (1: each by itself), and refuses what comes beside them; so
    it does with a recommendation that takes longer than `deadline_s`. A ranker that takes longer than
    `rank_timeout_s`, or than half of what is left of that, is done without. With `log_level` info every request is
    a line of the processes' log.
    """

    home: HomePath
    version: str | None = None
    host: str = "127.0.0.1"
    port: Port = 8000
    hosts: tuple[HostName, ...] = ()
    layout: Literal["single", "distributed"] = "single"
    replicas: PositiveInt = 1
    stage_replicas: PositiveInt = 1
    replica_cpus: NonNegativeFloat = 0.2
    max_ongoing_requests: PositiveInt = 256
    batch_size: PositiveInt = BATCH_SIZE
    max_body_bytes: PositiveInt = 262_144
    body_timeout_s: PositiveFloat = 5.0
    deadline_s: PositiveFloat = 5.0
    rank_timeout_s: PositiveFloat = 1.0
    keys: Literal["auto", "required", "off"] = "auto"
    requests_per_s: PositiveFloat | None = None
    burst: PositiveInt = 100
    log_level: Literal["info", "warning", "error"] = "warning"
    policy: PolicyConfig = PolicyConfig()
    agent: bool = False
    log: LogConfig = LogConfig()
    sessions: SessionsConfig = SessionsConfig()
    rewards: dict[str, Annotated[float, Field(ge=-1e9, le=1e9)]] = Field(default_factory=dict)
    watch_s: PositiveFloat = 1.0
    arms: tuple[ArmConfig, ...] = ()
    experiment: str = ""
    seed: NonNegativeInt | None = None

    def versions(self, current: str) -> list[str]:
        """The versions that answer, each once, while `current` is that of all who have none of their own."""
        return list(dict.fromkeys([current, *(arm.version for arm in self.arms if arm.version is not None)]))

    @field_validator("host")
    @classmethod
    def _host_of_ipv4(cls, host: str) -> str:
        if ":" in host:
            raise ValueError(
                "host must be a name, or an address of IPv4, which HAProxy and the gateways speak among each other; "
                f"found {host!r}"
            )
        return host

    @model_validator(mode="after")
    def _one_stream_of_draws(self) -> Self:
        selectors = self.replicas if self.layout == "single" else self.stage_replicas
        if self.seed is not None and selectors > 1:
            raise ValueError(f"seed needs a single replica, or all {selectors} draw the same slates; leave seed out")
        return self

    @model_validator(mode="after")
    def _arms_of_some_users(self) -> Self:
        names = [arm.name for arm in self.arms]
        if CHAMPION in names or len(set(names)) < len(names):
            raise ValueError(f"arms need names of their own, and none is {CHAMPION!r}; found {', '.join(names)}")
        if sum(arm.share for arm in self.arms) >= 1:
            raise ValueError(f"the shares of arms must leave users to the {CHAMPION}: below 1 together is required")
        return self

    @model_validator(mode="after")
    def _agents_show_what_they_value_most(self) -> Self:
        policies = [self.policy, *(arm.policy for arm in self.arms if arm.policy is not None)]
        if self.agent and any(policy.temperature > 0 for policy in policies):
            raise ValueError("agent needs policy.temperature 0: it shows what it values most, or explores by epsilon")
        if self.agent and self.layout != "single":
            raise ValueError("agent needs the layout single")
        return self
