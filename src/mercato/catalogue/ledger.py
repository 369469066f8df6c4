"""The ledger of an index's generations: where the run lies that made one, and which of them know all that was written.

A generation that takes every job of the outbox is *followed*. One that lapsed, or is new, has missed some: they are put
in the outbox again as it is followed anew: those that came after its products were read.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson

from mercato.catalogue.fingerprints import run_fingerprint
from mercato.catalogue.store import Catalogue
from mercato.errors import MercatoError

FOLLOWED = "followed generations"  # the setting: {fingerprint: the last write when it began}
SERVING = "serving generation"


class GenerationLedger:
    """What a catalogue's settings hold of generations, which are known by their fingerprints."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue, self._settings, self._outbox = catalogue, catalogue.settings, catalogue.outbox

    def note_run(self, run: Path) -> str:
        """Remember where a run lies; returns the first word of the fingerprints of what it makes."""
        made_by = run_fingerprint(run)
        self._settings.set(run_setting(made_by), str(run.absolute()))
        return made_by

    def run_of(self, fingerprint: str) -> Path:
        """The folder of the run that made a generation.

        Raises:
            MercatoError: nobody has noted where it lies, or it does not lie there any more.
        """
        made_by = fingerprint.split(" ")[0]
        return check_run(made_by, self._settings.get(run_setting(made_by)))

    def note_read(self, fingerprint: str, number: int, left_out: Sequence[str] = ()) -> None:
        """Remember the last write when the products of a generation were read, and which of them it was made without.

        The latter may have failed for a moment only: they are tried again as it is followed.
        """
        self._settings.set(f"read {fingerprint}", orjson.dumps([number, [*left_out]]).decode())

    def note_copied(self, fingerprint: str, number: int | None, waiting: Sequence[str]) -> None:
        """Say of a catalogue that was copied a moment after its index what that may lack: it is brought there anew.

        That is what was written after the write `number`, and those products that waited by then. None: the generation
        was not followed then, and what was noted as it was built still holds.
        """
        self.lapse([])
        if number is not None:
            self.note_read(fingerprint, number, waiting)

    def note_serving(self, fingerprint: str) -> None:
        """Remember what answers now, for processes that begin meanwhile."""
        if fingerprint != self.serving():
            self._settings.set(SERVING, fingerprint)

    def serving(self) -> str | None:
        """What `note_serving` noted last, by whichever process."""
        return self._settings.get(SERVING)

    def lapse(self, fingerprints: Sequence[str]) -> None:
        """From now on none but these is followed; call it before a job is done without one that was."""
        followed = self._followed()
        kept = {name: began for name, began in followed.items() if name in fingerprints}
        if kept != followed:
            self._set_followed(kept)

    def follow(self, fingerprints: Sequence[str]) -> None:
        """From now on these are followed; call it once every job is done for all of them."""
        followed = self._followed()
        for name in fingerprints:
            if name not in followed:
                number, left_out = orjson.loads(self._settings.get(f"read {name}") or "[0, []]")
                self._outbox.replay(after=number)
                self._outbox.put_again(left_out)
                self._set_followed(followed := followed | {name: self._catalogue.last_number()})

    def is_followed(self, fingerprint: str) -> bool:
        """Whether it takes every job, or will as soon as its server works."""
        return fingerprint in self._followed()

    def is_up_to_date(self, fingerprint: str) -> bool:
        """Whether it is followed, and holds all that was written before that."""
        began = self._followed().get(fingerprint)
        oldest = self._outbox.oldest()
        return began is not None and (oldest is None or oldest > began)

    def refuse(self, fingerprint: str, why: str | None) -> None:
        """Note why the server cannot open a generation; None: it can."""
        if why != self.refusal(fingerprint):
            self._settings.set(f"refused {fingerprint}", why or "")

    def refusal(self, fingerprint: str) -> str | None:
        """What `refuse` noted."""
        return self._settings.get(f"refused {fingerprint}") or None

    def _followed(self) -> dict[str, int]:
        stored = self._settings.get(FOLLOWED)
        return orjson.loads(stored) if stored else {}

    def _set_followed(self, followed: dict[str, int]) -> None:
        self._settings.set(FOLLOWED, orjson.dumps(followed).decode())


def run_setting(made_by: str) -> str:
    """The setting that says where a run lies."""
    return f"run {made_by}"


def check_run(made_by: str, noted: str | None) -> Path:
    """The folder that was noted for a run.

    Raises:
        MercatoError: there is none, or the run does not lie there any more.
    """
    if noted is None:
        raise MercatoError(f"the run {made_by} that made its vectors is unknown: serve or backfill with it once")
    try:
        if run_fingerprint(Path(noted)) == made_by:
            return Path(noted)
    except MercatoError:
        pass
    raise MercatoError(f"the run {made_by} that made its vectors is not at {noted} any more: put it back there")
