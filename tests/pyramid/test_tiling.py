"""Which rectangles of P2' are computed, by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from efpn.pyramid.tiling import Price, alike, cells_under, cost, grown_areas, joined, tile_of, united


def test_cells_under_boxes_by_hand() -> None:
    """Tiles of 16 px on a map of 4 x 6 cells of 8 px: a box is one P2' cell wide at least, and reads one more."""
    boxes = torch.tensor([[0.0, 0.0, 5.0, 5.0], [30.0, 20.0, 33.0, 30.5], [47.0, 31.0, 48.0, 32.0]])
    assert cells_under(boxes / 2, (4, 6), 2).tolist() == [[0, 0, 2, 2], [2, 2, 4, 6], [2, 4, 4, 6]]
    assert cells_under(boxes[:0], (4, 6), 2).shape == (0, 4)
    assert cells_under(torch.tensor([[0.0, 0.0, 6.95, 1.0]]), (4, 6), 2).tolist() == [[0, 0, 2, 2]]
    assert cells_under(torch.tensor([[0.0, 0.0, 7.0, 1.0]]), (4, 6), 2).tolist() == [[0, 0, 2, 4]]
    assert cells_under(torch.tensor([[19.0, 14.0, 20.0, 15.0]]), (5, 5), 2).tolist() == [[2, 4, 5, 5]]  # map's end


def test_every_box_has_a_tile() -> None:
    tiles = np.array([[0, 0, 4, 4], [2, 2, 8, 8]])
    assert tile_of(np.array([[0, 0, 2, 2], [2, 2, 4, 4], [4, 4, 6, 6]]), tiles).tolist() == [0, 0, 1]


def test_rectangles_are_joined_where_that_saves_work() -> None:
    near, far = [[0, 0, 2, 2], [0, 3, 2, 5]], [50, 50, 52, 52]

    def price(margin: int) -> Price:
        return lambda rects: grown_areas(rects, np.array([margin]), (100, 100))[:, 0].astype(float)

    found = joined(np.array([*near, far]), price(4))
    assert sorted(found.tolist()) == [[0, 0, 2, 5], far]
    assert sorted(joined(np.array(near), price(0)).tolist()) == near
    assert joined(np.empty((0, 4), np.int64), price(0)).shape == (0, 4)


def test_the_pair_that_saves_most_is_joined_first() -> None:
    """The middle one and the last save 4, the middle one and the first 2; all three together are not worth it."""
    rects = np.array([[2, 2, 4, 4], [0, 2, 2, 4], [0, 3, 2, 6]])

    def price(asked: np.ndarray) -> np.ndarray:
        return grown_areas(asked, np.array([0]), (100, 100))[:, 0].astype(float) + 2

    assert sorted(joined(rects, price).tolist()) == [[0, 2, 2, 6], [2, 2, 4, 4]]


def of_shapes(*shapes: tuple[int, int], size: tuple[int, int] = (40, 60)) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """A tile of each shape in the corner of the map, and all of them made alike; a cell costs 1, a call `CALL`."""
    tiles = [np.array([[size[0] - h, size[1] - w, *size] for h, w in shapes]).reshape(-1, 4)]
    return tiles, alike(tiles, lambda rects: grown_areas(rects, np.array([0]), size)[:, 0].astype(float), size)


def test_tiles_grow_to_one_shape_where_that_costs_less_than_a_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("efpn.pyramid.tiling.CALL", 10)
    _, [made] = of_shapes((2, 4), (4, 2))  # to 4 x 4, 8 cells more each
    assert made.tolist() == [[38, 56, 40, 60], [36, 58, 40, 60]]
    _, [made] = of_shapes((4, 4), (4, 2))  # 8 cells more: it begins earlier, as it would leave the map
    assert made.tolist() == [[36, 56, 40, 60], [36, 56, 40, 60]]
    _, [made] = of_shapes((4, 4), (4, 2), (4, 2))  # 16 cells more
    assert made.tolist() == [[36, 56, 40, 60], [36, 58, 40, 60], [36, 58, 40, 60]]


def test_shapes_become_one_by_one_the_pair_first_that_saves_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 x 2 and 2 x 3 for 2 cells, then both and 4 x 3 for 12; 20 x 20 stays."""
    monkeypatch.setattr("efpn.pyramid.tiling.CALL", 12)
    tiles, [made] = of_shapes((2, 2), (20, 20), (4, 3), (2, 3))
    assert (made[:, 2:] - made[:, :2]).tolist() == [[4, 3], [20, 20], [4, 3], [4, 3]]
    assert (made[:, :2] <= tiles[0][:, :2]).all() and (made[:, 2:] >= tiles[0][:, 2:]).all()


def test_tiles_of_several_images_are_made_alike_and_none_stays_none() -> None:
    tiles = [np.array([[0, 0, 2, 2]]), np.empty((0, 4), np.int64), np.array([[4, 4, 6, 8]])]
    made = alike(tiles, lambda rects: grown_areas(rects, np.array([0]), (40, 60))[:, 0].astype(float), (40, 60))
    assert [one.tolist() for one in made] == [[[0, 0, 2, 4]], [], [[4, 4, 6, 8]]]


def test_what_tiles_cost_has_a_call_for_each_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells of 3 units each: 4, 4, 12 and 4 cells in two shapes, each of them a call that is worth 10 cells."""
    monkeypatch.setattr("efpn.pyramid.tiling.CALL", 10)
    tiles = [np.array([[0, 0, 2, 2], [4, 4, 6, 6]]), np.array([[0, 0, 3, 4], [8, 8, 10, 10]])]
    assert cost(tiles, lambda rects: 3.0 * grown_areas(rects, np.array([0]), (40, 60))[:, 0], (40, 60)) == 3 * (24 + 20)
    assert cost([tiles[0][:0]], lambda rects: 3.0 * np.ones(len(rects)), (40, 60)) == 0


def test_a_crowd_of_rectangles_is_joined_in_parts() -> None:
    corners = np.random.default_rng(0).integers(0, 400, (700, 2))
    rects = np.unique(np.hstack([corners, corners + 2]), axis=0)

    def price(asked: np.ndarray) -> np.ndarray:
        return grown_areas(asked, np.array([6]), (500, 500))[:, 0].astype(float)

    found = joined(rects, price)
    assert price(found).sum() < price(rects).sum()
    for one in found:  # no pair is left that would be worth it
        others = found[(found != one).any(axis=1)]
        assert (price(united(one, others)) > price(one[None]) + price(others)).all()

    inside = (found[None, :, :2] <= rects[:, None, :2]) & (found[None, :, 2:] >= rects[:, None, 2:])
    assert inside.all(axis=2).any(axis=1).all()


def test_a_tile_is_as_large_as_it_is_reckoned_even_where_a_shape_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shape becomes is told at the end: chains of steps once led on to the shape of a later step."""
    monkeypatch.setattr("efpn.pyramid.tiling.CALL", 12)
    random = np.random.default_rng(0)
    for _ in range(300):
        shapes = {tuple(map(int, one)) for one in random.integers(1, 7, (6, 2))}
        tiles, [made] = of_shapes(*shapes)
        assert (made[:, :2] <= tiles[0][:, :2]).all() and (made[:, 2:] >= tiles[0][:, 2:]).all()
        cells, before = ((one[:, 2:] - one[:, :2]).prod(axis=1).sum() for one in (made, tiles[0]))
        calls = len({tuple(one) for one in (made[:, 2:] - made[:, :2]).tolist()})
        assert cells + 12 * calls <= before + 12 * len(shapes)
