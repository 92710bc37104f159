"""Which questions about photographs need fine visual tokens: linear probes of the frozen encoder at grids 1, 2, 4, 8.

python -m benchmarks.photo_probes --animals FOLDER --captions FOLDER
python -m benchmarks.photo_probes --animals FOLDER --captions FOLDER --sides 256 384 --images 1000 --out reports/photos

The encoder's last map is averaged over cells to each grid, and a ridge classifier reads the answer from all cells of
one grid: 4 folds by image, several shuffles, the ridge chosen inside the training folds. Looking again can only pay
where a finer grid adds something. Only the train split is read. A family is asked in the one wording in which the image
alone gives the answer (of two animals: about the left one). Presence is the mean over things of the balanced accuracy.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.kernel_ridge import KernelRidge
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import KFold
from sklearn.preprocessing import KernelCenterer
from torch.nn.functional import adaptive_avg_pool2d

from lare.backbones.encoders import load_encoder
from lare.backbones.published import EFFICIENTNET
from lare.data import Source
from lare.data.sample import Sample
from lare.errors import LareError
from lare.images import load_image
from lare.progress import progress

GRIDS = (1, 2, 4, 8)
FAMILIES = ("which", "side", "how_many", "head", "faces", "head_of_two", "faces_of_two", "larger")
_FOLDS, _BATCH, _LEAST = 4, 16, 60
_RIDGES = (0.1, 1.0, 10.0, 100.0)  # of a Gram matrix whose mean diagonal is 1
_THINGS = 8


def labels_of_animals(samples: Sequence[Sample]) -> dict[str, dict[str, str]]:
    """Answers by family and image."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for one in samples:
        if one.family not in FAMILIES or ("_of_two" in one.family and " left " not in one.question.split("\n")[0]):
            continue
        answer = one.answer
        if one.family == "larger":
            if answer.split()[0] not in ("left", "right"):
                continue
            answer = answer.split()[0]
        if one.image in found[one.family]:  # two lone animals: the image alone does not say which is meant
            found[one.family][str(one.image)] = ""
        else:
            found[one.family][str(one.image)] = answer
    return {family: {image: answer for image, answer in told.items() if answer} for family, told in found.items()}


def labels_of_captions(samples: Sequence[Sample]) -> dict[str, dict[str, str]]:
    """Yes or no by thing and image, of the things asked about most."""
    found: dict[str, dict[str, str]] = defaultdict(dict)
    for one in samples:
        if one.family.startswith("presence"):
            found[one.question.split("\n")[0]][str(one.image)] = one.answer
    often = sorted(found, key=lambda thing: -min(Counter(found[thing].values()).get(a, 0) for a in ("yes", "no")))
    return {thing: found[thing] for thing in often[:_THINGS]}


def chosen_images(labels: Mapping[str, Mapping[str, str]], most: int) -> list[str]:
    """Images in turn from each family, the rarest first, so that each family has its share."""
    order = sorted(labels, key=lambda family: len(labels[family]))
    queues = [sorted(labels[family]) for family in order]
    kept: dict[str, None] = {}
    for at in range(max(map(len, queues), default=0)):
        for queue in queues:
            if at < len(queue) and len(kept) < most:
                kept.setdefault(queue[at])
    return list(kept)


@torch.inference_mode()
def encode_maps(source: Source, images: Sequence[str], side: int) -> torch.Tensor:
    """The frozen encoder's last maps (n, channels, h, w) of images, in half precision.

    Raises:
        LareError: If the encoder gives no map.
    """
    encoder = load_encoder(EFFICIENTNET, {"image_size": side})
    pictures, maps = source.pictures(), list[torch.Tensor]()
    encoder.model.eval()
    for start in progress(range(0, len(images), _BATCH), desc=f"encoding at {side} pixels"):
        batch = [load_image(pictures.read(name)) for name in images[start : start + _BATCH]]
        pixels = encoder.processor(batch, return_tensors="pt")["pixel_values"]
        maps.append(encoder.model(pixels).last_hidden_state.half())
    found = torch.cat(maps)
    if found.dim() != 4:
        raise LareError("the encoder gives no map")
    return found


def grams(source: Source, images: Sequence[str], side: int) -> dict[int, np.ndarray]:
    """The Gram matrix (n, n) of the encoder's features of images at each grid; its mean diagonal is 1."""
    features = encode_maps(source, images, side).float()
    spread = features.std((0, 2, 3), keepdim=True).clamp_min(1e-6)
    features = (features - features.mean((0, 2, 3), keepdim=True)) / spread
    found = {}
    for grid in GRIDS:
        flat = adaptive_avg_pool2d(features, grid).flatten(1)
        gram = (flat @ flat.T).double().numpy()
        found[grid] = gram / gram.diagonal().mean()
    return found


