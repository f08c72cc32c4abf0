"""Writes the coverage page: one real training step of each detector family and of mixed pairs.

    OMP_NUM_THREADS=1 python tools/coverage.py --out docs/results/coverage.md [--full]

FM-KT^Theta on the neck and, where it applies, WTTM on the class logits; else the reason of the
refusal is quoted. Without `--full` the models are shrunk, so that the page takes some minutes on
one core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # a clone works without installing

from coverage_step import Outcome, Pair, run
from markdown_tables import markdown_line, markdown_table

FAMILIES = (
    Pair('RetinaNet', 'retinanet/retinanet_r50_fpn_1x_coco',
         'retinanet/retinanet_x101-64x4d_fpn_1x_coco'),
    Pair('FCOS', 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
         'fcos/fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco'),
    Pair('ATSS', 'atss/atss_r50_fpn_1x_coco', 'atss/atss_r101_fpn_1x_coco'),
    Pair('GFL', 'gfl/gfl_r50_fpn_1x_coco', 'gfl/gfl_r101_fpn_ms-2x_coco'),
    Pair('PAA', 'paa/paa_r50_fpn_1x_coco', 'paa/paa_r101_fpn_1x_coco'),
    Pair('TOOD', 'tood/tood_r50_fpn_1x_coco', 'tood/tood_r101_fpn_ms-2x_coco'),
    Pair('RepPoints', 'reppoints/reppoints-moment_r50_fpn_1x_coco',
         'reppoints/reppoints-moment_x101-dconv-c3-c5_fpn-gn_head-gn_2x_coco'),
    Pair('YOLOX', 'yolox/yolox_s_8xb8-300e_coco', 'yolox/yolox_l_8xb8-300e_coco'),
    Pair('RTMDet', 'rtmdet/rtmdet_tiny_8xb32-300e_coco', 'rtmdet/rtmdet_l_8xb32-300e_coco'),
    Pair('Faster R-CNN', 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco',
         'faster_rcnn/faster-rcnn_r101_fpn_1x_coco'),
    Pair('Mask R-CNN', 'mask_rcnn/mask-rcnn_r50_fpn_1x_coco',
         'swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco'),
    Pair('Cascade R-CNN', 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco',
         'cascade_rcnn/cascade-rcnn_x101-64x4d_fpn_1x_coco'),
    Pair('Deformable DETR', 'deformable_detr/deformable-detr_r50_16xb2-50e_coco',
         'deformable_detr/deformable-detr-refine-twostage_r50_16xb2-50e_coco'),
    Pair('DINO', 'dino/dino-4scale_r50_8xb2-12e_coco', 'dino/dino-4scale_r50_8xb2-36e_coco'),
)  # fmt: skip

R50 = 'retinanet/retinanet_r50_fpn_1x_coco'
FASTER = 'faster_rcnn/faster-rcnn_r50_fpn_1x_coco'
BEST = dict(anchors='max')
MIXED = (
    Pair('Faster R-CNN R101 to RetinaNet', R50, 'faster_rcnn/faster-rcnn_r101_fpn_1x_coco'),
    Pair('Mask R-CNN Swin-S to RetinaNet', R50,
         'swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco'),
    Pair('FCOS X101 to RetinaNet', R50, 'fcos/fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco'),
    Pair("FCOS X101 to RetinaNet, anchors='max'", R50,
         'fcos/fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco', BEST),
    Pair("RetinaNet X101 to FCOS, anchors='max'", 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco',
         'retinanet/retinanet_x101-64x4d_fpn_1x_coco', BEST),
    Pair('GFL R101 to RetinaNet', R50, 'gfl/gfl_r101_fpn_ms-2x_coco'),
    Pair('PAA R101 to ATSS', 'atss/atss_r50_fpn_1x_coco', 'paa/paa_r101_fpn_1x_coco'),
    Pair('GFL R101 to ATSS', 'atss/atss_r50_fpn_1x_coco', 'gfl/gfl_r101_fpn_ms-2x_coco'),
    Pair("RetinaNet X101 to RTMDet-tiny, anchors='max', levels=[0, 1, 2]",
         'rtmdet/rtmdet_tiny_8xb32-300e_coco', 'retinanet/retinanet_x101-64x4d_fpn_1x_coco',
         dict(BEST, levels=[0, 1, 2])),
    Pair('RetinaNet X101 to RTMDet-tiny', 'rtmdet/rtmdet_tiny_8xb32-300e_coco',
         'retinanet/retinanet_x101-64x4d_fpn_1x_coco'),
    Pair('RetinaNet X101 to Faster R-CNN', FASTER, 'retinanet/retinanet_x101-64x4d_fpn_1x_coco'),
    Pair('Cascade Mask R-CNN X101 to Faster R-CNN', FASTER,
         'cascade_rcnn/cascade-mask-rcnn_x101-64x4d_fpn_1x_coco'),
    Pair('Faster R-CNN R101 to Cascade R-CNN', 'cascade_rcnn/cascade-rcnn_r50_fpn_1x_coco',
         'faster_rcnn/faster-rcnn_r101_fpn_1x_coco'),
    Pair('Mask R-CNN Swin-S to Faster R-CNN', FASTER,
         'swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco'),
    Pair('DINO to RetinaNet', R50, 'dino/dino-4scale_r50_8xb2-36e_coco'),
)  # fmt: skip

HEADER = ('pair', 'levels', 'FM-KT', 'Theta', 'WTTM', 'gradients', 'export', 's')
HEAD = """# Which detectors can be distilled

