"""Claim, on paper: what a training step sends between GPUs, and how many of them are worth while.

    bandwidth_model.py [--views-per-second 4000] [--node-gbs 300] [--network-gbs 50] [--node-us 25] [--network-us 50]

Bytes and collectives are counted on the model that is trained (ResNet-50 with its projection head); seconds follow from what is assumed of GPUs and
links, none of which was measured here. One pass a step: the whole share of a GPU fits. Nothing overlaps but what is said to.
"""

import argparse

from reporting import Row, write
from torch import nn

from simclr.encoder import build_encoder
from simclr.pretrain import SimCLR

GPUS = (8, 64, 512)
BATCHES = (4096, 32768)
PER_NODE = 8
PROJECTED = 128


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument(
        "--views-per-second", type=float, default=4000, help="of one GPU alone, forward and backward"
    )
    parser.add_argument("--node-gbs", type=float, default=300, help="GB/s of a GPU to others of its machine")
    parser.add_argument("--network-gbs", type=float, default=50, help="GB/s of a GPU to other machines")
    parser.add_argument(
        "--node-us", type=float, default=25, help="microseconds of a small collective within a machine"
    )
    parser.add_argument("--network-us", type=float, default=50, help="and between machines")
    parser.add_argument("--quick", action="store_true", help="nothing written")
    options = parser.parse_args()
    model = SimCLR(build_encoder("resnet50"), width=2048)
    gradient = 4 * sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    statistics = 4 * sum(2 * norm.num_features + 1 for norm in norms)
    rows, steps = [], []
    for batch in BATCHES:
        for gpus in GPUS:
            bandwidth = 1e9 * (options.node_gbs if gpus <= PER_NODE else options.network_gbs)
            latency = 1e-6 * (options.node_us if gpus <= PER_NODE else options.network_us)
            alone = 2 * batch / options.views_per_second / gpus
            ring = 2 * (gpus - 1) / gpus * gradient / bandwidth
            norm = 2 * len(norms) * latency + (gpus + 2) * statistics / bandwidth
            gathered = 4 * 2 * batch * PROJECTED / bandwidth + 2 * latency
            step = alone + ring + norm + gathered
            steps.append({"batch": batch, "GPUs": gpus, "computing": alone, "gradients": ring, "batch norm": norm, "projections": gathered, "step": step})  # fmt: skip
            rows.append(
                f"| {batch:,} | {gpus} | {2 * batch // gpus:,} | {1e3 * alone:.1f} | {1e3 * ring:.1f} | {1e3 * norm:.1f} | {1e3 * gathered:.1f} | "
                f"{1e3 * step:.1f} | {100 * alone / step:.0f} % | {2 * batch / step:,.0f} |"
            )
    body = (
        f"Gradients {gradient / 1e6:.1f} MB in float32, summed once a step. {len(norms)} batch norms gather mean, variance and count forward and sum two rows "
        f"backward: {2 * len(norms)} collectives; {statistics / 1e3:.0f} kB of each process go to all others. Projections: {4 * 2 * 4096 * PROJECTED / 1e6:.1f} MB at a batch of 4,096.\n\n"
        f"Assumed: {options.views_per_second:,.0f} views/s a GPU, {options.node_gbs:g} GB/s and {options.node_us:g} us within a machine of {PER_NODE}, "
        f"{options.network_gbs:g} GB/s and {options.network_us:g} us between machines. Milliseconds:\n\n"
        "| batch | GPUs | views a GPU | computing | gradients | batch norm | projections | step | of it computing | views/s |\n" + "|---" * 10 + "|\n"
        + "\n".join(rows) + "\n"
    )  # fmt: skip
    shares = {batch: ", ".join(f"{100 * each['computing'] / each['step']:.0f}" for each in steps if each["batch"] == batch) for batch in BATCHES}  # fmt: skip
    in_table = Row(
        f"what a training step of ResNet-50 sends, on paper: share of it that computes, at a batch of {'; '.join(f'{batch:,}' for batch in shares)} on {', '.join(map(str, GPUS))} GPUs",
        "; ".join(f"{share} %" for share in shares.values()),
        limit=f"assumed: {options.views_per_second:,.0f} views/s a GPU; {options.node_gbs:g} GB/s within a machine, {options.network_gbs:g} between them",
    )
    figures = {
        "gradient bytes": gradient,
        "statistics bytes": statistics,
        "batch norms": len(norms),
        "seconds": steps,
    }
    write("bandwidth_model", claim="What a training step sends, on paper", data="ResNet-50, projection head of the paper", packages=["torch", "timm"], body=body, rows=[in_table], figures=figures, keep=not options.quick)  # fmt: skip


if __name__ == "__main__":
    main()
