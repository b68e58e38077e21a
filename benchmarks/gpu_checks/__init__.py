"""What `gpu.py` runs: one module a check, each with `check(place)`, which yields rows as it finds them.

Needs torch, torchvision, timm and numpy beside the checkout; `rows` and `report` need only the standard library.
"""