Written by `{command}` on {data}.

Each row is one real training step of mmdet's own configs, of random weights, with FM-KT^Theta on
the neck (`levels=None`: the levels that both have) and WTTM on the class logits where rows
correspond. It shows that a pair trains, not how well.{size}

- **levels**: student <- teacher, indices of the neck's outputs.
- **FM-KT / Theta / WTTM**: the losses of that step (of a cascade's stages the sum). Theta is 0: in
  the first step the velocities are 0, and the flow gives the student's features back.
- **gradients**: student parameters that have one, of those that have one in the plain student's
  step; flows and projections all have one too, or they are named.
- **export**: mmdet's `load_checkpoint(..., strict=True)` takes the checkpoint.
- **[n]**: the logits are refused, with the message quoted below.

RoI heads are compared on the RoIs that the student sampled. Masks and box deltas are not distilled.
"""
SMALL = """

The models are shrunk: ResNets and ResNeXts to a ResNet-18 of {0} channels (teacher {1}), Swin to
one or two blocks a stage, necks and heads to 32 channels (teacher 64), transformers to two layers,
CSP backbones to widths of 0.25 and 0.5; longer side of the images {2} pixels."""


def main(argv: list[str] | None = None) -> int:
    """Run the rows and write the page; 1 if one fails."""
    arguments = _parse(argv)
    from mmdet.utils import register_all_modules
    from mmengine.logging import MMLogger

    from coverage_models import FULL, WIDTH, Images
    from coverage_models import SMALL as SIDE

    MMLogger.get_instance('coverage', log_level='ERROR')  # initialised weights fill the screen
    register_all_modules(init_default_scope=True)
    with tempfile.TemporaryDirectory() as folder:
        images = Images(arguments.data, Path(folder), FULL if arguments.full else SIDE)
        results = []
        for pair in FAMILIES + MIXED:
            if not arguments.rows or pair.title in arguments.rows:
                try:
                    outcome = run(pair, images, Path(folder), arguments.full)
                except ImportError as error:  # PAA's loss needs scikit-learn
                    outcome = str(error)
                results.append((pair, outcome))
                cells = _cells(pair, outcome, getattr(outcome, 'refusal', ''))
                print(markdown_line(cells), flush=True)
    if arguments.out:
        size = '' if arguments.full else SMALL.format(*WIDTH.values(), SIDE)
        command = 'tools/coverage.py' + (' --full' if arguments.full else '')
        title = f'{images.name} ({len(images.classes)} classes, 2 images)'
        head = HEAD.format(command=command, data=title, size=size)
        arguments.out.write_text(page(head, results))
    return int(any(isinstance(o, Outcome) and not o.passed for _, o in results))


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Write the coverage page.')
    parser.add_argument('--data', type=Path, default=Path('data/coco_mini'), help='COCO data set')
    parser.add_argument('--out', type=Path, help='page, such as docs/results/coverage.md')
    parser.add_argument('--rows', nargs='+', help='titles of the rows to run; default: all')
    parser.add_argument('--full', action='store_true', help='models and images of real size')
    arguments = parser.parse_args(argv)
    titles = [pair.title for pair in FAMILIES + MIXED]
    unknown = [title for title in arguments.rows or [] if title not in titles]
    if unknown:
        parser.error(f'--rows: no row {unknown[0]!r}; there are: {"; ".join(titles)}')
    return arguments


def page(head: str, results: list[tuple[Pair, Outcome | str]]) -> str:
    """The page in Markdown.

    Args:
        head: What stands above the tables.
        results: Each pair with its outcome, or why it was not run.
    """
    notes: list[str] = []
    tables = {'The same family': FAMILIES, 'Different families': MIXED}
    lines = [head.rstrip()]
    for title, pairs in tables.items():
        rows = [(pair, outcome) for pair, outcome in results if pair in pairs]
        if not rows:
            continue
        cells = []
        for pair, outcome in rows:
            refusal = getattr(outcome, 'refusal', '')
            if refusal and refusal not in notes:
                notes.append(refusal)
            note = f'[{notes.index(refusal) + 1}]' if refusal else ''
            cells.append(_cells(pair, outcome, note))
        lines += ['', f'## {title}', '', *markdown_table(HEADER, cells, text=len(HEADER))]
    if notes:
        lines += ['', '## Refusals', '']
        lines += [f'{n}. {message}' for n, message in enumerate(notes, 1)]
    return '\n'.join(lines) + '\n'


def _cells(pair: Pair, outcome: Outcome | str, note: str) -> list[str]:
    if isinstance(outcome, str):
        return [pair.title, f'not run: {outcome}', *[''] * 6]
    wttm = [value for name, value in outcome.losses.items() if name.startswith('wttm')]
    given = outcome.gradients - len(outcome.missing)
    wrong = [*outcome.missing, *(f'{name} not finite' for name in outcome.not_finite)]
    return [
        pair.title,
        ', '.join(f'{i}<-{j}' for i, j in outcome.levels),
        f'{outcome.losses["fmkt"]:.2f}',
        f'{outcome.losses["fmkt_theta"]:.2f}',
        note or f'{sum(wttm):.3g}',
        f'{given}/{outcome.gradients}' + (f' ({", ".join(wrong[:3])})' if wrong else ''),
        'strict' if outcome.exported else '**fails**',
        f'{outcome.seconds:.1f}',
    ]


if __name__ == '__main__':
    sys.exit(main())
