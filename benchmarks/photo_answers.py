"""How much a frozen encoder tells about human questions beyond their words: a small classifier of DAQUAR's answers.

python -m benchmarks.photo_answers --daquar FOLDER
python -m benchmarks.photo_answers --daquar FOLDER --side 384 --grids 4 8 --seeds 5 --out reports/photos

It is the yardstick of a decoder that reads the same features: what a plain network gets from the same training
questions. The question is the sum of learned vectors of its words and pairs of words; the image is the mean over a
grid's cells of a learned layer; answers are those that occur twice in training. A tenth of the training photographs
chooses the epoch; the photographs that are asked are of the validation split and choose nothing. A right answer is the
whole answer. Intervals draw photographs, of the mean over seeds.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, cross_entropy

from analysis.shared.stats import Result, cluster_difference, cluster_mean
from benchmarks.photo_probes import encode_maps
from lare.data import Source
from lare.data.sample import Sample
from lare.progress import progress

__all__ = ["Questions", "Reader", "fit", "main"]

_WIDTH, _PARTS, _DROPOUT = 256, 256, 0.5
_BATCH, _RATE, _DECAY, _EPOCHS = 128, 2e-3, 0.01, 14
_HELD = 0.1  # of the training photographs, to choose the epoch


@dataclass(frozen=True)
class Questions:
    """Questions as numbers.

    Attributes:
        words: (N, L) numbers of words and of pairs of words; 0 pads.
        images: (N,) places of their photographs.
        answers: (N,) numbers of answers; -1 for one that is not among those learnt.
    """

    words: Tensor
    images: Tensor
    answers: Tensor


class Reader(nn.Module):
    """Scores of answers from a question and, with ``parts``, the photograph.

    Args:
        words: Numbers of words, the padding's among them.
        answers: Answers.
        parts: Width of the image's cells; 0 reads the words alone.
    """

    def __init__(self, words: int, answers: int, parts: int) -> None:
        super().__init__()
        self.words = nn.EmbeddingBag(words, _WIDTH, mode="sum", padding_idx=0)
        self.cells = nn.Linear(parts, _WIDTH) if parts else None
        self.answer = nn.Linear(_WIDTH, answers)
        self.dropout = nn.Dropout(_DROPOUT)

    def forward(self, words: Tensor, cells: Tensor) -> Tensor:
        """(B, answers) from (B, L) words and (B, cells, parts)."""
        state = torch.tanh(self.words(words))
        if self.cells is not None:
            state = state + torch.tanh(self.cells(cells)).mean(1)
        scores: Tensor = self.answer(self.dropout(state))
        return scores


def _tokens(sample: Sample) -> list[str]:
    words = re.findall(r"[a-z0-9]+", sample.question.split("\n")[0].lower())
    return words + [f"{left} {right}" for left, right in zip(words, words[1:], strict=False)]


def numbered(train: Sequence[Sample], asked: Sequence[Sample]) -> tuple[Questions, Questions, list[list[str]]]:
    """Both splits as numbers that the training questions give, and the names of their photographs."""
    counts = Counter(token for one in train for token in _tokens(one))
    known = {token: number for number, token in enumerate((t for t, n in counts.items() if n > 1), start=1)}
    often = [answer for answer, count in Counter(one.answer for one in train).items() if count > 1]
    answers = {answer: number for number, answer in enumerate(often)}
    made, names = [], []
    for samples in (train, asked):
        lists = [[known[token] for token in _tokens(one) if token in known] for one in samples]
        words = nn.utils.rnn.pad_sequence([torch.tensor(one or [0]) for one in lists], batch_first=True)
        images = sorted({str(one.image) for one in samples})
        place = {image: number for number, image in enumerate(images)}
        at = torch.tensor([place[str(one.image)] for one in samples])
        made.append(Questions(words, at, torch.tensor([answers.get(one.answer, -1) for one in samples])))
        names.append(images)
    return made[0], made[1], names


def parts_of(train: Tensor, asked: Tensor, grid: int) -> tuple[Tensor, Tensor]:
    """Principal parts (n, cells, parts) of both splits' maps (n, channels, h, w), by the training photographs."""
    flat = [adaptive_avg_pool2d(maps.float(), grid).flatten(2).transpose(1, 2) for maps in (train, asked)]
    mean, spread = flat[0].mean((0, 1)), flat[0].std((0, 1)).clamp_min(1e-6)
    first, second = ((cells - mean) / spread for cells in flat)
    rows = first.flatten(0, 1)
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    basis = vectors.flip(1)[:, : min(_PARTS, *rows.shape)] / values[-1].sqrt()  # the first part has unit spread
    return first @ basis, second @ basis


