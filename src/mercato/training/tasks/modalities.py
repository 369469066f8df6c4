"""The modalities that gradient blending balances (Que2Search §3.6): single channels, or the channels of one field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from mercato.fields import channel_groups

TowerName = Literal["query", "product"]


class Modality(NamedTuple):
    """Channels of one tower that come and go together."""

    name: str
    tower: TowerName | Literal["both"]
    channels: tuple[str, ...]


MULTIMODAL = Modality("multimodal", "both", ())


def modalities(towers: Mapping[TowerName, tuple[str, ...]], by: Literal["channel", "group"]) -> list[Modality]:
    """Every modality of both towers, from their channels; a tower with a single one has none: alone it is the tower."""
    found = []
    for tower, channels in towers.items():
        groups: dict[str, tuple[str, ...]] = (
            {channel: (channel,) for channel in channels} if by == "channel" else channel_groups(channels)
        )
        if len(groups) > 1:
            found += [Modality(f"{tower}.{name}", tower, members) for name, members in groups.items()]
    return found
