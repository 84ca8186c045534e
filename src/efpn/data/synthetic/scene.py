"""One image with its boxes: a street, signs and what resembles them, weather and camera."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from efpn.data.synthetic.signs import SIDE, Sign, distractors, sign_kinds
from efpn.data.synthetic.street import Pixels, draw_street, foliage

OVERSAMPLING = 2  # the street, drawn at this many times the size
SIGN_OVERSAMPLING = 4  # the signs
TRIES = 30  # to find a free place for a sign
GAP = 3  # pixels between two signs
OCCLUDED = 0.15  # share of signs behind leaves or a post
SIZE_SPREAD = 0.5  # standard deviation of the logarithm of a sign's size

Box = NDArray[np.float64]
_UNIT = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])


@dataclass(frozen=True)
class SceneOptions:
    """What the images are like; lengths in native pixels."""

    side: int = 384  # height and width of an image
    signs: tuple[int, int] = (3, 8)  # (fewest, most) signs in an image
    sign_size: tuple[float, float] = (8.0, 64.0)  # (smallest, largest) longer side of a sign
    median_size: float = 24.0  # half of the signs are smaller
    distractors: int = 4  # the most sign-like things that are no signs
    empty: float = 0.02  # share of images without a sign


@dataclass(frozen=True, eq=False)
class Placed:
    """A sign in an image, or without a name what only looks like one; in native pixels."""

    name: str | None  # of its class
    sign: Sign
    corners: Box  # ``(4, 2)`` of its face
    box: Box  # ``(4,)`` xyxy


def draw_scene(options: SceneOptions, random: np.random.Generator) -> tuple[Pixels, list[Placed]]:
    """An image ``(side, side, 3)`` uint8 RGB and its signs, wholly inside."""
    side = options.side
    street = draw_street(OVERSAMPLING * side, random)
    image = np.asarray(cv2.resize(street, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    placed: list[Placed] = []
    for name, sign in _choose(options, random):
        if spot := _find_spot(sign, name, options, placed, random):
            placed.append(spot)
    for spot in placed:  # all posts first, so that none stands before a sign
        _post(image, spot.box, random)
    for spot in placed:
        _paint(image, spot.sign, spot.corners, random)
        if spot.name is not None and random.random() < OCCLUDED:
            _occlude(image, spot.box, random)
    signs = [replace(spot, box=np.round(spot.box, 2)) for spot in placed if spot.name is not None]
    return _photograph(image, random), signs


def _choose(options: SceneOptions, random: np.random.Generator) -> Iterator[tuple[str | None, Sign]]:
    blanks, kinds = distractors(), list(sign_kinds().items())
    for number in random.integers(len(blanks), size=random.integers(options.distractors + 1)):
        yield None, blanks[number]
    count = 0 if random.random() < options.empty else random.integers(options.signs[0], options.signs[1] + 1)
    for number in random.integers(len(kinds), size=count):
        yield kinds[number]


def _find_spot(
    sign: Sign, name: str | None, options: SceneOptions, others: list[Placed], random: np.random.Generator
) -> Placed | None:
    """A free place for `sign`, above the nearest part of the road; None when there is no room."""
    size = np.clip(options.median_size * np.exp(random.normal(0, SIZE_SPREAD)), *options.sign_size)
    square = _UNIT - 0.5
    angle = np.radians(random.normal(0, 4))  # turned a little, and seen from the side
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    squeezed = square * [random.uniform(0.78, 1.0), 1.0]
    far_side = 1 + random.uniform(-0.12, 0.12) * np.sign(square[:, :1])
    corners = float(size) * (squeezed * far_side) @ turn
    matrix = cv2.getPerspectiveTransform(_UNIT.astype(np.float32), corners.astype(np.float32))
    outline = np.asarray(cv2.perspectiveTransform(sign.outline[None].astype(np.float64), matrix)[0], np.float64)
    low, high = outline.min(axis=0), outline.max(axis=0)
    for _ in range(TRIES):
        room = options.side - (high - low) - 2
        shift = 1 + random.uniform([0, 0.08], [1, 0.7]) * room - low
        box = np.concatenate([low + shift, high + shift])
        if not any((box[:2] < b.box[2:] + GAP).all() and (b.box[:2] < box[2:] + GAP).all() for b in others):
            return Placed(name, sign, corners + shift, box)
    return None


def _paint(image: Pixels, sign: Sign, corners: Box, random: np.random.Generator) -> None:
    """Warp the face onto `corners`, weather and blur it, and lay it over the image."""
    start = np.floor(corners.min(axis=0)).astype(int) - 3
    end = np.ceil(corners.max(axis=0)).astype(int) + 3
    width, height = (end - start).tolist()
    fine, corners = SIGN_OVERSAMPLING, corners - start
    side = int(np.clip(fine * float(np.ptp(corners, axis=0).max()), 8, SIDE))  # shrunk first: a warp does not average
    face = cv2.resize(sign.face, (side, side), interpolation=cv2.INTER_AREA)
    # corners are edges of pixels, OpenCV's coordinates their centres: hence the halves
    source, target = ((points - 0.5).astype(np.float32) for points in (_UNIT * side, corners * fine))
    matrix = cv2.getPerspectiveTransform(source, target)
    warped = cv2.warpPerspective(face, matrix, (fine * width, fine * height), flags=cv2.INTER_LINEAR)
    patch = np.asarray(cv2.resize(warped, (width, height), interpolation=cv2.INTER_AREA), np.float32)
    tone = random.uniform(0.5, 1.08) * random.uniform(0.93, 1.07, 3)
    patch[..., :3] *= tone
    sigma = random.uniform(0, 0.75)
    if sigma > 0.2:
        patch = np.asarray(cv2.GaussianBlur(patch, (0, 0), sigma), np.float32)
    left, top = np.maximum(-start, 0)
    under = image[max(start[1], 0) : end[1], max(start[0], 0) : end[0]]
    patch = patch[top : top + under.shape[0], left : left + under.shape[1]]
    under[:] = (under * (1 - patch[..., 3:] / 255) + patch[..., :3]).clip(0, 255)


def _post(image: Pixels, box: Box, random: np.random.Generator) -> None:
    side, size = len(image), float(box[3] - box[1])
    x, bottom = round(float(box[0] + box[2]) / 2), round(float(box[3]))
    ground = max(bottom + random.uniform(1.2, 2.5) * size, random.uniform(0.62, 0.72) * side)
    thick, grey = max(1, round(0.08 * size)), round(random.uniform(70, 170))
    cv2.line(image, (x, bottom - thick), (x, round(ground)), (grey, grey, grey + 4), thick, cv2.LINE_AA)


def _occlude(image: Pixels, box: Box, random: np.random.Generator) -> None:
    """Cover up to about a third of the sign from one side, with leaves or a post."""
    width, height = box[2] - box[0], box[3] - box[1]
    side = random.choice([-1, 1])
    edge = (box[0] if side < 0 else box[2]) - side * random.uniform(0.1, 0.28) * width
    if random.random() < 0.4:
        thick = max(2, round(0.14 * float(width)))
        x, top = round(float(edge)), round(float(box[1] - height))
        bottom = round(max(float(box[3] + 2 * height), 0.7 * len(image)))
        cv2.line(image, (x, top), (x, bottom), (88, 90, 94), thick, cv2.LINE_AA)
        return
    mask = np.zeros(image.shape[:2], np.uint8)
    for _ in range(8):
        x = edge + side * random.uniform(0.15, 0.9) * width
        y = random.uniform(box[1] - 0.2 * height, box[3] + 0.2 * height)
        cv2.circle(mask, (round(float(x)), round(float(y))), max(1, round(0.18 * float(width))), 255, -1)
    foliage(image, mask > 0, random)


def _photograph(image: Pixels, random: np.random.Generator) -> Pixels:
    """Light, colour cast, a little blur and noise of the camera."""
    light = random.uniform(0.72, 1.12) * random.uniform(0.96, 1.04, 3)
    seen = 255 * (image.astype(np.float32) / 255) ** np.float32(random.uniform(0.85, 1.2)) * light.astype(np.float32)
    sigma = random.uniform(0, 0.6)
    if sigma > 0.25:
        seen = np.asarray(cv2.GaussianBlur(seen, (0, 0), sigma), np.float32)
    seen += random.standard_normal(seen.shape, np.float32) * np.float32(random.uniform(1, 5))
    return np.asarray(seen.clip(0, 255), np.uint8)
