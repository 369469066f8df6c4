"""What pretraining left in a run: its towers with the cross encoder, as they were before the stages."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file

from mercato.features.featurizer import Featurizer
from mercato.models.build import build_pretraining_towers
from mercato.models.taobao import MARKS, PretrainingTowers
from mercato.runs.folder import WEIGHTS, load_recipe_and_featurizer, reading_run
from mercato.runs.torch_encoder import load_text_configs


def load_pretrained(folder: Path) -> tuple[PretrainingTowers, Featurizer]:
    """Load a folder of `mercato.training.pretrain`, in evaluation mode.

    Raises:
        MercatoError: the folder is none.
    """
    recipe, featurizer = load_recipe_and_featurizer(folder)
    with reading_run(folder / WEIGHTS):
        weights = load_file(str(folder / WEIGHTS))  # an encoder that is shared is there twice
    unread = len(weights[MARKS]) - len(featurizer.spec.product_channels)
    towers = build_pretraining_towers(recipe, featurizer.spec, load_text_configs(folder), new=False, unread=unread)
    towers.load_state_dict(weights)
    return towers.eval(), featurizer
