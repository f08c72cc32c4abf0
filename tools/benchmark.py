"""What distillation costs: time and memory of a training step, size and speed of the student.

    python tools/benchmark.py
    python tools/benchmark.py configs/bccd/fmkt_retinanet_r18_r18-quarter_bccd.py --size 240 320

Takes a Distiller config of detectors with an FM-KT term or a logit loss (WTTM, TTM, KD), builds it
with random weights (no checkpoint and no data set is needed), and measures on random images

- a training step (forward, backward, SGD) over what it can't do without, the student's own step and
  the teacher's forward: for each meta-encoder and number of steps, with and without recomputation
  (`flow=dict(checkpoint=True)`), and averaged over the numbers of steps that the config draws;
- parameters and GFLOPs of the flows;
- the plain student, the exported one and one with the flow at inference (`FlowNeck`);
- where the time of the config's own step goes;
- a training step with a logit loss only, by loss and form, and that loss alone.

Time: all that is compared runs in turns, several rounds; ratios are taken within a round, and their
median is reported. It is processor time with one thread of the CPU, else wall time. Data loading
and preprocessing are left out.

Memory: the peak of a step, all of it: weights, gradients, the optimizer's state, the batch and
everything computed. What a step allocates is measured: on a GPU by the caching allocator's count of
allocated bytes, on the CPU by the profiler's record of torch's allocator (tensors and workspace,
without what libraries allocate for themselves). To that is added what lay there before. Of a logit
loss: what it adds to the peak, in times the student's logits, while those of the teacher are there.

The targets at the end are printed, not enforced (but see --strict). On a CPU everything takes long:
choose a smaller --size, fewer --encoders, --steps or --repeats there, or one part. At full size:

    python tools/benchmark.py --only wttm --forms bernoulli --size 800 1344 --batch 1 --repeats 1
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from pathlib import Path

os.environ.setdefault('KINETO_LOG_LEVEL', '5')  # nobody asked the profiler for its stages,
os.environ.setdefault('TORCH_CPP_LOG_LEVEL', 'ERROR')  # nor for memory that is freed meanwhile
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone works without installing

import torch
from mmdet.utils import register_all_modules
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from rich.console import Console

import mmkd_fm.models  # noqa: F401 (registers the meta-encoders)
from benchmark_logit import FORMS
from benchmark_run import Benchmark
from benchmark_tables import show, write
from mmkd_fm.registry import MODELS

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'
CONFIG = CONFIGS / 'retinanet/fmkt-wttm_retinanet_r101_retinanet_r50_2x_coco.py'


def encoder_names() -> list[str]:
    """All meta-encoders that are registered here."""
    return sorted(name for name in MODELS.module_dict if name.endswith('MetaEncoder'))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        'config',
        nargs='?',
        default=str(CONFIG),
        help=f'Distiller config (default: configs/retinanet/{CONFIG.name})',
    )
    parser.add_argument(
        '--only', choices=['fmkt', 'wttm'], help='measure one part (default: what the config has)'
    )
    parser.add_argument(
        '--losses',
        action='store_true',
        help='keep all losses of the config beside FM-KT (default: FM-KT alone)',
    )
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('H', 'W'),
        help='of the images (default: 800 1344 on a GPU, else 320 480)',
    )
    parser.add_argument('--batch', type=int, default=2, help='images in a step (default: 2)')
    parser.add_argument('--device', help='such as cuda:1 (default: cuda if there is one)')
    parser.add_argument('--threads', type=int, help="of the CPU (default: torch's)")
    parser.add_argument('--repeats', type=int, default=5, help='rounds that count (default: 5)')
    parser.add_argument(
        '--encoders',
        nargs='+',
        choices=encoder_names(),
        default=encoder_names(),
        metavar='NAME',
        help="meta-encoders besides the config's (default: %(default)s)",
    )
    parser.add_argument(
        '--steps',
        type=int,
        nargs='+',
        default=[0, 1, 2, 4, 8, 16],
        metavar='N',
        help="numbers of steps besides the config's; 0 is the metric alone, without a flow "
        '(default: %(default)s)',
    )
    parser.add_argument(
        '--forms',
        nargs='+',
        choices=FORMS,
        default=FORMS,
        metavar='NAME',
        help="forms of the logit losses besides the config's (default: %(default)s)",
    )
    parser.add_argument(
        '--checkpoint',
        choices=['off', 'on', 'both'],
        default='both',
        help='recompute the steps in the backward pass (default: %(default)s)',
    )
    parser.add_argument('--amp', action='store_true', help='autocast to bfloat16')
    parser.add_argument('--out', type=Path, metavar='FILE', help='write all figures as JSON')
    parser.add_argument('--markdown', type=Path, metavar='FILE', help='write the tables')
    parser.add_argument('--strict', action='store_true', help='fail if a target is missed')
    args = parser.parse_args(argv)
    args.device = args.device or ('cuda' if torch.cuda.is_available() else 'cpu')
    args.size = tuple(args.size or ((320, 480) if args.device == 'cpu' else (800, 1344)))
    for name in ('batch', 'repeats', 'threads'):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            parser.error(f'--{name}: expected at least 1, got {getattr(args, name)}')
    if not Path(args.config).is_file():
        parser.error(f'there is no config file {args.config!r}; see configs/')
    if min(args.steps) < 0:
        parser.error(f'--steps: expected numbers from 0, got {args.steps}')
    if min(args.size) < 64:
        parser.error(f'--size: expected sides of at least 64 pixels, got {args.size}')
    return args


def main(argv: list[str] | None = None) -> int:
    """Measure and report."""
    args = parse(argv)
    console = Console(width=None if sys.stdout.isatty() else 100)
    if args.threads:
        torch.set_num_threads(args.threads)
    register_all_modules(init_default_scope=False)
    init_default_scope('mmdet')
    warnings.simplefilter('ignore')
    MMLogger.get_current_instance().setLevel('ERROR')
    try:
        with tempfile.TemporaryDirectory() as folder:
            report = Benchmark(args, Path(folder)).run(console)
    except ValueError as error:
        console.print(f'benchmark: {error}', style='red', markup=False)
        return 1
    show(report, console)
    write(report, args.out, args.markdown)
    missed = any(met is False for _, _, met in report.targets())
    return int(args.strict and missed)


if __name__ == '__main__':
    sys.exit(main())
