"""The whole story on two CPU cores in a quarter of an hour.

    python tools/demo.py

Draws a small detection data set, trains a teacher and a plain student, distils
the same student (FM-KT on the feature pyramid, WTTM on the classification
logits), and evaluates all three with pycocotools on test images that no
training saw. The table (report.md, report.json) and the figure (figure.png) lie
in the work dir. Plain and distilled student have the same network, images,
schedule and seed; the distilled one is evaluated as a plain mmdet detector,
after a strict load into the plain student's config.

It can be interrupted at any time: the same command goes on where it stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone works without installing

import numpy as np
import torch
from mmdet.structures.bbox import bbox_overlaps
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.runner import Runner, load_checkpoint
from rich.console import Console

import mmkd_fm.registry  # noqa: F401 (its safe loader reads the checkpoints)
from demo_report import IOU, METRICS, SCORE, Result, Tile, draw_figure, print_report, write_report
from demo_training import PLAIN, Job, plan_jobs, train
from make_demo_data import CLASSES, Spec, make_demo_data
from setup_steps import clock

TIMED_IMAGES = 40
SHOWN_IMAGES = 4
SHOWN_OBJECTS = 5  # images with fewer objects are not shown


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep what mmengine, mmdet and pycocotools print off the screen."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter('ignore')
        yield


def build_deployed(job: Job) -> Runner:
    """A plain mmdet runner with the trained weights, loaded strictly."""
    cfg = Config.fromfile(job.deployed_config)
    cfg.update(work_dir=str(job.folder / 'test'), log_level='ERROR')
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    runner = Runner.from_cfg(cfg)
    load_checkpoint(runner.model, str(job.checkpoint), map_location='cpu', strict=True)
    return runner


def evaluate(job: Job) -> Result:
    """Scores on the test images, size and speed; kept in the job's folder."""
    path = job.folder / 'result.json'
    if path.is_file():
        return Result(**json.loads(path.read_text()))
    runner = build_deployed(job)
    scores = runner.test()  # empty if nothing at all is found
    model, dataset = runner.model.eval(), runner.test_dataloader.dataset
    image = dataset[0]['inputs'][None].float().to(next(model.parameters()).device)
    cost = get_model_complexity_info(model, inputs=torch.zeros_like(image))
    result = Result(
        kind=job.kind,
        seed=job.seed,
        parameters=cost['params'],
        gflops=cost['flops'] / 1e9,
        seconds_per_image=seconds_per_image(model, dataset),
        curve=job.curve(),
        scores={
            name: round(100 * scores.get(f'coco/bbox_{key}', 0.0), 1)
            for name, key in METRICS.items()
        },
    )
    path.write_text(json.dumps(vars(result), indent=1))
    return result


@torch.no_grad()
def seconds_per_image(model: torch.nn.Module, dataset: torch.utils.data.Dataset) -> float:
    """Median time from pixels to boxes, one image at a time, one thread."""
    threads, seconds = torch.get_num_threads(), []
    torch.set_num_threads(1)
    for index in range(min(TIMED_IMAGES, len(dataset))):
        batch = pseudo_collate([dataset[index]])
        begun = time.perf_counter()
        model.test_step(batch)
        seconds.append(time.perf_counter() - begun)
    torch.set_num_threads(threads)
    return statistics.median(seconds)


