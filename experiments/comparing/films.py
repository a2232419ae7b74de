"""Films of runs: several side by side, and those that a page shows. They are made of the runs' own films."""

import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageDraw, ImageFont, ImageSequence

from experiments.comparing.loading import read_without_metrics, sort_into_cells
from experiments.comparing.panels import task_title
from experiments.comparing.runs import MEAN_RETURN, Run, Runs
from experiments.console.messages import shorten
from remac.files import write_whole

T = TypeVar("T")
FILM = "video.gif"  # in a run directory, as ``experiments.evaluate`` writes it
MOST_TILES = 16
TITLE_HEIGHT = 22  # pixels
_FRAME_MS = 40


def choose(returns: Mapping[Path, float]) -> tuple[dict[Path, str], str]:
    """Chooses runs to show side by side, and names them as figures do.

    Args:
        returns: Of each run that has a film, by its directory.

    Returns:
        The titles of all runs, or of more than ``MOST_TILES`` of the one of each arm with the median return; and what
        was left out, in words.
    """
    runs = [run for directory in returns if (run := read_without_metrics(directory, [])) is not None]
    cells = sort_into_cells(runs, [], keep_duplicates=True)
    many_tasks = len({cell.task for cell in cells}) > 1
    titles = {}
    for cell in cells:
        shown = list(cell.runs)
        if len(runs) > MOST_TILES:
            shown = [_median(sorted(shown, key=lambda run: returns[run.directory]))]
        for run in shown:
            seed = f"seed {run.seed}" if len(cell.runs) > 1 else ""
            parts = (task_title(cell.task) if many_tasks else "", cell.title, seed)
            titles[run.directory] = ", ".join(filter(None, parts))
    left_out = "" if len(titles) == len(runs) else ", of each arm the seed with the median return"
    if len(titles) > MOST_TILES:
        left_out += f", the first {MOST_TILES} of {len(titles)}"
    return dict(list(titles.items())[:MOST_TILES]), left_out


def _median(ordered: Sequence[T]) -> T:
    return ordered[(len(ordered) - 1) // 2]


def side_by_side(titles: Mapping[Path, str], file: Path) -> float:
    """Makes one GIF of the films of several runs, each with its title above it; an episode that ends first stays.

    Args:
        titles: Of each run, by its directory, which has a film.
        file: The GIF.

    Returns:
        How many seconds it lasts.

    Raises:
        OSError: If a film cannot be read, or the file not be written.
    """
    sizes, milliseconds = [], []
    for directory in titles:
        with Image.open(directory / FILM) as film:
            sizes.append(film.size)
            milliseconds.append(sum(frame.info["duration"] for frame in ImageSequence.Iterator(film)))
    width, height = (max(lengths) for lengths in zip(*sizes, strict=True))
    columns = math.ceil(math.sqrt(len(titles)))
    rows = math.ceil(len(titles) / columns)
    players = [_play(directory / FILM) for directory in titles]
    font = ImageFont.load_default(13)

    def draw(time: int) -> Image.Image:
        picture = Image.new("RGB", (columns * width, rows * (height + TITLE_HEIGHT)), "white")
        pen = ImageDraw.Draw(picture)
        for number, (title, player, end) in enumerate(zip(titles.values(), players, milliseconds, strict=True)):
            left, top = number % columns * width, number // columns * (height + TITLE_HEIGHT)
            picture.paste(next(player), (left, top + TITLE_HEIGHT))
            has_ended = time >= end
            shown = shorten(title, max(10, width // 7 - 8)) + (" (over)" if has_ended else "")
            pen.text((left + 5, top + 3), shown, fill="#777777" if has_ended else "black", font=font)
        return picture

    times = range(0, max(milliseconds), _FRAME_MS)
    content = io.BytesIO()
    others = (draw(time) for time in times[1:])
    draw(0).save(content, "GIF", save_all=True, append_images=others, duration=_FRAME_MS, loop=0)
    write_whole(file, content.getvalue())
    return len(times) * _FRAME_MS / 1000


def _play(path: Path) -> Iterator[Image.Image]:
    """Yields what a film shows every ``_FRAME_MS``, in the end its last picture for ever."""
    with Image.open(path) as film:
        frame, now, end = film.convert("RGB"), 0, 0
        for part in ImageSequence.Iterator(film):
            frame, end = part.convert("RGB"), end + part.info["duration"]
            while now < end:
                yield frame
                now += _FRAME_MS
    while True:
        yield frame


def best_and_median(runs: Runs) -> list[tuple[str, Run, str, float]]:
    """Returns of each task the finished run with the highest final return, and the median one.

    Returns:
        For each which one it is, the run, its title and its final return, the mean action's over the last tenth.
    """
    chosen = []
    for task in runs.tasks:
        finals = [(cell, run, run.final(MEAN_RETURN)) for cell in runs.on(task) for run in cell.finished]
        ordered = sorted((one for one in finals if math.isfinite(one[2])), key=lambda one: one[2])
        if not ordered:
            continue
        for which, (cell, run, value) in (("best", ordered[-1]), ("median", _median(ordered))):
            chosen.append((which, run, f"{task_title(task)}, {cell.title}, seed {run.seed}", value))
    return chosen


def as_webp(path: Path) -> bytes:
    """Returns a film in the format that takes the least room in a page.

    Raises:
        OSError: If it cannot be read.
    """
    with Image.open(path) as film:
        frames = [(frame.convert("RGB"), frame.info["duration"]) for frame in ImageSequence.Iterator(film)]
    content = io.BytesIO()
    (first, _), *others = frames
    first.save(
        content,
        "WEBP",
        save_all=True,
        append_images=[frame for frame, _ in others],
        duration=[milliseconds for _, milliseconds in frames],
        loop=0,
        quality=50,
        method=2,
    )
    return content.getvalue()
