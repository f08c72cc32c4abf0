"""Shows a pyramid on its way from the student to the teacher, and how near it comes.

    python tools/visualize_flow.py CONFIG CHECKPOINT IMAGE [IMAGE ...] [--steps 8]

For a trained Distiller with an FMKTLoss of either kind: with flows in training only (their weights
lie in the checkpoints that training writes, not in exported students), or with those of a FlowNeck.
Give the --cfg-options of the training again.

For each image a picture, NAME.png, and its numbers, NAME.json, are written to the out dir; both
also go to the backends of the config's visualizer (vis_data, TensorBoard, ...). The picture has a
row for each level: the student's X^S, the steps, the mean of all estimates, which is what the flow
passes on, and the teacher's X^T. Numbers are distances to the teacher by the metric of the loss.

The colours of a level are the first three principal components of the teacher's map. Every map is
standardised per channel first: like PKD, the picture shows neither scale nor shift.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone works without installing

import numpy as np
import torch
from mmdet.utils import register_all_modules
from mmengine.config import Config, DictAction
from mmengine.registry import VISUALIZERS, init_default_scope
from rich.console import Console

from mm_tool import package_of
from mmkd_fm.checkpoint import UnsafeCheckpointError
from mmkd_fm.functional.transport import SOLVERS
from visualize_flow_figure import distance_table, draw_flow
from visualize_flow_trace import LevelFlow, load_distiller, read_image, trace_flow


def report(flows: list[LevelFlow], **settings) -> dict:
    """All numbers of a picture, for JSON."""
    levels = [
        dict(
            level=flow.level,
            name=flow.name,
            stride=flow.stride,
            times=flow.times,
            distances={k: v for k, v in flow.distances.items() if k != 'teacher'},
            change=flow.change,
        )
        for flow in flows
    ]
    return dict(settings, levels=levels)


def publish(cfg: Config, out_dir: Path, name: str, pixels: np.ndarray, flows: list[LevelFlow]):
    """Send a picture and the distances of what K steps pass on to the config's backends.

    Args:
        cfg: The config; without a visualizer, LocalVisBackend is used.
        out_dir: The backends write below it.
        name: Name of the image.
        pixels: The picture, RGB, uint8, shape (H, W, 3).
        flows: The levels.

    Raises:
        ValueError: If a backend needs a package that is not installed.
    """
    default = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    settings = copy.deepcopy(dict(cfg.get('visualizer') or default))
    # a visualizer is found by its name: with one used before, that of another folder would be
    settings.update(name=f'visualize_flow_{time.time_ns()}', save_dir=str(out_dir))
    try:
        visualizer = VISUALIZERS.build(settings)
        visualizer.add_image(f'flow_{name}', pixels)
        for step in range(len(flows[0].times) + 1):  # 0 steps pass the student's own features on
            passed_on = {
                f'flow_{name}/{flow.name}': (flow.distances['student'] + flow.distances['means'])[
                    step
                ]
                for flow in flows
            }
            visualizer.add_scalars(passed_on, step=step)
        visualizer.close()
    except ImportError as error:
        raise ValueError(
            f"a backend of the config's visualizer can not be used ({error}); install its package, "
            f"or leave it out of the config's visualizer.vis_backends. The files in {out_dir} are "
            f'complete'
        ) from error


def run(args: argparse.Namespace, console: Console) -> None:
    """A picture, a JSON file and a table for each image.

    Raises:
        ValueError: If there is no such config, or anything does not fit.
    """
    if not Path(args.config).is_file():
        raise ValueError(f'there is no config file {args.config}; see configs/')
    cfg = Config.fromfile(args.config)
    cfg.merge_from_dict(args.cfg_options or {})
    register_all_modules(init_default_scope=False)
    init_default_scope(package_of(cfg) or 'mmdet')
    stems = [Path(path).stem for path in args.images]
    names = [stem if stems.count(stem) == 1 else f'{stem}_{n}' for n, stem in enumerate(stems)]
    read = {Path(path).resolve() for path in args.images}
    for name in names:
        if (args.out_dir / f'{name}.png').resolve() in read:
            raise ValueError(
                f'{args.out_dir}/{name}.png is an image that is read; choose another --out-dir'
            )
    images = [read_image(cfg, path) for path in args.images]
    model, loss_name = load_distiller(
        cfg, args.checkpoint, args.teacher_checkpoint, args.loss, args.device
    )
    loss = model.distill_losses[loss_name]
    kind = 'flow in training only' if hasattr(loss, 'flows') else "the student's FlowNeck"
    metric = type(loss.metric).__name__
    args.out_dir.mkdir(parents=True, exist_ok=True)
    for path, data, name in zip(args.images, images, names):
        flows = trace_flow(model, loss_name, data, args.steps, args.solver, args.level)
        title = f'{name}: {loss_name} ({kind}), {args.solver}, {args.steps} step(s)'
        picture = draw_flow(
            # bytes, since with to_float32=True the pipeline gives floats
            data['inputs'].clamp(0, 255).byte().numpy()[::-1].transpose(1, 2, 0),
            flows,
            f'{title}\nBelow each map: its {metric} distance to the teacher; below the change: its '
            f"distance to $X^S$.\nColours of a row: principal components of the teacher's map.",
            args.show,
        )
        picture.savefig(args.out_dir / f'{name}.png')
        settings = dict(loss=loss_name, metric=metric, steps=args.steps, solver=args.solver)
        numbers = report(flows, image=path, **settings)
        (args.out_dir / f'{name}.json').write_text(json.dumps(numbers, indent=1))
        console.print(distance_table(flows, f'{title}, {metric} distance to the teacher'))
        pixels = np.ascontiguousarray(np.asarray(picture.canvas.buffer_rgba())[..., :3])
        publish(cfg, args.out_dir, name, pixels, flows)
    console.print(f'In {args.out_dir}: NAME.png, NAME.json, and vis_data of the local backend')


def main(argv: list[str] | None = None) -> int:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('config', help='config of the distillation')
    parser.add_argument('checkpoint', help='file that the training wrote, such as epoch_48.pth')
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files')
    parser.add_argument(
        '--teacher-checkpoint', metavar='FILE', help="the teacher's, in place of the config's"
    )
    parser.add_argument(
        '--steps', type=int, default=8, metavar='N', help='steps of the flow (default: %(default)s)'
    )
    parser.add_argument(
        '--solver',
        choices=sorted(SOLVERS),
        default='euler',
        help='the latter two evaluate the network twice a step (default: %(default)s)',
    )
    parser.add_argument(
        '--loss', metavar='NAME', help='name of the FMKTLoss in the config (default: the first)'
    )
    parser.add_argument(
        '--level',
        type=int,
        nargs='+',
        metavar='L',
        help="levels of the student's pyramid, from 0 (default: all that have a flow)",
    )
    parser.add_argument(
        '--show',
        choices=('states', 'estimates'),
        default='states',
        help='what is drawn of each step: the state Z_t that it ends in, or the estimate of the '
        'teacher that is made there (default: %(default)s)',
    )
    parser.add_argument(
        '--out-dir',
        type=Path,
        default=Path('work_dirs/flow'),
        help='folder for everything written (default: %(default)s)',
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
    if args.steps < 1:
        parser.error(f'--steps: expected at least 1, got {args.steps}')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        parser.error(f'--device: expected cpu, as no GPU can be used here, got {args.device}')
    console = Console()
    try:
        run(args, console)
    except (ValueError, OSError, UnsafeCheckpointError) as error:
        console.print(f'visualize_flow: {error}', style='red', markup=False)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