def probe(gram: np.ndarray, answers: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Held-out answers of a ridge classifier, 4 folds.

    Args:
        gram: (n, n).
        answers: n.
        seed: Of the folds.

    Returns:
        (n,) answers and (n,) what was said, as numbers.
    """
    names, truth = np.unique(np.array(answers), return_inverse=True)
    wanted = np.eye(len(names))[truth]
    said = np.zeros(len(truth), dtype=int)
    folds = [test for _, test in KFold(_FOLDS, shuffle=True, random_state=seed).split(truth)]
    for number, test in enumerate(folds):
        inner = folds[(number + 1) % _FOLDS]
        rest = np.concatenate([fold for at, fold in enumerate(folds) if at not in (number, (number + 1) % _FOLDS)])
        right = {ridge: (_fit(gram, wanted, rest, inner, ridge) == truth[inner]).mean() for ridge in _RIDGES}
        best = max(_RIDGES, key=lambda ridge: right[ridge])
        said[test] = _fit(gram, wanted, np.concatenate((rest, inner)), test, best)
    return truth, said


def _fit(gram: np.ndarray, wanted: np.ndarray, train: np.ndarray, test: np.ndarray, ridge: float) -> np.ndarray:
    centre = KernelCenterer()
    inside = centre.fit_transform(gram[np.ix_(train, train)])
    mean = wanted[train].mean(0)
    model = KernelRidge(alpha=ridge, kernel="precomputed").fit(inside, wanted[train] - mean)
    scores: np.ndarray = model.predict(centre.transform(gram[np.ix_(test, train)])) + mean
    return scores.argmax(1)


def _measured(
    labels: Mapping[str, Mapping[str, str]], images: Sequence[str], gram: Mapping[int, np.ndarray], seeds: int
) -> Iterator[tuple[str, int, float, dict[int, list[float]]]]:
    """Family, number of images, majority and right answers by grid and seed."""
    place = {image: number for number, image in enumerate(images)}
    for family, told in labels.items():
        known = [image for image in told if image in place]
        answers, at = [told[image] for image in known], [place[image] for image in known]
        counts = Counter(answers)
        if len(known) < _LEAST or len(counts) < 2:
            continue
        majority = max(counts.values()) / len(known)
        presence = set(counts) == {"yes", "no"}
        right: dict[int, list[float]] = {}
        for grid, whole in gram.items():
            pairs = [probe(whole[np.ix_(at, at)], answers, seed) for seed in range(seeds)]
            score = balanced_accuracy_score if presence else lambda truth, said: (truth == said).mean()
            right[grid] = [float(score(*pair)) for pair in pairs]
        yield family, len(known), 0.5 if presence else majority, right


def _rows(side: int, measured: Sequence[tuple[str, int, float, dict[int, list[float]]]]) -> list[dict[str, Any]]:
    rows = []
    for family, count, majority, right in measured:
        folded = {str(grid): float(np.mean(values)) for grid, values in right.items()}
        spread = {str(grid): float(np.std(values)) for grid, values in right.items()}
        rows.append({"side": side, "family": family, "n": count, "majority": majority, "right": folded, "sd": spread})
    return rows


def _mean_presence(side: int, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    grids = [str(grid) for grid in GRIDS]
    right = {grid: float(np.mean([row["right"][grid] for row in rows])) for grid in grids}
    spread = {grid: float(np.mean([row["sd"][grid] for row in rows])) for grid in grids}
    asked = sum(row["n"] for row in rows)
    return {"side": side, "family": "presence", "n": asked, "majority": 0.5, "right": right, "sd": spread}


def main(arguments: Sequence[str] | None = None) -> int:
    """Probe, print a table, and write ``probes.json``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--animals", type=Path, metavar="FOLDER", help="of animals.jsonl and its images")
    parser.add_argument("--captions", type=Path, metavar="FOLDER", help="of captions.jsonl and its images")
    parser.add_argument("--sides", type=int, nargs="+", default=[256], help="of the images in pixels (%(default)s)")
    parser.add_argument("--images", type=int, default=1000, help="most images a source (%(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="shuffles of the folds (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reports/photos"), help="folder (%(default)s)")
    options = parser.parse_args(arguments)
    rows: list[dict[str, Any]] = []
    for name, labels_of in (("animals", labels_of_animals), ("captions", labels_of_captions)):
        folder = getattr(options, name)
        if folder is None:
            continue
        source = Source(folder / f"{name}.jsonl", name, split="train")
        labels = labels_of(list(source.samples()))
        images = chosen_images(labels, options.images)
        for side in options.sides:
            found = _rows(side, list(_measured(labels, images, grams(source, images, side), options.seeds)))
            rows += [_mean_presence(side, found)] if name == "captions" and found else found
    if not rows:
        raise LareError("there is nothing to probe; name a folder with --animals or --captions")
    options.out.mkdir(parents=True, exist_ok=True)
    content = {"encoder": EFFICIENTNET, "seeds": options.seeds, "folds": _FOLDS, "rows": rows}
    (options.out / "probes.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    print(f"{'side':>5} {'family':<14}{'n':>6}{'majority':>10}" + "".join(f"{f'{g} x {g}':>9}" for g in GRIDS))
    for row in rows:
        shares = "".join(f"{100 * row['right'][str(grid)]:>9.1f}" for grid in GRIDS)
        print(f"{row['side']:>5} {row['family']:<14}{row['n']:>6}{100 * row['majority']:>10.1f}{shares}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
