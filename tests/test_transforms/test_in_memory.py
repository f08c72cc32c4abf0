"""InMemory: the plain pipeline's samples, each file read once."""

import copy
import json
import pickle
import random

import cv2
import numpy as np
import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, TRANSFORMS, DefaultScope
from mmengine.structures import BaseDataElement
from torch.utils.data import DataLoader

CLASSES = ('red', 'green')
LOAD = [
    dict(type='LoadImageFromFile', backend_args=None),
    dict(type='LoadAnnotations', with_bbox=True, with_mask=True),
    dict(type='Resize', scale=(64, 48), keep_ratio=True),
]
FLIP = dict(type='RandomFlip', prob=0.5, direction=['horizontal', 'vertical'])
PACK = dict(type='PackDetInputs')


def in_memory(*steps):
    return dict(type='mmkd_fm.InMemory', transforms=list(steps))


def write_images(folder, count=4):
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for i in range(count):
        cv2.imwrite(str(folder / f'{i}.png'), rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8))


def delete_images(folder):
    for path in folder.rglob('*.png'):
        path.unlink()


@pytest.fixture
def coco(tmp_path, mmdet_scope):
    """Build a data set of four images with two boxes each: `coco(*pipeline)`."""
    write_images(tmp_path / 'images')
    boxes = [[2 * i, 3, 10 + i, 20] for i in range(8)]
    content = dict(
        images=[dict(id=i, file_name=f'{i}.png', height=40 + i, width=50) for i in range(4)],
        annotations=[
            dict(
                id=i,
                image_id=i // 2,
                category_id=1 + i % 2,
                iscrowd=0,
                bbox=[x, y, w, h],
                area=w * h,
                segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]],
            )
            for i, (x, y, w, h) in enumerate(boxes)
        ],
        categories=[dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)],
    )
    (tmp_path / 'train.json').write_text(json.dumps(content))

    def make(*pipeline, **kwargs):
        return DATASETS.build(
            dict(
                type='mmdet.CocoDataset',
                data_root=f'{tmp_path}/',
                ann_file='train.json',
                data_prefix=dict(img='images/'),
                metainfo=dict(classes=CLASSES),
                pipeline=copy.deepcopy(list(pipeline)),
                **kwargs,
            )
        )

    return make


def seed(number):
    random.seed(number), np.random.seed(number), torch.manual_seed(number)


