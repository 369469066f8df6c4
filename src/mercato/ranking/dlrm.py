"""Stage 2: a deep learning recommendation model (DLRM; Naumov et al., arXiv:1906.00091, 2019), served as ONNX.

The bottom network makes a vector of the features, hashed ids have one each, every two of these vectors meet as an inner
product, and the top network makes of all that how far people go: the chance of each step along the chain given the one
before, so that the chances of whole ways are their products and no deeper step is likelier than a shallower one.

People look at what stands higher: at the k-th in k^-η of the cases (Joachims, Swaminathan and Schnabel, WSDM 2017). So
while it learns, the chance of the first step is that much less, with η learned too. It serves as if everything stood
first.

Shapes: P rows of lists, B of a batch, F features, T tables of ids, V = T + 1 vectors, D their dimension, K steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from mercato.config.ranking import DLRM
from mercato.progress import track
from mercato.ranking.dataset import RankingSet
from mercato.ranking.features import IDS, NAMES
from mercato.ranking.ranker import buckets
from mercato.runs.export import onnx_bytes

_FEWEST = 20  # clicks at a position that say how likely one there is
_FARTHEST = 5.0  # standard deviations; what is farther is as far


class Network(nn.Module):
    """Features and ids to the chances of the steps, each of the whole way there: (B, F), (B, T) → (B, K)."""

    mean_F: Tensor
    scale_F: Tensor
    offsets_T: Tensor
    pairs_2: Tensor

    def __init__(self, features_PF: Tensor, rates_K: NDArray[np.float64], eta: float, settings: DLRM) -> None:
        """Numbers are standardised as these features are; each step begins at its rate, and η where it is given."""
        super().__init__()
        known_PF = np.ma.masked_invalid(features_PF.numpy().astype(np.float64))
        spread_F = known_PF.std(axis=0).filled(0.0)
        self.register_buffer("mean_F", torch.tensor(known_PF.mean(axis=0).filled(0.0), dtype=torch.float32))
        self.register_buffer("scale_F", torch.tensor(np.where(spread_F > 0, spread_F, 1.0), dtype=torch.float32))
        width, vectors = settings.dimension, len(IDS) + 1
        self.embedding = nn.Embedding(len(IDS) * settings.buckets, width)
        nn.init.zeros_(self.embedding.weight)  # an id that nothing was learned of says nothing
        self.register_buffer("offsets_T", torch.arange(len(IDS)) * settings.buckets)
        self.register_buffer("pairs_2", torch.triu_indices(vectors, vectors, 1))
        self.bottom = _layers(2 * features_PF.shape[1], settings.bottom, width, settings.dropout)
        meetings = vectors * (vectors - 1) // 2
        self.top = _layers(width + meetings, settings.top, len(rates_K), settings.dropout)
        self.examined = nn.Parameter(torch.tensor(eta))  # η is its absolute value
        with torch.no_grad():
            last = self.top[-1]
            assert isinstance(last, nn.Linear)
            last.weight.mul_(0.1)
            last.bias.copy_(torch.logit(torch.tensor(rates_K, dtype=torch.float32), eps=1e-3))

    def logits(self, features_BF: Tensor, ids_BT: Tensor) -> Tensor:
        """Of each step given the one before: (B, K)."""
        missing_BF = torch.isnan(features_BF)
        known_BF = torch.where(missing_BF, self.mean_F, features_BF)
        standard_BF = ((known_BF - self.mean_F) / self.scale_F).clamp(-_FARTHEST, _FARTHEST)
        numbers_BD = self.bottom(torch.cat([standard_BF, missing_BF.float()], dim=1))
        named_BTD = self.embedding(ids_BT + self.offsets_T) * (ids_BT > 0)[:, :, None]
        vectors_BVD = torch.cat([numbers_BD[:, None], named_BTD], dim=1)
        products_BVV = vectors_BVD @ vectors_BVD.transpose(1, 2)
        first, second = self.pairs_2
        logits_BK: Tensor = self.top(torch.cat([numbers_BD, products_BVV[:, first, second]], dim=1))
        return logits_BK

    def forward(self, features_BF: Tensor, ids_BT: Tensor) -> Tensor:
        """The chances of a first place, (B, K)."""
        return logsigmoid(self.logits(features_BF, ids_BT)).cumsum(dim=1).exp()

    def loss(self, features_BF: Tensor, ids_BT: Tensor, positions_B: Tensor, depths_B: Tensor) -> Tensor:
        """The cross-entropy of each step of those that came to it, a mean over all rows."""
        log_BK = logsigmoid(self.logits(features_BF, ids_BT))
        looked_B = -self.examined.abs() * positions_B.clamp(min=1).log()
        log_BK = torch.cat([log_BK[:, :1] + looked_B[:, None], log_BK[:, 1:]], dim=1)
        steps_K = torch.arange(log_BK.shape[1])
        taken_BK, came_BK = depths_B[:, None] > steps_K, depths_B[:, None] >= steps_K
        log_not_BK = torch.log(-torch.expm1(log_BK.clamp(max=-1e-6)))
        return -(torch.where(taken_BK, log_BK, log_not_BK) * came_BK).sum() / len(depths_B)


def fit(learned: RankingSet, scores_P: NDArray[np.float32], steps: int, settings: DLRM, seed: int) -> Network:
    """Learn how far people go, of lists and of stage 1's scores, of trees that have not seen the list.

    How many epochs serve best is tried on the queries of one fold; then it learns from all of them.
    """
    outcomes = map(torch.from_numpy, (learned.positions_P, learned.grades_P))
    rows = (*inputs(learned, scores_P, settings), *outcomes)
    depths_PK = learned.grades_P[:, None] >= np.arange(steps + 1)
    counts = depths_PK.sum(axis=0)
    rates_K = counts[1:] / np.maximum(1, counts[:-1])
    eta = _decay(learned)
    held_P = torch.from_numpy(learned.folds(settings.folds) == 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        epochs = _best_epochs(rows, held_P, Network(rows[0], rates_K, eta, settings), settings)
        torch.manual_seed(seed)
        network = Network(rows[0], rates_K, eta, settings)
        for _ in track(islice(_epochs(network, rows, settings), epochs), "dlrm, epochs", total=epochs):
            pass
    return network.eval()


def inputs(learned: RankingSet, scores_P: NDArray[np.float32], settings: DLRM) -> tuple[Tensor, Tensor]:
    """What the network reads of rows and stage 1's scores of them: float32 (P, F) and int64 (P, T)."""
    features_PF = np.concatenate([learned.features_PF, scores_P[:, None]], axis=1)
    return torch.from_numpy(features_PF), torch.from_numpy(buckets(learned.ids_PT, settings.buckets))


