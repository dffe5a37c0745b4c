"""The language of a document, by lingua's local model."""

from functools import cached_property
from typing import Any

from base.errors import UserError
from data.prepare.config import LanguageConfig


class Languages:
    """Drops documents of other languages, or of an unsure one.

    Raises:
      UserError: lingua is not installed, or does not know a code.
    """

    def __init__(self, config: LanguageConfig):
        """Choose among `config.among`; the model is loaded with the first document."""
        self._config = config
        self._keep = {code.lower() for code in config.keep}
        known = {language.iso_code_639_1.name.lower(): language for language in _all()}
        for name in ("keep", "among"):
            for code in getattr(config, name):
                if code.lower() not in known:
                    raise UserError(
                        f"config.prepare.language.{name}: {code!r} is no ISO 639-1 code that lingua knows; "
                        f"known: {', '.join(sorted(known))}"
                    )
        among = {code.lower() for code in config.among}
        if among and (lacking := sorted(self._keep - among)):
            raise UserError(
                f"config.prepare.language.among lacks {', '.join(lacking)} of config.prepare.language.keep, which no "
                "document would be; add them"
            )
        if len(among) == 1:
            raise UserError(
                "config.prepare.language.among has one language; name others to tell it from, or leave it empty"
            )

    def __call__(self, text: str) -> tuple[str, str]:
        """See `data.prepare.rules.Rule`."""
        chars = self._config.chars
        middle = max(0, (len(text) - chars) // 2) if chars else 0
        found = self._detector.compute_language_confidence_values(
            text[middle : middle + chars] if chars else text
        )
        code, probability = found[0].language.iso_code_639_1.name.lower(), found[0].value
        if code not in self._keep:
            return "", f"language {code}"
        return ("", "min_probability") if probability < self._config.min_probability else (text, "")

    @cached_property
    def _detector(self) -> Any:
        from lingua import LanguageDetectorBuilder

        among = {code.lower() for code in self._config.among}
        chosen = [one for one in _all() if not among or one.iso_code_639_1.name.lower() in among]
        return LanguageDetectorBuilder.from_languages(*chosen).build()

    def __getstate__(self) -> dict[str, Any]:
        """Without the model, which no process can send to another."""
        return {name: value for name, value in self.__dict__.items() if name != "_detector"}


def _all() -> Any:
    try:
        from lingua import Language
    except ImportError:
        raise UserError(
            "config.prepare.steps has 'language', which needs lingua; install it: pip install 'unmask[prepare]'"
        ) from None
    return sorted(Language.all(), key=lambda one: one.name)
