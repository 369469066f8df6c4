"""No file of a run folder executes code: what is planted in its place is refused by whatever loads it.

Checkpoints of an interrupted run are `tests/training/test_train.py`'s.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from mercato.errors import MercatoError
from mercato.manifest import MANIFEST
from mercato.ranking.ranker import CARD, STATISTICS, Ranker
from mercato.ranking.ranker import FOLDER as RANKING
from mercato.ranking.statistics import Statistics
from mercato.runs.folder import IDS, QUERIES, load_query_head, load_retrieval
from mercato.runs.image_vectors import encoded_vectors
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.runs.pretrained import load_pretrained
from mercato.runs.torch_encoder import TorchEncoder

pytestmark = pytest.mark.chaos


class Planted:
    """Leaves a file behind where it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path):
    """What planted code would make."""
    mark = tmp_path / "executed"
    yield mark
    assert not mark.exists()


@pytest.fixture
def run(tiny_run, tmp_path):
    """A run without checksums, which would refuse whatever is planted before it is loaded."""
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / MANIFEST).unlink()
    return run


def encode(run):
    encoder = OnnxEncoder(run)
    encoder.encode_queries(["sofa"])
    encoder.encode_products([{"title": "Sofa"}])


def load_everything(run):
    """What any loader of a run says, each by itself."""
    for load in (encode, TorchEncoder.load, load_query_head, load_retrieval, Ranker.of_run, load_pretrained):
        try:
            load(run)
        except MercatoError as error:
            yield str(error)
        except KeyError:  # of `load_pretrained`: the weights are no pretraining's
            assert load is load_pretrained


def test_a_planted_pickle_would_execute(tmp_path):
    pickle.loads(pickle.dumps(Planted(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()


def test_a_pickle_in_place_of_any_file_is_named_and_not_executed(run, mark):
    (run / QUERIES).touch()
    files = [file for file in run.iterdir() if file.suffix in (".toml", ".json", ".onnx", ".safetensors")]
    assert len(files) >= 10
    for file in files:
        content = file.read_bytes()
        file.write_bytes(pickle.dumps(Planted(mark)))
        read_by_none = file.name == "metrics.json"
        assert read_by_none or any(str(file) in told for told in load_everything(run)), file
        file.write_bytes(content)


def test_known_ids_are_no_pickle(run, mark):
    (run / IDS).write_bytes(pickle.dumps(Planted(mark)))
    spec = json.loads((run / "features.json").read_text())
    (run / "features.json").write_text(json.dumps(spec | {"product_channels": [*spec["product_channels"], "ids"]}))
    assert all(str(run / IDS) in told for told in [*load_everything(run)][:2])


def test_arrays_of_objects_are_not_unpickled(run, mark, tiny_market, tmp_path):
    (run / RANKING).mkdir()
    (run / RANKING / CARD).write_text("{}")
    statistics = run / RANKING / STATISTICS
    np.savez(statistics, products_keys=np.array([Planted(mark)], object))
    with pytest.raises(ValueError, match="allow_pickle"):
        Statistics.load(statistics)
    market = type(tiny_market)(shutil.copytree(tiny_market.path, tmp_path / "market"), tiny_market.config)
    for earlier in (market.path / ".cache").glob("image-vectors-*.npz"):
        earlier.unlink()
    before = encoded_vectors(market, run, 1)
    (cached,) = (market.path / ".cache").glob("image-vectors-*.npz")
    np.savez(cached, vectors=np.array([Planted(mark)], object), counts=np.array([Planted(mark)], object))
    after = encoded_vectors(market, run, 1)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("place", ["../secret", "/etc/hostname"])
def test_an_onnx_model_reads_no_file_outside_its_folder(run, place):
    (run.parent / "secret").write_bytes(bytes(64))
    weights = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    weights.external_data.add(key="location", value=place)
    weights.external_data.add(key="length", value="16")
    told = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "vectors")]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["vectors"])], "g", told[:1], told[1:], [weights])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    for name in ("query_tower.onnx", "product_tower.onnx", "image_encoder.onnx"):
        whole = (run / name).read_bytes()
        (run / name).write_bytes(model.SerializeToString())
        with pytest.raises(MercatoError, match=rf"{name} cannot be read: .*[Ee]xternal data"):
            encode(run)
        (run / name).write_bytes(whole)
    encode(run)


def test_a_text_encoders_configuration_brings_no_code(run, mark):
    """Transformers imports modules that a configuration names, where it is allowed to."""
    (run / "planted.py").write_text(f"import pathlib\npathlib.Path({str(mark)!r}).touch()\nclass Config: pass\n")
    named = {"model_type": "planted", "auto_map": {"AutoConfig": "planted.Config"}}
    (run / "query_text.json").write_text(json.dumps(named))
    with pytest.raises(MercatoError, match=r"query_text\.json cannot be read"):
        TorchEncoder.load(run)


def test_a_recipe_is_data(run, mark):
    """TOML has no tags that make objects, as YAML has."""
    (run / "recipe.toml").write_text(f"name = !!python/object/apply:pathlib.Path.touch [{mark}]")
    assert [*load_everything(run)]