def content(value):
    """All that a sample holds, down to the bytes, comparable with `==`."""
    if isinstance(value, dict):
        return {key: content(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [content(part) for part in value]
    if isinstance(value, BaseDataElement):
        return content(dict(value.metainfo_items())), content(dict(value.all_items()))
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray) and value.dtype != object:
        return value.dtype, value.shape, value.tobytes()
    if hasattr(value, '__dict__'):  # boxes and masks
        return type(value), content(vars(value))
    return value


def epoch(dataset, number=0):
    """The content of all samples."""
    seed(number)
    return [content(dataset[i]) for i in range(len(dataset))]


def test_samples_are_those_of_the_plain_pipeline(coco):
    plain, kept = coco(*LOAD, FLIP, PACK), coco(in_memory(*LOAD), FLIP, PACK)
    epochs = [epoch(plain, number) for number in range(4)]
    assert all(first != second for first, second in zip(epochs, epochs[1:]))  # flips are drawn
    assert [epoch(kept, number) for number in range(4)] == epochs


def test_each_file_is_read_once(coco, tmp_path):
    kept = coco(in_memory(*LOAD), FLIP, PACK)
    first = epoch(kept)
    delete_images(tmp_path)
    assert epoch(kept) == first
    with pytest.raises(FileNotFoundError):
        coco(*LOAD, FLIP, PACK)[0]


def test_a_worker_that_lives_on_reads_each_file_once(coco, tmp_path):
    loader = DataLoader(
        coco(in_memory(*LOAD), PACK),
        batch_size=2,
        num_workers=1,
        persistent_workers=True,
        collate_fn=pseudo_collate,
    )
    first = [batch['inputs'] for batch in loader]
    delete_images(tmp_path)
    second = [batch['inputs'] for batch in loader]
    assert all(torch.equal(a, b) for x, y in zip(first, second) for a, b in zip(x, y))


def test_a_sample_may_be_changed(coco):
    dataset = coco(in_memory(*LOAD), PACK)
    step, expected = dataset.pipeline.transforms[0], epoch(dataset)
    for _ in range(2):
        sample = step(dataset.get_data_info(0))
        sample['img'][:] = 0
        sample['gt_bboxes'].translate_((5, 5))
        sample['gt_masks'].masks[0][0][:] = 0
        sample['instances'].clear()
        sample['new'] = sample.pop('img_path')
        assert epoch(dataset) == expected


def test_what_is_given_is_neither_changed_nor_kept(coco):
    step = TRANSFORMS.build(in_memory(*LOAD))
    given = coco(PACK).get_data_info(0)
    before = copy.deepcopy(given)
    first = step(given)
    assert given == before
    given['instances'][0]['bbox'][0] = -1
    assert step(before)['instances'] == first['instances'] == before['instances']


@pytest.mark.parametrize(
    'transform',
    [
        dict(FLIP, prob=0.01),
        dict(type='RandomResize', scale=[(64, 48), (80, 60)]),
        dict(type='CutOut', n_holes=1, cutout_shape=(4, 4)),
    ],
    ids=lambda transform: transform['type'],
)
def test_random_steps_are_refused_by_name(coco, transform):
    name = transform['type']
    message = f'InMemory: {name} draws random numbers.*0.png.*put what is random behind InMemory'
    with pytest.raises(ValueError, match=message):
        coco(in_memory(*LOAD[:2], transform, LOAD[2]), PACK)[0]


def test_torchs_generator_is_watched_too(coco):
    with pytest.raises(ValueError, match='InMemory: function draws random numbers'):
        coco(in_memory(*LOAD, lambda results: dict(results, noise=torch.rand(1))), PACK)[0]


def test_dropped_samples_are_refused(coco):
    drop = dict(type='FilterAnnotations', min_gt_bbox_wh=(1000, 1000))
    with pytest.raises(ValueError, match='InMemory: FilterAnnotations dropped .*0.png.*behind InM'):
        coco(in_memory(*LOAD, drop), PACK)[0]
    assert coco(in_memory(*LOAD), dict(drop, keep_empty=False), PACK)[0] is not None


def test_copies_begin_empty(coco):
    dataset = coco(in_memory(*LOAD), PACK)
    expected = epoch(dataset)
    step = dataset.pipeline.transforms[0]
    part = dataset.get_subset([2, 1])
    for other in (
        copy.deepcopy(step),
        pickle.loads(pickle.dumps(step)),
        part.pipeline.transforms[0],
    ):
        assert (len(step.kept), len(other.kept)) == (4, 0)
        assert repr(other) == repr(step)
    assert [sample['inputs'] for sample in epoch(part)] == [expected[i]['inputs'] for i in (2, 1)]


def test_an_image_of_no_data_set_is_not_kept(coco, tmp_path):
    step = TRANSFORMS.build(in_memory(LOAD[0]))
    coco(PACK)
    path = str(tmp_path / 'images' / '0.png')
    for value in (10, 20):
        cv2.imwrite(path, np.full((8, 8, 3), value, np.uint8))
        assert (step(dict(img_path=path))['img'] == value).all()
    assert step.kept == {}


def test_no_generator_is_touched(coco, generators):
    dataset = coco(in_memory(*LOAD), PACK)
    before = generators()
    dataset[0], dataset[0]
    assert generators() == before


def test_classifiers(tmp_path, mmdet_scope):
    pytest.importorskip('mmpretrain.datasets')
    for name in CLASSES:
        write_images(tmp_path / name, count=2)
    load = [dict(type='LoadImageFromFile'), dict(type='ResizeEdge', scale=32)]
    crop, pack = dict(type='RandomCrop', crop_size=24), dict(type='PackInputs')

    def make(*pipeline):
        cfg = dict(type='CustomDataset', data_root=str(tmp_path), pipeline=list(pipeline))
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            return DATASETS.build(cfg)

    plain, kept = make(*load, crop, pack), make(in_memory(*load), crop, pack)
    first = epoch(plain)
    assert epoch(kept) == first != epoch(kept, 1)
    with pytest.raises(ValueError, match='InMemory: RandomCrop draws random numbers'):
        make(in_memory(*load, crop), pack)[0]
    delete_images(tmp_path)
    assert epoch(kept) == first