def true_boxes(dataset: torch.utils.data.Dataset, index: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes, shape (objects, 4), and classes, shape (objects,), of a test image."""
    objects = dataset.get_data_info(index)['instances']
    boxes = np.array([item['bbox'] for item in objects], np.float32).reshape(-1, 4)
    return boxes, np.array([item['bbox_label'] for item in objects], int)


def judge(
    boxes: np.ndarray, labels: np.ndarray, true: np.ndarray, true_labels: np.ndarray
) -> tuple[list[bool], np.ndarray]:
    """Match boxes, the best scored first, with objects of their class.

    Returns:
        Whether each box is right, and the objects that were missed.
    """
    overlaps = bbox_overlaps(torch.from_numpy(boxes), torch.from_numpy(true)).numpy()
    overlaps = np.where(labels[:, None] == true_labels[None], overlaps, 0)
    right, found = [], set()
    for row in overlaps:
        free = [i for i in np.argsort(-row) if row[i] >= IOU and i not in found]
        right.append(bool(free))
        found.update(free[:1])
    return right, np.delete(true, list(found), axis=0)


def shown_images(dataset: torch.utils.data.Dataset) -> list[int]:
    """The first test images with enough objects; at least one image."""
    crowded = (i for i in range(len(dataset)) if len(true_boxes(dataset, i)[0]) >= SHOWN_OBJECTS)
    return list(itertools.islice(crowded, SHOWN_IMAGES)) or [0]


def pixels(dataset: torch.utils.data.Dataset, index: int) -> np.ndarray:
    """A test image, RGB, shape (height, width, 3)."""
    return dataset[index]['inputs'].numpy()[::-1].transpose(1, 2, 0)


def true_tile(dataset: torch.utils.data.Dataset, index: int) -> Tile:
    """A test image with its objects."""
    boxes, labels = true_boxes(dataset, index)
    names = [CLASSES[label] for label in labels]
    return Tile(pixels(dataset, index), boxes, names, [True] * len(boxes), boxes[:0])


@torch.no_grad()
def model_tile(model: torch.nn.Module, dataset: torch.utils.data.Dataset, index: int) -> Tile:
    """A test image with the boxes that a model finds."""
    found = model.test_step(pseudo_collate([dataset[index]]))[0].pred_instances.cpu()
    found = found[found.scores >= SCORE]
    boxes, labels = found.bboxes.numpy(), found.labels.numpy()
    right, missed = judge(boxes, labels, *true_boxes(dataset, index))
    return Tile(pixels(dataset, index), boxes, [CLASSES[i] for i in labels], right, missed)


def tiles(jobs: list[Job]) -> dict[str, list[Tile]]:
    """The shown images: a row with the true boxes, then one for each model."""
    rows = {}
    for job in jobs:
        runner = build_deployed(job)
        model, dataset = runner.model.eval(), runner.test_dataloader.dataset
        shown = shown_images(dataset)
        rows['truth'] = [true_tile(dataset, index) for index in shown]
        rows[job.kind] = [model_tile(model, dataset, index) for index in shown]
    return rows


def prepare_work_dir(work_dir: Path, settings: dict, fresh: bool) -> None:
    """Make the work dir, or check that its runs may be continued.

    Raises:
        ValueError: If it holds runs with other settings, or something else.
    """
    path = work_dir / 'settings.json'
    if work_dir.is_dir() and any(work_dir.iterdir()) and not path.is_file():
        raise ValueError(
            f'{work_dir}: expected an empty folder or one of this demo (with a settings.json), '
            'got other files; name another --work-dir.'
        )
    if fresh:
        shutil.rmtree(work_dir, ignore_errors=True)
    if path.is_file() and json.loads(path.read_text()) != settings:
        raise ValueError(
            f'{work_dir}: expected runs with {json.dumps(settings)}, got {path.read_text()}; '
            'use --fresh to start anew or name another --work-dir.'
        )
    work_dir.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(settings))


def run(args: argparse.Namespace, console: Console) -> None:
    """Every stage in turn; what is finished is skipped."""
    begun = time.time()
    spec = Spec(*args.images)
    settings = dict(images=args.images, epochs=args.epochs)
    prepare_work_dir(args.work_dir, settings, args.fresh)
    drawn = make_demo_data(args.data_dir, spec)
    console.print(f'data: {args.data_dir} {"drawn" if drawn else "is there already"}')
    os.environ['MMKD_FM_DEMO_DATA'] = f'{args.data_dir}/'
    with quiet():
        jobs = plan_jobs(args.work_dir, args.data_dir, args.seeds, args.epochs)
    train(jobs, console)
    with console.status('evaluating on the test images'), quiet():
        results = [evaluate(job) for job in jobs]
    shown = [
        next(job for job in jobs if job.kind == kind) for kind in ('teacher', 'plain', 'distilled')
    ]
    student, distilled = shown[1:]
    notes = [
        f'Plain and distilled student: the same network, {spec.train} training images, '
        f'{student.steps} steps, optimiser and seed, from random weights. A distilled step takes '
        'longer (it also runs the teacher and the flow): equal in steps, not in training time.',
        f'AP on {spec.test} test images that no training has seen; the curves show '
        f'{spec.val} validation images.',
        f'{distilled.checkpoint.name} of the distilled student was loaded with strict=True into '
        f'{PLAIN.name}: nothing of the distillation is left in it.',
        'GFLOPs are multiply-adds; s/image is the median of one image at a time on one thread.',
    ]
    with quiet():
        boxes = tiles(shown)
    draw_figure(results, boxes, args.work_dir / 'figure.png')
    write_report(results, notes, args.work_dir)
    print_report(results, notes, console)
    console.print(
        f'In {args.work_dir}: report.md, report.json, figure.png. This run took '
        f'{clock(time.time() - begun)} minutes.',
        highlight=False,
    )


def main(argv: list[str] | None = None) -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument(
        '--seed',
        dest='seeds',
        type=int,
        nargs=1,
        default=[0],
        metavar='N',
        help='seed of the two students (default: 0)',
    )
    seeds.add_argument(
        '--seeds',
        type=int,
        nargs='+',
        metavar='N',
        help='several seeds: the students are repeated, the table shows mean and '
        'standard deviation',
    )
    parser.add_argument(
        '--work-dir',
        type=Path,
        default=Path('work_dirs/demo'),
        help='folder for everything but the data (default: %(default)s)',
    )
    parser.add_argument(
        '--data-dir',
        type=Path,
        default=Path('data/demo'),
        help='folder for the data set (default: %(default)s)',
    )
    parser.add_argument(
        '--images',
        type=int,
        nargs=3,
        metavar=('TRAIN', 'VAL', 'TEST'),
        default=[Spec.train, Spec.val, Spec.test],
        help='size of the data set (default: %(default)s)',
    )
    parser.add_argument(
        '--epochs', type=int, help='length of all schedules (default: as in the configs)'
    )
    parser.add_argument('--fresh', action='store_true', help='delete the work dir first')
    args = parser.parse_args(argv)
    if min(args.seeds) < 0 or len(set(args.seeds)) < len(args.seeds):
        parser.error(f'--seeds: expected different non-negative integers, got {args.seeds}')
    if args.epochs is not None and args.epochs < 1:
        parser.error(f'--epochs: expected at least 1, got {args.epochs}')
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # trainings end with this process
    args.work_dir, args.data_dir = args.work_dir.resolve(), args.data_dir.resolve()
    console = Console(file=sys.stdout)  # not what `quiet` puts in its place
    try:
        run(args, console)
    except (ValueError, RuntimeError) as error:
        console.print(f'demo: {error}', style='red', markup=False)
        return 1
    except KeyboardInterrupt:
        console.print('interrupted; the same command goes on from here')
        return 130
    return 0


if __name__ == '__main__':
    sys.exit(main())
