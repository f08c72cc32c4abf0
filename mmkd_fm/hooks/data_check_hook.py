"""Look at the training data before the first step."""

import os.path as osp

from mmengine.hooks import Hook

from mmkd_fm.registry import HOOKS


@HOOKS.register_module()
class DataCheckHook(Hook):
    """Stops before training if the data set is empty or its images are not where it says.

    Args:
        num_images: How many images to look for, spread evenly over the data set.

    Example:
        >>> default_hooks = dict(distill_data=dict(type='mmkd_fm.DataCheckHook'))
    """

    def __init__(self, num_images: int = 8) -> None:
        self.num_images = num_images

    def before_train(self, runner) -> None:
        """Check the training data set.

        Raises:
            ValueError: If it has no images that can be trained on.
            FileNotFoundError: If image files are missing.
        """
        dataset = runner.train_dataloader.dataset
        name = getattr(dataset, 'ann_file', None) or type(dataset).__name__
        if len(dataset) == 0:
            raise ValueError(
                f'{name}: no image to train on. Either the file lists none, or all are without '
                f'boxes of the classes {dataset.metainfo.get("classes")} and '
                f'filter_cfg.filter_empty_gt leaves them out; check ann_file and metainfo.classes'
            )
        if not hasattr(dataset, 'get_data_info'):
            return
        step = max(len(dataset) // self.num_images, 1)
        for index in range(0, len(dataset), step):
            path = dataset.get_data_info(index).get('img_path')
            if path and '://' not in path and not osp.isfile(path):
                raise FileNotFoundError(
                    f'{name} lists {path}, but there is no such file; check data_root and '
                    f'data_prefix.img of the training data set'
                )
