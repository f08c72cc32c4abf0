"""Trains a config as one of several CPU processes: python gloo_worker.py CONFIG [RESUME_FROM].

mmengine's launcher wants a GPU for each process, so the process group is made here.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.config import Config
from mmengine.runner import Runner

if __name__ == '__main__':
    dist.init_process_group('gloo')
    cfg = Config.fromfile(sys.argv[1])
    cfg.launcher = 'pytorch'
    cfg.model_wrapper_cfg = dict(
        type='MMDistributedDataParallel',
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=False,
    )
    cfg.work_dir = str(Path(sys.argv[1]).parent)
    if len(sys.argv) > 2:
        cfg.update(load_from=sys.argv[2], resume=True)
    runner = Runner.from_cfg(cfg)
    runner.train()
    parameters = dict(runner.model.module.named_parameters())
    torch.save(parameters, f'{cfg.work_dir}/rank{dist.get_rank()}.pth')
