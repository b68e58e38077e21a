"""Sources -> a store that is in step with them. No faiss, no decoding.

What the store already has, by path, size and stamp, is not touched. Of the rest each file is read: content that the store
has under another path is taken over with its vector, so that moved and copied files are not embedded again. What is gone
is dropped. Shards are written whole; a kill loses at most one.
"""

from collections.abc import Sequence
from pathlib import Path

from simclr.embed.carry_out import Progress, Report, carry_out
from simclr.embed.skips import Skips
from simclr.embed.survey import EVERYTHING, Selection, folders_of, look, refuse_nesting
from simclr.embed.tasks import Embeds
from simclr.embed.writer import writing
from simclr.sources import Note
from simclr.stopping import stop_requests


def embed_sources(
    sources: Sequence[str | Path],
    store: str | Path,
    lane: Embeds,
    *,
    model: Path,
    selection: Selection = EVERYTHING,
    progress: Progress = lambda done, total, words: None,
    note: Note = lambda line: None,
) -> Report:
    """Bring the store in step with the sources: embed new and changed images, drop rows whose image is gone.

    `sources` are words as `sources.take_inventory` takes them: folders, lists, tars, ... Rows of other sources are kept. A
    bad file never stops a run: it is in `skipped.csv`. `model` is the encoder's export folder, of which a new store keeps a
    copy. Ctrl-C or SIGTERM commits what is done and raises KeyboardInterrupt.

    Raises ImageError (a source is missing or holds no image; nothing is dropped then), ConfigError (one folder lies in
    another), EncoderMismatch, ArtifactError.
    """
    words = [str(source) for source in sources]
    refuse_nesting(folders_of(words))
    with writing(store, model=model, identity=lane.identity, width=lane.width) as writer:
        skips = Skips(writer.folder)
        try:
            plan = look(words, writer.store, selection, skips, note=note)
            writer.add_sources(plan.sources)
            with stop_requests() as stop:
                report = carry_out(plan, writer, lane, skips, progress=progress, stopped=stop.is_set)
            skips.publish()
        finally:
            skips.discard()
    return report
