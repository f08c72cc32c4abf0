"""Registered steps of data pipelines."""

from mmkd_fm.transforms.in_memory import InMemory

__all__ = ['InMemory']
