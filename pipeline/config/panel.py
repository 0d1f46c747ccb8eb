"""A panel: several scorers that steer the search together."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag, model_validator

from noisesmith.pipeline.config.models import ScorerConfig
from noisesmith.pipeline.config.section import Actors, ColumnName

ONLY = "scorer"  # the name of a scorer that is not in a list
FORMS = ("one scorer", "a list of scorers")  # how pydantic names the two forms of the section in an error's location


class MemberConfig(ScorerConfig):
    """One scorer of a panel."""

    name: ColumnName = Field(description="gives the columns score_NAME and score_NAME_initial their names")
    weight: float = Field(1.0, gt=0, description="the scorer's weight among those of the list")
    gradient: bool = Field(
        True, description="its gradient steers; false lets it count in the score alone, as a served model must"
    )
    shares: str | None = Field(
        None, description="name of the scorer whose actors hold this one too: one decoder pass serves both"
    )

    @model_validator(mode="after")
    def _shared_actors_have_one_place(self) -> MemberConfig:
        placed = []
        for name, field in Actors.model_fields.items():
            if getattr(self, name) != field.default:
                placed.append(name)
        if self.shares is not None and placed:
            raise ValueError(f"{placed[0]} is that of the actors that shares names, {self.shares!r}; remove it here")
        return self

    @property
    def section(self) -> str:
        return super().section if self.name == ONLY else f"{super().section}.{self.name}"


def _form(value: Any) -> str:
    return FORMS[1] if isinstance(value, list | tuple) else FORMS[0]


Scorers = Annotated[
    Annotated[ScorerConfig, Tag(FORMS[0])] | Annotated[tuple[MemberConfig, ...], Tag(FORMS[1])],
    Discriminator(_form),
]


def groups_of(scorers: ScorerConfig | tuple[MemberConfig, ...]) -> tuple[tuple[MemberConfig, ...], ...]:
    """The scorers by the actors that hold them, the one that places the actors first in each group.

    Those that share its actors have its place and batch size.
    """
    if isinstance(scorers, ScorerConfig):
        return ((MemberConfig(name=ONLY, **dict(scorers)),),)
    groups = []
    for leader in scorers:
        if leader.shares is None:
            place = {field: getattr(leader, field) for field in Actors.model_fields}
            sharing = [member.model_copy(update=place) for member in scorers if member.shares == leader.name]
            groups.append((leader, *sharing))
    return tuple(groups)


def check_members(scorers: ScorerConfig | tuple[MemberConfig, ...]) -> None:
    """Refuse a list whose names do not fit each other.

    Raises:
        ValueError: two scorers have one name, or one shares the actors of none.
    """
    if isinstance(scorers, ScorerConfig):
        return
    if not scorers:
        raise ValueError("scorers: the list is empty; name at least one scorer")
    names = [member.name for member in scorers]
    if len(set(names)) != len(names):
        raise ValueError("scorers: every scorer of the list needs its own name")
    with_actors = [member.name for member in scorers if member.shares is None]
    for member in scorers:
        if member.shares is not None and member.shares not in with_actors:
            raise ValueError(
                f"scorers.{member.name}.shares: {member.shares!r} is no scorer with actors of its own; "
                f"name one of {', '.join(with_actors) or 'them, and leave shares out there'}"
            )
