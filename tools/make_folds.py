r"""Split a data set into folds, for cross-validation or to hold a part out.

    python tools/make_folds.py data/bccd-folds data/bccd/{train,val,test}.json \
        --images data/bccd/images
    python tools/make_folds.py data/cifar10-folds data/cifar10/train

Each image is tested in one fold and trained on in the others, so that every
one of them tells something of a method. COCO-format files become
`foldN_train.json` and `foldN_test.json`, N from 0; a folder that has one
folder for each class becomes `foldN_train.txt` and `foldN_test.txt`, the lists
that mmpretrain's CustomDataset reads, with each class in equal parts. `images`
is a link to the images. Train with

    --cfg-options train_dataloader.dataset.data_root=data/bccd-folds/ \
        train_dataloader.dataset.ann_file=fold0_train.json ...

as docs/results/bccd-folds/table.py does; for lists of classes, with
`train_dataloader.dataset.data_prefix=images` too, as in
docs/results/cifar10-weights/table.py. The same arguments give the same bytes,
in whichever order the images are listed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from data_problems import IMAGES

FOLD = re.compile(r'fold\d+_(train|test)\.(json|txt)')


def read_images(paths: list[Path]) -> tuple[list[dict], dict[str, list[dict]], list[dict]]:
    """Images of all files, in the order of their names.

    Args:
        paths: COCO-format annotation files with the same categories.

    Returns:
        The images, the annotations of each file name, and the categories.

    Raises:
        ValueError: If a file can't be read, is no COCO format, has other categories than the
            first or an image that another has too.
    """
    images, boxes, categories = {}, {}, None
    for path in paths:
        try:
            coco = json.loads(path.read_text())
            own = [dict(category) for category in coco['categories']]
            names = {image['id']: image['file_name'] for image in coco['images']}
            belongs = [names[annotation['image_id']] for annotation in coco['annotations']]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f'{path}: expected images, annotations and categories in COCO format, got '
                f'{type(error).__name__}: {error}'
            ) from error
        if categories is not None and own != categories:
            raise ValueError(
                f'{path}: expected the categories of {paths[0]}, {categories}, got {own}'
            )
        categories = own
        twice = sorted(set(names.values()) & set(images))
        if twice or len(set(names.values())) < len(coco['images']):
            raise ValueError(
                f'{path}: {twice[0] if twice else "an image"} is listed twice; it would be '
                'trained on in the fold that tests it'
            )
        for image in coco['images']:
            images[image['file_name']] = image
            boxes[image['file_name']] = []
        for name, annotation in zip(belongs, coco['annotations']):
            boxes[name].append(annotation)
    return [images[name] for name in sorted(images)], boxes, categories


def part(images: list[dict], boxes: dict[str, list[dict]], categories: list[dict]) -> dict:
    """A COCO-format data set of these images, numbered anew."""
    numbered = [dict(image, id=number) for number, image in enumerate(images, 1)]
    annotations = [
        dict(annotation, image_id=image['id'])
        for image in numbered
        for annotation in boxes[image['file_name']]
    ]
    annotations = [dict(box, id=number) for number, box in enumerate(annotations, 1)]
    return dict(images=numbered, annotations=annotations, categories=categories)


def split(listed: list, folds: int) -> Iterator[tuple[int, list, list]]:
    """Each fold with what it trains on and what it tests."""
    for fold in range(folds):
        trained = [item for place, item in enumerate(listed) if place % folds != fold]
        yield fold, trained, listed[fold::folds]


def prepare(out: Path, images: Path) -> None:
    """Make the folder, with a link to the images and without the folds that it had."""
    link = out / 'images'
    target = os.path.relpath(images.resolve(), out.resolve())
    if os.path.lexists(link) and not (link.is_symlink() and os.readlink(link) == target):
        raise ValueError(
            f'{link}: expected a link to {target}, got something else; name another folder'
        )
    out.mkdir(parents=True, exist_ok=True)
    if not link.is_symlink():
        link.symlink_to(target)
    for old in out.glob('fold*_*'):  # of more folds, or of another split
        if FOLD.fullmatch(old.name):
            old.unlink()


def make_folds(out: Path, paths: list[Path], images: Path, folds: int = 5, seed: int = 0) -> None:
    """Write the folds.

    Args:
        out: Folder to write.
        paths: COCO-format annotation files.
        images: Folder of their images.
        folds: Number of folds, at least 2.
        seed: Seed of who is where.

    Raises:
        ValueError: If there are more folds than images, or the files don't fit.
    """
    listed, boxes, categories = read_images(paths)
    if not 2 <= folds <= len(listed):
        raise ValueError(
            f'--folds: expected 2 to {len(listed)} (the number of images), got {folds}'
        )
    missing = [
        image['file_name'] for image in listed if not (images / image['file_name']).is_file()
    ]
    if missing:
        raise ValueError(
            f'--images {images}: expected the {len(listed)} images of the annotations, '
            f'{len(missing)} are not there, as {missing[0]}'
        )
    for path in (path.resolve() for path in paths):
        if path.parent == out.resolve() and FOLD.fullmatch(path.name):
            raise ValueError(
                f'{path} is read, and folds in {out} are replaced; name another folder'
            )
    prepare(out, images)
    random.Random(seed).shuffle(listed)
    for fold, trained, tested in split(listed, folds):
        for name, chosen in (('train', trained), ('test', tested)):
            coco = part(chosen, boxes, categories)
            (out / f'fold{fold}_{name}.json').write_text(json.dumps(coco))


def make_lists(out: Path, images: Path, folds: int = 5, seed: int = 0) -> None:
    """Write the folds of a classification data set.

    Args:
        out: Folder to write.
        images: Folder with one folder of images for each class.
        folds: Number of folds, at least 2.
        seed: Seed of who is where.

    Raises:
        ValueError: If there are no classes, or one has fewer images than there are folds.
    """
    samples = []
    for label, folder in enumerate(sorted(path for path in images.iterdir() if path.is_dir())):
        paths = [path for path in folder.rglob('*') if path.suffix.lower() in IMAGES]
        own = sorted(path.relative_to(images).as_posix() for path in paths)
        if not 2 <= folds <= len(own):
            raise ValueError(
                f'--folds: {folder} has {len(own)} images; expected 2 folds or more, and an image '
                f'of each class for each, got {folds}'
            )
        random.Random(seed).shuffle(own)
        samples.extend(f'{path} {label}' for path in own)
    if not samples:
        raise ValueError(
            f'{images}: expected a folder of images for each class, got none; name the annotation '
            'files and their --images if it is COCO format'
        )
    prepare(out, images)
    for fold, trained, tested in split(samples, folds):
        for name, chosen in (('train', trained), ('test', tested)):
            (out / f'fold{fold}_{name}.txt').write_text('\n'.join(sorted(chosen)) + '\n')


def main(argv: list[str] | None = None) -> None:
    """Read the command line and split."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('out', type=Path, help='folder to write')
    parser.add_argument(
        'data',
        type=Path,
        nargs='+',
        help='annotation files, of all images to split, or one folder with a folder for each class',
    )
    parser.add_argument('--images', type=Path, help='folder of the images of annotation files')
    parser.add_argument('--folds', type=int, default=5, help='number of folds (default: 5)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the split (default: 0)')
    args = parser.parse_args(argv)
    try:
        if [path.is_dir() for path in args.data] == [True]:
            if args.images is not None:
                parser.error(f'--images: the images are those in {args.data[0]}; leave it out')
            make_lists(args.out, *args.data, args.folds, args.seed)
        elif args.images is None:
            parser.error('--images: expected the folder of the images of the annotation files')
        else:
            make_folds(args.out, args.data, args.images, args.folds, args.seed)
    except ValueError as error:
        parser.error(str(error))
    print(f'{args.out}: {args.folds} folds written')


if __name__ == '__main__':
    sys.exit(main())
