from __future__ import annotations

from mercato.training.tasks.modalities import modalities


def test_modalities_are_channels_or_fields():
    channels = {"query": ("text", "trigrams", "country"), "product": ("title_text", "title_trigrams", "images")}
    assert [m.name for m in modalities(channels, "group")] == [
        "query.text", "query.country", "product.title", "product.images",
    ]  # fmt: skip
    assert len(modalities(channels, "channel")) == 6
    alone = {"query": ("text", "trigrams"), "product": ("title_text",)}
    assert modalities(alone, "group") == []
