"""Shows why a distillation does or does not help, on real images.

    python tools/diagnose.py CONFIG [CHECKPOINT] [--images N] [--out DIR]

For a trained Distiller, with the checkpoints that its training wrote and the --cfg-options of that
training, or for a plain model, as far as that makes sense. Without a checkpoint it looks at the
weights that the training starts from, before any time is spent on it. Losses have the weights of
the config, without what a LossWeightHook makes of them. It answers:

- gradients: how large the gradient of each loss is on backbone, neck and head, and whether it
  agrees with that of the student's own losses; on training batches, nothing is updated;
- distances: how far X^S and the estimates of a flow are from the teacher, how large the velocity
  is, and whether the map of the teacher has collapsed;
- scores: how well the class scores of student and teacher are calibrated, on foreground and
  background;
- detection: AP and recall, and what they would be with the boxes, labels or scores put right.

Tables go to the screen; diagnose.md, diagnose.json and diagnose.png to the out dir.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone works without installing

import torch
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope
from rich.console import Console
from rich.progress import track

from diagnose_data import TestImages, train_batches
from diagnose_detection import Detection
from diagnose_distances import Distances
from diagnose_figure import draw
from diagnose_gradients import measure_gradients
from diagnose_models import LeftOut, Subject, load_subject
from diagnose_report import NAMES, markdown, show
from diagnose_scores import Scores
from mm_tool import package_of
from mmkd_fm.checkpoint import UnsafeCheckpointError

START = 'the start of the training'
"""Stands for the checkpoint of a report that has none."""


def diagnose(cfg: Config, subject: Subject, args: argparse.Namespace, console: Console) -> dict:
    """All parts that are asked for; those that say nothing about the config under `left_out`."""
    report = dict(config=args.config, checkpoint=args.checkpoint or START, test_images=0)
    left_out: dict[str, str] = {}

    def tried(part: str, run: Callable):
        try:
            return run()
        except LeftOut as reason:
            left_out[part] = str(reason)
            return None

    if 'gradients' in args.parts:
        rows = tried('gradients', lambda: _gradients(cfg, subject, args.batches, console))
        if rows is not None:
            report['gradients'] = rows
    makers = dict(
        distances=lambda images: Distances(subject),
        scores=lambda images: Scores(subject, images),
        detection=lambda images: Detection(subject, images),
    )
    wanted = [part for part in makers if part in args.parts]
    images = None
    for part in wanted:
        if images is None:
            images = tried(part, lambda: TestImages(cfg, args.images))
    if images is not None:
        built = {part: tried(part, lambda part=part: makers[part](images)) for part in wanted}
        running = {part: one for part, one in built.items() if one is not None}
        report['test_images'] = len(images.chosen)
        views = images.views(subject) if running else ()
        for view in track(views, 'test images', len(images), console=console, transient=True):
            for one in running.values():
                one.add(view)
        report.update({part: one.result() for part, one in running.items()})
    return dict(report, left_out=left_out)


def _gradients(cfg: Config, subject: Subject, count: int, console: Console) -> list[dict]:
    batches = train_batches(cfg, count)
    shown = track(batches, 'training batches', count, console=console, transient=True)
    return measure_gradients(subject, shown)


def run(args: argparse.Namespace, console: Console) -> None:
    """Tables on the screen and three files.

    Raises:
        ValueError: If there is no such config, or anything does not fit.
    """
    if not Path(args.config).is_file():
        raise ValueError(f'there is no config file {args.config}; see configs/')
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    init_default_scope(package_of(cfg) or 'mmdet')
    report = diagnose(cfg, load_subject(cfg, args.checkpoint, args.device), args, console)
    folder = args.out or Path('work_dirs/diagnose') / Path(args.config).stem
    folder.mkdir(parents=True, exist_ok=True)
    show(report, console)
    (folder / 'diagnose.json').write_text(json.dumps(report, indent=1), encoding='utf-8')
    (folder / 'diagnose.md').write_text(markdown(report), encoding='utf-8')
    draw(report).savefig(folder / 'diagnose.png')
    console.print(f'In {folder}: diagnose.md, diagnose.json, diagnose.png')


def main(argv: list[str] | None = None) -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of the training')
    parser.add_argument(
        'checkpoint',
        nargs='?',
        help='file that the training wrote, such as epoch_48.pth (default: the start of the '
        'training, of which gradients and distances are shown)',
    )
    parser.add_argument(
        '--images', type=int, metavar='N', help='test images, evenly spread (default: all)'
    )
    parser.add_argument(
        '--batches',
        type=int,
        default=8,
        metavar='N',
        help='training batches that gradients are the mean of (default: %(default)s)',
    )
    parser.add_argument(
        '--parts',
        nargs='+',
        choices=sorted(NAMES),
        metavar='PART',
        help=f'what to look at: {", ".join(NAMES)} (default: all)',
    )
    parser.add_argument(
        '--out',
        type=Path,
        metavar='DIR',
        help='folder for everything written (default: work_dirs/diagnose/CONFIG)',
    )
    parser.add_argument(
        '--device',
        default='cuda' if torch.cuda.is_available() else 'cpu',
        help='where the models run (default: %(default)s)',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        metavar='KEY=VALUE',
        help='changes of the config, those of the training among them',
    )
    args = parser.parse_args(argv)
    args.parts = args.parts or (list(NAMES) if args.checkpoint else ['gradients', 'distances'])
    for name in ('images', 'batches'):
        count = getattr(args, name)
        if count is not None and count < 1:
            parser.error(f'--{name}: expected at least 1, got {count}')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device: expected cpu, as no GPU can be used here, got {args.device}')
    console = Console()
    try:
        run(args, console)
    except (ValueError, OSError, UnsafeCheckpointError) as error:
        console.print(f'diagnose: {error}', style='red', markup=False)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
