"""imagededup's perceptual hash on a folder: run by `duplicates.py` with an interpreter that has it. Not part of the package, and imports nothing of it.

    imagededup_rival.py FOLDER --most 24    one JSON line: seconds, and [name, name, distance] of every pair that it reports

All through its public interface: `encode_images`, then `find_duplicates` with a distance beyond any that makes sense, and the distances.
"""

import argparse
import json
import time

from imagededup.methods import PHash


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--most", type=int, default=24, help="bits of 64")
    options = parser.parse_args()
    hasher = PHash(verbose=False)
    started = time.perf_counter()
    hashes = hasher.encode_images(image_dir=options.folder)
    encoded = time.perf_counter()
    found = hasher.find_duplicates(encoding_map=hashes, max_distance_threshold=options.most, scores=True)
    pairs = [
        [name, other, int(distance)]
        for name, others in found.items()
        for other, distance in others
        if name < other
    ]
    print(
        json.dumps(
            {
                "encoding": encoded - started,
                "comparing": time.perf_counter() - encoded,
                "images": len(hashes),
                "pairs": pairs,
            }
        )
    )


if __name__ == "__main__":
    main()
