"""The section `index`: by what the short codes of a collection are searched. Of `cnncodes index build` alone."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, RootModel

from pipeline.config.base import Section

Whole = Annotated[int, Field(ge=1)]


class ExactIndex(Section):
    """Every row is compared."""

    kind: Literal["exact"]


class MultiHashIndex(Section):
    """Hash tables over parts of the code."""

    kind: Literal["multihash"]
    tables: Whole = Field(4, description="hash tables, each over bits of its own")
    table_bits: Whole = Field(16, description="bits of a table's address; tables x table_bits up to the code's length")
    flips: int = Field(1, ge=0, description="bits by which an address that is opened may differ")


class IvfIndex(Section):
    """Inverted lists."""

    kind: Literal["ivf"]
    lists: Whole = Field(256, description="centres by k-means; fewer while the collection is small")
    probes: Whole = Field(16, description="lists that a query scans")


class HnswIndex(Section):
    """A navigable small-world graph."""

    kind: Literal["hnsw"]
    links: Whole = Field(16, description="of a row to others")
    build_width: Whole = Field(64, description="candidates while the graph is built")
    search_width: Whole = Field(64, description="candidates while it is searched")


AnyIndex = Annotated[ExactIndex | MultiHashIndex | IvfIndex | HnswIndex, Field(discriminator="kind")]


class IndexParams(RootModel[AnyIndex]):
    """Defaults of a kind's settings are here, since a preset has one kind alone; `index info` spells them out."""

    model_config = ConfigDict(strict=True, frozen=True)

    @property
    def kind(self) -> str:
        return self.root.kind

    @property
    def settings(self) -> dict[str, Any]:
        """As `pipeline.search.make` takes them."""
        return self.root.model_dump(exclude={"kind"})
