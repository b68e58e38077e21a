"""Who shares batch-norm statistics: every view once, never both views of an image, not the same company twice."""

from itertools import combinations

import numpy as np
import pytest

from simclr.pretrain.companies import companies, views_here

SHAPES = [(16, 8), (16, 4), (16, 2), (13, 5), (13, 6), (100, 7), (101, 50), (5, 2), (4096, 512)]


@pytest.mark.parametrize(("batch_size", "chunk"), [*SHAPES, (16, 16), (16, 99)])
def test_every_view_is_in_one_company(batch_size, chunk):
    dealt = companies(0, 3, batch_size=batch_size, chunk=chunk)
    assert sorted(np.concatenate(dealt).tolist()) == list(range(2 * batch_size))


@pytest.mark.parametrize(("batch_size", "chunk"), SHAPES)
def test_the_two_views_of_an_image_are_never_in_one_company(batch_size, chunk):
    for company in companies(0, 3, batch_size=batch_size, chunk=chunk):
        images = company % batch_size
        assert len(set(images.tolist())) == len(images)


@pytest.mark.parametrize(("batch_size", "chunk"), SHAPES)
def test_companies_are_no_larger_than_a_chunk_and_alike_in_size(batch_size, chunk):
    sizes = [len(company) for company in companies(0, 3, batch_size=batch_size, chunk=chunk)]
    assert max(sizes) <= 2 * chunk
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2


def test_a_batch_in_one_piece_is_one_company():
    (company,) = companies(0, 3, batch_size=16, chunk=16)
    assert company.tolist() == list(range(32))


def test_half_a_batch_at_a_time_is_all_first_views_then_all_second():
    first, second = companies(0, 3, batch_size=16, chunk=8)
    assert (first.tolist(), second.tolist()) == (list(range(16)), list(range(16, 32)))


def test_seed_and_step_decide_and_nothing_else():
    def dealt(seed: int, step: int) -> list[list[int]]:
        return [company.tolist() for company in companies(seed, step, batch_size=64, chunk=8)]

    assert dealt(1, 2) == dealt(1, 2)
    assert len({str(dealt(seed, step)) for seed in range(3) for step in range(3)}) == 9


def test_sharing_a_company_with_one_view_says_nothing_about_the_other():
    """Two images meet with second views as often (1 in 16) whether or not they met with first views.

    Images of different strata, that is: those of one stratum never meet.
    """
    met = {True: [0, 0], False: [0, 0]}
    for step in range(1500):
        where = np.empty(128, int)
        for number, company in enumerate(companies(0, step, batch_size=64, chunk=2)):
            where[company] = number
        for a, b in combinations(range(0, 64, 16), 2):
            count = met[bool(where[a] == where[b])]
            count[0] += where[64 + a] == where[64 + b]
            count[1] += 1
    shares = {first: second / total for first, (second, total) in met.items()}
    assert shares[True] == pytest.approx(1 / 16, abs=0.03)
    assert shares[False] == pytest.approx(1 / 16, abs=0.01)


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
def test_processes_share_every_company_out_among_themselves(processes):
    """Each view is on the process that has its image, and counted within that process's own views."""
    batch_size = 101
    shares = [range(p * batch_size // processes, (p + 1) * batch_size // processes) for p in range(processes)]
    for company in companies(0, 1, batch_size=batch_size, chunk=13):
        found = []
        for images in shares:
            for view in views_here(company, images=images, batch_size=batch_size).tolist():
                kind, image = divmod(view, len(images))
                found.append(kind * batch_size + images.start + image)
        assert sorted(found) == company.tolist()


def test_a_process_has_about_its_share_of_every_company():
    """4 processes of 1,024 images, companies of 512 views: 128 each, a stratum's edge more or less."""
    for company in companies(0, 1, batch_size=4096, chunk=256):
        for p in range(4):
            here = views_here(company, images=range(p * 1024, (p + 1) * 1024), batch_size=4096)
            assert len(here) == 128