def fit(train: Questions, asked: Questions, cells: tuple[Tensor, Tensor], words: int, seed: int) -> tuple[Tensor, int]:
    """Train one network and ask it.

    Args:
        train: Training questions.
        asked: Questions to ask.
        cells: Both splits' (n, cells, parts); no parts: the words alone.
        words: Numbers of words.
        seed: Of its weights and of the photographs that choose the epoch.

    Returns:
        (N,) whether each asked question was answered right, and the chosen epoch.
    """
    torch.manual_seed(seed)
    count = int(train.images.max()) + 1
    held = torch.zeros(count, dtype=torch.bool)
    held[torch.randperm(count)[: max(1, round(_HELD * count))]] = True
    choosing = held[train.images].nonzero()[:, 0]
    learning = (~held[train.images] & (train.answers >= 0)).nonzero()[:, 0]
    model = Reader(words, int(train.answers.max()) + 1, cells[0].shape[-1])
    optimiser = torch.optim.AdamW(model.parameters(), _RATE, weight_decay=_DECAY)
    best, found, epoch = -1.0, torch.zeros(len(asked.answers), dtype=torch.bool), 0
    for number in range(_EPOCHS):
        model.train()
        for batch in learning[torch.randperm(len(learning))].split(_BATCH):
            loss = cross_entropy(model(train.words[batch], cells[0][train.images[batch]]), train.answers[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        right = float(_right(model, train, cells[0], choosing).float().mean())
        if right > best:
            best, epoch = right, number + 1
            found = _right(model, asked, cells[1], torch.arange(len(asked.answers)))
    return found, epoch


@torch.inference_mode()
def _right(model: Reader, questions: Questions, cells: Tensor, rows: Tensor) -> Tensor:
    model.eval()
    said = [model(questions.words[one], cells[questions.images[one]]).argmax(1) for one in rows.split(512)]
    return torch.cat(said) == questions.answers[rows]


def _told(result: Result) -> dict[str, float]:
    return {"mean": 100 * result.estimate, "low": 100 * result.low, "high": 100 * result.high}


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, ask, print a table, and write ``answers.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--daquar", type=Path, required=True, metavar="FOLDER", help="of daquar.jsonl and its images")
    parser.add_argument("--side", type=int, default=256, help="of the images in pixels (%(default)s)")
    parser.add_argument("--grids", type=int, nargs="+", default=[1, 4, 8], help="cells a side (%(default)s)")
    parser.add_argument("--seeds", type=int, default=5, help="networks of each kind (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reports/photos"), help="folder (%(default)s)")
    options = parser.parse_args(arguments)
    splits = [Source(options.daquar / "daquar.jsonl", "daquar", split=split) for split in ("train", "validation")]
    train, asked, names = numbered(*(list(one.samples()) for one in splits))
    maps = [encode_maps(one, images, options.side) for one, images in zip(splits, names, strict=True)]
    words = int(train.words.max()) + 1
    blank = tuple(torch.zeros(len(images), 1, 0) for images in names)
    kinds = {0: (blank[0], blank[1])} | {grid: parts_of(maps[0], maps[1], grid) for grid in options.grids}
    groups, rows, plain = asked.images.numpy(), [], np.zeros(0)
    for grid, cells in kinds.items():
        runs = [fit(train, asked, cells, words, seed) for seed in progress(range(options.seeds), desc=f"grid {grid}")]
        right = torch.stack([found for found, _ in runs]).double().mean(0).numpy()
        plain = plain if grid else right
        row = {"grid": grid, "n": len(right), "photographs": len(names[1]), "seeds": options.seeds}
        row |= {"side": options.side, "epochs": [epoch for _, epoch in runs]}
        row |= {"by_seed": [100 * float(found.double().mean()) for found, _ in runs]}
        row |= {"right": _told(cluster_mean(right, groups))}
        row |= {"more_than_words": _told(cluster_difference(right, plain, groups))} if grid else {}
        rows.append(row)
        about = f"{grid} x {grid} cells" if grid else "words alone"
        print(f"{about:<14}" + " ".join(f"{row['right'][key]:6.1f}" for key in ("mean", "low", "high")))
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "answers.json"
    path.write_text(json.dumps({"rows": rows, "torch": torch.__version__}, indent=1) + "\n", encoding="utf-8")
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
