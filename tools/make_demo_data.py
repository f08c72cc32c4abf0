"""Draw the demo's data set: shapes in clutter, in COCO format.

    python tools/make_demo_data.py data/demo

Six classes that differ only in shape (colour, texture and size are
random), among lines, blobs and other distractors, partly hidden, lit unevenly,
blurred and noisy. A box is the extent of what is visible; an object of which
less than `MIN_VISIBLE` can be seen is drawn but not labelled.

Every image has its own generator, seeded by (seed, split, index): the same
arguments give the same bytes, and the first images of a longer data set are
those of a shorter one.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np

CLASSES = ('circle', 'ring', 'square', 'triangle', 'star', 'cross')
MIN_VISIBLE = 0.45  # visible share of an object's area below which it is not labelled
MIN_SIDE = 8  # visible box side in pixels below which it is not labelled
SMALL, LARGE = (0.12, 0.45), (0.65, 0.90)  # object diameters as shares of the image side
MAX_TURN = 30  # degrees by which a shape is turned either way
OVERSAMPLING = 4  # masks are drawn this much larger, then averaged: soft edges


@dataclass(frozen=True)
class Spec:
    """What determines every byte of the data set.

    Attributes:
        train: Number of training images.
        val: Number of validation images.
        test: Number of test images.
        size: Image side in pixels.
        seed: Seed of all images.
    """

    train: int = 480
    val: int = 120
    test: int = 240
    size: int = 160
    seed: int = 0

    def __post_init__(self) -> None:
        for split in ('train', 'val', 'test'):
            if getattr(self, split) < 1:
                raise ValueError(
                    f'--{split}: expected at least 1 image, got '
                    f'{getattr(self, split)}; every split is needed.'
                )
        if not 64 <= self.size <= 1024:
            raise ValueError(
                f'--size: expected 64 to 1024 pixels, got {self.size}; below 64 the '
                'shapes cannot be told apart.'
            )
        if self.seed < 0:
            raise ValueError(f'--seed: expected a non-negative integer, got {self.seed}.')


@dataclass
class Scene:
    """An image that is being drawn.

    Attributes:
        pixels: Colours, shape (size, size, 3), float32 in 0..255.
        owner: Index of the labelled object seen at each pixel, else -1, shape (size, size).
        objects: (class index, area in pixels without occlusion) of each object.
    """

    pixels: np.ndarray
    owner: np.ndarray
    objects: list[tuple[int, float]]

    @property
    def size(self) -> int:
        """Side of the image in pixels."""
        return self.pixels.shape[0]

    def paint(self, mask: np.ndarray, corner: np.ndarray, texture: np.ndarray, owner: int) -> None:
        """Lay a textured patch over the scene.

        Args:
            mask: Opacity of the patch, shape (side, side).
            corner: Its top left pixel (x, y); the patch may leave the image.
            texture: Its colours, shape (side, side, 3).
            owner: Index of the object, or -1 for a distractor.
        """
        side = mask.shape[0]
        x0, y0 = np.clip(corner, 0, self.size)
        x1, y1 = np.clip(corner + side, 0, self.size)
        inside = np.s_[y0 - corner[1] : y1 - corner[1], x0 - corner[0] : x1 - corner[0]]
        window = np.s_[y0:y1, x0:x1]
        alpha = mask[inside][..., None]
        self.pixels[window] = (1 - alpha) * self.pixels[window] + alpha * texture[inside]
        self.owner[window][mask[inside] > 0.5] = owner


def smooth_noise(rng: np.random.Generator, side: int, cells: int) -> np.ndarray:
    """Smooth random field of about unit variance, shape (side, side)."""
    grid = rng.standard_normal((cells + 2, cells + 2)).astype(np.float32)
    return cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)


def random_colour(rng: np.random.Generator, saturation: float) -> np.ndarray:
    """Any hue at a brightness that is neither darkest nor brightest, shape (3,)."""
    hue = rng.uniform(-1, 1, 3)
    hue = hue / np.abs(hue).max() * saturation
    return (rng.uniform(70, 190) + 110 * hue).clip(10, 245).astype(np.float32)


def random_texture(rng: np.random.Generator, side: int, base: np.ndarray) -> np.ndarray:
    """Colours around `base`: stripes, blotches or a gradient, shape (side, side, 3)."""
    y, x = np.mgrid[:side, :side].astype(np.float32) / side - 0.5
    angle = rng.uniform(0, 2 * np.pi)
    along = np.cos(angle) * x + np.sin(angle) * y
    kind = rng.integers(3)
    if kind == 0:
        field = np.sign(np.sin(2 * np.pi * rng.uniform(2, 6) * along))
    elif kind == 1:
        field = smooth_noise(rng, side, int(rng.integers(3, 9)))
    else:
        field = 3 * along
    swing = (rng.uniform(-18, 18) + rng.uniform(-9, 9, 3)).astype(np.float32)
    return base + field[..., None] * swing


def outline(name: str) -> np.ndarray:
    """Corners of a shape of unit circumradius, shape (corners, 2)."""
    if name == 'cross':
        arm, end = 0.32, 0.92
        quarter = np.array([[arm, arm], [end, arm], [end, -arm]])
        turn = np.array([[0, 1], [-1, 0]])
        return np.concatenate([quarter @ np.linalg.matrix_power(turn, -k) for k in range(4)])
    corners = {'circle': 48, 'ring': 48, 'square': 4, 'triangle': 3, 'star': 10}[name]
    angle = 2 * np.pi * (np.arange(corners) / corners - 0.25)  # the first corner on top
    if name == 'square':
        angle += np.pi / 4
    radius = np.where(np.arange(corners) % 2, 0.45, 1.0) if name == 'star' else np.ones(corners)
    return radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def shape_mask(rng: np.random.Generator, name: str, diameter: float) -> np.ndarray:
    """Opacity of a slightly turned and sheared shape, shape (side, side)."""
    side = int(np.ceil(diameter * 1.3)) + 2
    angle = np.radians(rng.uniform(-MAX_TURN, MAX_TURN))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shear = np.eye(2) + rng.uniform(-0.1, 0.1, (2, 2))
    points = outline(name) @ turn @ shear * diameter / 2
    canvas = np.zeros((side * OVERSAMPLING,) * 2, np.uint8)
    for scale, value in ((1.0, 255), (rng.uniform(0.45, 0.65), 0))[: 2 if name == 'ring' else 1]:
        corners = (points * scale + side / 2) * OVERSAMPLING
        cv2.fillPoly(canvas, [np.round(corners).astype(np.int32)], value)
    mask = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    return mask.astype(np.float32) / 255


def distractor_mask(rng: np.random.Generator, diameter: float) -> np.ndarray:
    """Opacity of something that is no class: a bar, an arc, an ellipse, a blob."""
    side = int(np.ceil(diameter)) + 2
    big, centre = side * OVERSAMPLING, (side * OVERSAMPLING // 2,) * 2
    canvas = np.zeros((big, big), np.uint8)
    angle = float(rng.uniform(0, 360))
    long, thin = int(big * 0.46), int(max(big * rng.uniform(0.05, 0.2), OVERSAMPLING))
    kind = rng.integers(4)
    if kind == 0:
        box = cv2.boxPoints((centre, (2 * long, thin), angle))
        cv2.fillPoly(canvas, [np.round(box).astype(np.int32)], 255)
    elif kind == 1:
        sweep = float(rng.uniform(70, 220))
        cv2.ellipse(canvas, centre, (int(long * 0.8),) * 2, angle, 0, sweep, 255, max(thin // 2, 2))
    elif kind == 2:
        cv2.ellipse(
            canvas, centre, (long, int(long * rng.uniform(0.3, 0.55))), angle, 0, 360, 255, -1
        )
    else:
        turns = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(6, 10))))
        reach = long * rng.uniform(0.35, 1.0, turns.size)
        points = np.stack([np.cos(turns), np.sin(turns)], axis=1) * reach[:, None] + centre
        cv2.fillPoly(canvas, [np.round(points).astype(np.int32)], 255)
    mask = cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA)
    return mask.astype(np.float32) / 255


def contrasting_colour(rng: np.random.Generator, beneath: np.ndarray) -> np.ndarray:
    """A colour that differs visibly from what lies beneath."""
    while True:
        colour = random_colour(rng, saturation=rng.uniform(0.4, 1.0))
        if np.abs(colour - beneath).max() > 75:
            return colour


def place(rng: np.random.Generator, scene: Scene, mask: np.ndarray, owner: int) -> None:
    """Paint a mask at a random place with a random colour and texture."""
    side = mask.shape[0]
    margin = 0.3 * min(side / scene.size, 1)  # most of the patch stays inside
    centre = rng.uniform(margin, 1 - margin, 2) * scene.size
    corner = np.round(centre - side / 2).astype(int)
    x, y = np.clip(centre, 0, scene.size - 1).astype(int)
    texture = random_texture(rng, side, contrasting_colour(rng, scene.pixels[y, x]))
    scene.paint(mask * rng.uniform(0.85, 1.0), corner, texture, owner)


def add_distractors(rng: np.random.Generator, scene: Scene, count: int) -> None:
    """Paint things that are no class; they hide what lies beneath them."""
    for _ in range(count):
        diameter = scene.size * rng.uniform(0.08, 0.35)
        place(rng, scene, distractor_mask(rng, diameter), -1)


def draw_scene(rng: np.random.Generator, size: int) -> Scene:
    """Background, distractors, objects from large to small, distractors in front."""
    backdrop = random_texture(rng, size, random_colour(rng, saturation=0.2))
    for cells in (4, 10, 28):
        tint = (rng.uniform(-10, 10) + rng.uniform(-5, 5, 3)).astype(np.float32)
        backdrop = backdrop + smooth_noise(rng, size, cells)[..., None] * tint
    scene = Scene(backdrop.astype(np.float32), np.full((size, size), -1), [])
    add_distractors(rng, scene, int(rng.integers(1, 5)))
    shares = np.exp(rng.uniform(*np.log(SMALL), int(rng.integers(4, 10))))
    if rng.random() < 0.2:
        shares = np.append(shares, rng.uniform(*LARGE))
    for share in sorted(shares, reverse=True):
        label = int(rng.integers(len(CLASSES)))
        mask = shape_mask(rng, CLASSES[label], size * share)
        place(rng, scene, mask, len(scene.objects))
        scene.objects.append((label, float((mask > 0.5).sum())))
    add_distractors(rng, scene, int(rng.integers(0, 3)))
    return scene


def photograph(rng: np.random.Generator, scene: Scene) -> np.ndarray:
    """Light the scene unevenly, blur it, add noise; uint8, shape (size, size, 3)."""
    y, x = np.mgrid[: scene.size, : scene.size].astype(np.float32) / scene.size - 0.5
    slope = rng.uniform(-0.5, 0.5, 2)
    light = rng.uniform(0.75, 1.15) + slope[0] * x + slope[1] * y
    pixels = cv2.GaussianBlur(scene.pixels * light[..., None], (0, 0), rng.uniform(0.3, 0.9))
    pixels += rng.normal(0, rng.uniform(2, 10), pixels.shape)
    return np.clip(np.round(pixels), 0, 255).astype(np.uint8)


def visible_boxes(scene: Scene) -> list[tuple[int, list[int]]]:
    """(class index, [x, y, width, height]) of every object that is visible enough."""
    boxes = []
    for index, (label, full_area) in enumerate(scene.objects):
        seen = (scene.owner == index).astype(np.uint8)
        x, y, width, height = cv2.boundingRect(seen)
        if seen.sum() >= MIN_VISIBLE * full_area and min(width, height) >= MIN_SIDE:
            boxes.append((label, [x, y, width, height]))
    return boxes


def write_split(out: Path, split: str, count: int, spec: Spec) -> None:
    """Draw `count` images and write them with their COCO annotations."""
    images, annotations = [], []
    for index in range(count):
        rng = np.random.default_rng([spec.seed, ('train', 'val', 'test').index(split), index])
        scene = draw_scene(rng, spec.size)
        name = f'{split}_{index:05d}.png'
        cv2.imwrite(str(out / 'images' / name), photograph(rng, scene))
        images.append(dict(id=index, file_name=name, width=spec.size, height=spec.size))
        for label, box in visible_boxes(scene):
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=index,
                    category_id=label + 1,
                    bbox=box,
                    area=box[2] * box[3],
                    iscrowd=0,
                )
            )
    categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
    coco = dict(images=images, annotations=annotations, categories=categories)
    (out / f'{split}.json').write_text(json.dumps(coco))


def is_complete(out: Path, manifest: dict) -> bool:
    """Whether `out` holds exactly the data set that `manifest` describes."""
    path = out / 'manifest.json'
    if not path.is_file() or json.loads(path.read_text()) != manifest:
        return False
    count = sum(manifest[split] for split in ('train', 'val', 'test'))
    return len(list((out / 'images').glob('*.png'))) == count


def make_demo_data(out: Path, spec: Spec) -> bool:
    """Draw the data set unless it is there already.

    Args:
        out: Folder to write: {train,val,test}.json, images/, manifest.json.
        spec: What to draw.

    Returns:
        Whether anything was drawn.

    Raises:
        ValueError: If `out` holds something that this tool did not write.
    """
    manifest = dict(asdict(spec), classes=list(CLASSES), complete=True)
    if is_complete(out, manifest):
        return False
    if out.exists() and not out.is_dir():
        raise ValueError(f'{out}: expected a folder, got a file; name another folder.')
    if out.exists() and any(out.iterdir()) and not (out / 'manifest.json').is_file():
        raise ValueError(
            f'{out}: expected an empty folder or one of this tool (with a '
            'manifest.json), got other files; name another folder.'
        )
    shutil.rmtree(out / 'images', ignore_errors=True)
    (out / 'images').mkdir(parents=True)
    (out / 'manifest.json').write_text(json.dumps(dict(manifest, complete=False)))
    for split in ('train', 'val', 'test'):
        write_split(out, split, getattr(spec, split), spec)
    (out / 'manifest.json').write_text(json.dumps(manifest))
    return True


def main(argv: list[str] | None = None) -> None:
    """Read the command line and draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, help='folder to write')
    for field, meaning in (
        ('train', 'training images'),
        ('val', 'validation images'),
        ('test', 'test images'),
        ('size', 'image side in pixels'),
        ('seed', 'seed of all images'),
    ):
        parser.add_argument(
            f'--{field}',
            type=int,
            default=getattr(Spec, field),
            help=f'{meaning} (default: %(default)s)',
        )
    args = parser.parse_args(argv)
    try:
        spec = Spec(args.train, args.val, args.test, args.size, args.seed)
        drawn = make_demo_data(args.out, spec)
    except ValueError as error:
        parser.error(str(error))
    print(f'{args.out}: {"drawn" if drawn else "already complete, nothing to do"}')


if __name__ == '__main__':
    sys.exit(main())