def to_onnx(network: Network) -> bytes:
    """The network as ONNX: `features` float32 (H, F), `ids` int64 (H, T) → `chances` float32 (H, K)."""
    batch = torch.export.Dim.DYNAMIC
    shapes = {"features": torch.zeros(2, len(NAMES) + 1), "ids": torch.zeros(2, len(IDS), dtype=torch.int64)}
    return onnx_bytes(network, shapes, ({0: batch}, {0: batch}), output="chances")


def _decay(learned: RankingSet) -> float:
    """η as it seems while products are thought alike at every position: the slope of log CTR over log position."""
    shown_K = np.bincount(learned.positions_P)[1:]
    clicks_K = np.bincount(learned.positions_P, learned.grades_P >= 1)[1:]
    told_K = clicks_K >= _FEWEST
    if told_K.sum() < 2:
        return 0.0
    log_position_k = np.log(np.flatnonzero(told_K) + 1)
    log_rate_k, weight_k = np.log(clicks_K[told_K] / shown_K[told_K]), np.sqrt(clicks_K[told_K])
    return max(0.0, -float(np.polyfit(log_position_k, log_rate_k, 1, w=weight_k)[0]))


def _best_epochs(rows: tuple[Tensor, ...], held_P: Tensor, network: Network, settings: DLRM) -> int:
    kept, held = (tuple(column[which] for column in rows) for which in (~held_P, held_P))
    if not len(held[0]) or not len(kept[0]):
        return settings.patience
    best, lowest = 1, np.inf
    for epoch, _ in enumerate(_epochs(network, kept, settings), 1):
        with torch.inference_mode():
            loss = float(network.eval().loss(*held))
        if loss < lowest:
            best, lowest = epoch, loss
        if epoch - best >= settings.patience or epoch == settings.epochs:
            break
    return best


def _epochs(network: Network, rows: tuple[Tensor, ...], settings: DLRM) -> Iterator[None]:
    """Learn, epoch after epoch, for as long as it is asked to."""
    others = [weights for name, weights in network.named_parameters() if name != "examined"]
    groups = [
        {"params": others, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
        {"params": [network.examined], "lr": settings.position_learning_rate, "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups)
    while True:
        network.train()
        for some in torch.split(torch.randperm(len(rows[0])), settings.batch_size):
            features_BF, ids_BT, positions_B, depths_B = (column[some] for column in rows)
            hidden_BT = torch.rand(ids_BT.shape) < settings.unknown
            optimizer.zero_grad()
            loss = network.loss(features_BF, ids_BT.masked_fill(hidden_BT, 0), positions_B, depths_B)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield


def _layers(width: int, hidden: tuple[int, ...], out: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, out))
