"""Prediction of ResNet-50 before and after folding, in turn in one process.

    python benchmarks/bench_fold.py [--batch-sizes 1,32] [--pairs 11] [--threads 1] [--channels-last]

The median ratio of the pairs counts. The network is that of pytorchcv (pip install --group zoo)
with random weights.
"""

import argparse
from collections.abc import Callable

import torch
from pytorchcv.model_provider import get_model

import batchnorm as bn
from batchnorm.bench.measure import measure_pair, quantiles


def predictor(model: torch.nn.Module, images: torch.Tensor) -> Callable[[], None]:
    def predict() -> None:
        with torch.inference_mode():
            model(images)

    return predict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet50", help="a name of pytorchcv")
    parser.add_argument("--batch-sizes", default="1,32")
    parser.add_argument("--pairs", type=int, default=11)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--channels-last", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    model = get_model(arguments.model).eval()
    layout = torch.channels_last if arguments.channels_last else torch.contiguous_format
    model = model.to(memory_format=layout)
    folded, report = bn.fold(model, torch.randn(1, 3, 224, 224))
    counts = f"{len(report.folded)} folded, {len(report.alone)} alone"
    print(f"{arguments.model}: {counts}, threads {arguments.threads}, {layout}, torch {torch.__version__}")
    for batch in map(int, arguments.batch_sizes.split(",")):
        images = torch.randn(batch, 3, 224, 224).to(memory_format=layout)
        timings = measure_pair(predictor(folded, images), predictor(model, images), arguments.pairs)
        before, after = (quantiles(times)[1] * 1e3 for times in (timings.peer, timings.ours))
        low, middle, high = quantiles(timings.ratios)
        print(
            f"batch {batch}: {before:.1f} ms before, {after:.1f} ms after, "
            f"ratio {middle:.2f} (p20 {low:.2f}, p80 {high:.2f})"
        )


if __name__ == "__main__":
    main()
