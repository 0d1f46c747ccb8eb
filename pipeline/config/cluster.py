"""Which cluster a run uses, what writes there, and which of its faults the run tolerates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from noisesmith.pipeline.config.section import Section


class RayConfig(Section):
    """Which Ray cluster to use."""

    address: str | None = Field(None, description="auto, HOST:PORT, ray://…; absent starts a local cluster")
    metrics_port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="Prometheus port of a local cluster, on 127.0.0.1; absent takes a free one",
    )
    elastic: bool = Field(
        False,
        description="start with the actors that find a place, at least one of each side; the others wait for nodes "
        "that join the cluster",
    )

    @model_validator(mode="after")
    def _own_clusters_do_not_grow(self) -> RayConfig:
        if self.elastic and self.address is None:
            raise ValueError("elastic: needs ray.address, since only a cluster that you start can grow")
        return self


class PlacementConfig(Section):
    """How the GPUs and cores that the config's actors take together are shared between the sides."""

    mode: Literal["fixed", "auto"] = Field(
        "fixed",
        description="fixed: as many actors as each count says. auto: as many as keep all sides busy, within what the "
        "counts take together; moved while the run works",
    )
    calibration: str | None = Field(
        None,
        min_length=1,
        description="file of noisesmith plan --calibrate, for auto; when absent, the one next to the config, else the "
        "models' operations decide at the start",
    )
    rebalance_seconds: float = Field(
        120.0,
        gt=0,
        le=86400,
        description="for how long one side must be idle and another one busy before auto moves workers",
    )


def _mode_alone(value: object) -> object:
    return {"mode": value} if isinstance(value, str) else value


PlacementField = Annotated[PlacementConfig, BeforeValidator(_mode_alone)]  # placement: auto is short for mode: auto


class WritersConfig(Section):
    """The actors that write finished rows and the files of shards."""

    count: int = Field(1, ge=1, le=256)
    num_cpus: float | None = Field(
        None, ge=0, description="CPU cores per actor; when absent, one where there are several, none where there is one"
    )

    @property
    def cores(self) -> float:
        """CPU cores that Ray reserves for each of them."""
        if self.num_cpus is None:
            return 0.0 if self.count == 1 else 1.0
        return self.num_cpus


class FaultsConfig(Section):
    """How many faults a run tolerates before it drops a row, or stops."""

    retries: int = Field(2, ge=0, le=100, description="attempts after the first before a row is a dead letter")
    backoff_seconds: float = Field(
        1.0,
        ge=0,
        le=3600,
        description="wait before a row's first retry; doubles with each retry, up to a minute or to this if it is more",
    )
    failed_share: float = Field(
        0.5, gt=0, le=1, description="the run stops when more than this share of its rows, at least 20, have failed"
    )
    grace_seconds: float = Field(
        25.0,
        ge=0,
        le=86400,
        description="how long rows in flight may go on after SIGTERM (a Spot machine gives 30 s or more)",
    )
    placement_seconds: float = Field(
        1800.0, gt=0, description="how long generators or scorers may have no loaded actor before the run stops"
    )
