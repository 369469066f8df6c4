"""Stage 2: a deep learning recommendation model (DLRM; Naumov et al., arXiv:1906.00091, 2019), served as ONNX.

The bottom network makes a vector of the features, hashed ids have one each, every two of these vectors meet as an inner
product, and the top network makes of all that how far people go: the chance of each step along the chain given the one
before, so that the chances of whole ways are their products and no deeper step is likelier than a shallower one. Stage
1's score adds to each step's logit, so that what is learned here is what the trees do not know.

The first step's chance is served as stage 1's score alone tells it: what else is learned of it tells queries apart,
more than the products of one, which the trees order better. It is learned all the same, as the later steps, which few
take, are told by the same vectors.

People look at what stands higher: at the k-th in k^-η of the cases (Joachims, Swaminathan and Schnabel, WSDM 2017). So
while it learns, the chance of the first step is that much less, η being found as stage 1's score is calibrated. It
serves as if everything stood first.

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

_FARTHEST = 5.0  # standard deviations; what is farther is as far


class Network(nn.Module):
    """Features and ids to the chances of the steps, each of the whole way there: (B, F), (B, T) → (B, K)."""

    mean_F: Tensor
    scale_F: Tensor
    told_F: Tensor
    offsets_T: Tensor
    pairs_2: Tensor

    def __init__(self, features_PF: Tensor, steps: int, settings: DLRM) -> None:
        """Numbers are standardised as these features are; the last of them is stage 1's score.

        What is unknown or the same in all of them is unknown to the network for ever: it has not learned of it.
        """
        super().__init__()
        known_PF = np.ma.masked_invalid(features_PF.numpy().astype(np.float64))
        spread_F = known_PF.std(axis=0).filled(0.0)
        self.register_buffer("mean_F", torch.tensor(known_PF.mean(axis=0).filled(0.0), dtype=torch.float32))
        self.register_buffer("scale_F", torch.tensor(np.where(spread_F > 0, spread_F, 1.0), dtype=torch.float32))
        self.register_buffer("told_F", torch.from_numpy(spread_F > 0))
        width, vectors = settings.dimension, len(IDS) + 1
        self.embedding = nn.Embedding(len(IDS) * settings.buckets, width)
        nn.init.zeros_(self.embedding.weight)  # an id that nothing was learned of says nothing
        self.register_buffer("offsets_T", torch.arange(len(IDS)) * settings.buckets)
        self.register_buffer("pairs_2", torch.triu_indices(vectors, vectors, 1))
        self.bottom = _layers(2 * features_PF.shape[1], settings.bottom, width, settings.dropout)
        meetings = vectors * (vectors - 1) // 2
        self.top = _layers(width + meetings, settings.top, steps, settings.dropout)
        for weights in self.top[-1].parameters():
            nn.init.zeros_(weights)  # what it adds to stage 1 is nothing yet
        self.slope_K, self.level_K = nn.Parameter(torch.ones(steps)), nn.Parameter(torch.zeros(steps))
        self.eta_root = nn.Parameter(torch.tensor(0.7))  # η is its square, so that it is never negative

    def standardised(self, features_BF: Tensor) -> Tensor:
        """Each number in standard deviations from its mean; what is missing is the mean."""
        known_BF = torch.where(torch.isnan(features_BF), self.mean_F, features_BF)
        return ((known_BF - self.mean_F) / self.scale_F).clamp(-_FARTHEST, _FARTHEST)

    def of_stage_1(self, standard_BF: Tensor) -> Tensor:
        """The steps' logits by stage 1's score alone, (B, K)."""
        return standard_BF[:, -1:] * self.slope_K + self.level_K

    def logits(self, features_BF: Tensor, ids_BT: Tensor) -> Tensor:
        """Of each step given the one before: (B, K)."""
        standard_BF = self.standardised(features_BF)
        missing_BF = torch.isnan(features_BF) | ~self.told_F
        numbers_BD = self.bottom(torch.cat([standard_BF * self.told_F, missing_BF.float()], dim=1))
        named_BTD = self.embedding(ids_BT + self.offsets_T) * (ids_BT > 0)[:, :, None]
        vectors_BVD = torch.cat([numbers_BD[:, None], named_BTD], dim=1)
        products_BVV = vectors_BVD @ vectors_BVD.transpose(1, 2)
        first, second = self.pairs_2
        learned_BK: Tensor = self.top(torch.cat([numbers_BD, products_BVV[:, first, second]], dim=1))
        return self.of_stage_1(standard_BF) + learned_BK

    def served(self, features_BF: Tensor, ids_BT: Tensor) -> Tensor:
        """As `logits`, the first step's by stage 1's score alone."""
        first_BK = self.of_stage_1(self.standardised(features_BF))
        return torch.cat([first_BK[:, :1], self.logits(features_BF, ids_BT)[:, 1:]], dim=1)

    def forward(self, features_BF: Tensor, ids_BT: Tensor) -> Tensor:
        """The chances of a first place, (B, K)."""
        return logsigmoid(self.served(features_BF, ids_BT)).cumsum(dim=1).exp()

    def loss(self, logits_BK: Tensor, positions_B: Tensor, depths_B: Tensor) -> Tensor:
        """The cross-entropy of each step of those that came to it, a mean over all rows."""
        log_BK = logsigmoid(logits_BK)
        looked_B1 = -self.eta_root.square() * positions_B.clamp(min=1).log()[:, None]
        log_BK = torch.cat([log_BK[:, :1] + looked_B1, log_BK[:, 1:]], dim=1)
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
    held_P = torch.from_numpy(learned.folds(settings.folds) == 0)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        epochs = _best_epochs(rows, held_P, steps, settings)
        torch.manual_seed(seed)
        network = _calibrated(rows, steps, settings)
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


def _calibrated(rows: tuple[Tensor, ...], steps: int, settings: DLRM) -> Network:
    """A network that makes chances of stage 1's score and nothing else, as well as that can be done, and of η.

    These stay as they are while the rest learns: the first step's chance is theirs alone.
    """
    features_PF, _, positions_P, depths_P = rows
    network = Network(features_PF, steps, settings)
    standard_PF = network.standardised(features_PF)
    told = [network.slope_K, network.level_K, network.eta_root]
    optimizer = torch.optim.LBFGS(told, max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        found = network.loss(network.of_stage_1(standard_PF), positions_P, depths_P)
        found.backward()  # type: ignore[no-untyped-call]
        return found

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    for parameter in told:
        parameter.requires_grad_(False)
    return network


def _best_epochs(rows: tuple[Tensor, ...], held_P: Tensor, steps: int, settings: DLRM) -> int:
    """How many epochs on the rest give the least loss of what is held out; 0 where stage 1 is not improved upon."""
    kept, held = (tuple(column[which] for column in rows) for which in (~held_P, held_P))
    if not len(held[0]) or not len(kept[0]):
        return settings.patience
    network = _calibrated(kept, steps, settings)

    def loss() -> float:
        with torch.inference_mode():
            return float(network.eval().loss(network.served(*held[:2]), *held[2:]))

    best, lowest = 0, loss()
    for epoch, _ in enumerate(islice(_epochs(network, kept, settings), settings.epochs), 1):
        if (found := loss()) < lowest:
            best, lowest = epoch, found
        if epoch - best >= settings.patience:
            break
    return best


def _epochs(network: Network, rows: tuple[Tensor, ...], settings: DLRM) -> Iterator[None]:
    """Learn, epoch after epoch, for as long as it is asked to."""
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    while True:
        network.train()
        for some in torch.split(torch.randperm(len(rows[0])), settings.batch_size):
            features_BF, ids_BT, positions_B, depths_B = (column[some] for column in rows)
            hidden_BT = torch.rand(ids_BT.shape) < settings.unknown
            optimizer.zero_grad()
            logits_BK = network.logits(features_BF, ids_BT.masked_fill(hidden_BT, 0))
            network.loss(logits_BK, positions_B, depths_B).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        yield


def _layers(width: int, hidden: tuple[int, ...], out: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.ReLU(), nn.Dropout(dropout)]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, out))
