"""What can go wrong that the person at the keyboard can mend.

SimclrError
  ConfigError          a setting, or a pair of settings, makes no sense
  ImageError           no image found, or one that cannot be read
    TooLarge           more pixels than the limit
  ArtifactError        a file is missing, damaged, or of another kind or version
    EncoderMismatch    vectors and query come from different encoders
  TensorRTError        TensorRT refuses a file, or cannot build it here
  ExportMismatch       the exported model does not compute what the encoder computes
  MissingExtra         an optional package is absent; says the install line

Every message is one line: what was found, where, what to do.
"""


class SimclrError(Exception):
    """Base of everything a user can mend."""


class ConfigError(SimclrError):
    """A setting, or a pair of settings, makes no sense."""


class ImageError(SimclrError):
    """No image found, or one that cannot be read."""


class TooLarge(ImageError):
    """More pixels than the limit."""


class ArtifactError(SimclrError):
    """A file is missing, damaged, or of another kind or version."""


class EncoderMismatch(ArtifactError):
    """Vectors and query come from different encoders."""


class TensorRTError(SimclrError):
    """TensorRT refuses a file, or cannot build it here."""


class ExportMismatch(SimclrError):
    """The exported model does not compute what the encoder computes."""


class MissingExtra(SimclrError):
    """An optional package is absent."""

    def __init__(self, package: str, extra: str) -> None:
        super().__init__(f"{package} is not installed. Run: pip install 'simclr-toolkit[{extra}]'")
        self.package, self.extra = package, extra

    def __reduce__(self) -> tuple[type["MissingExtra"], tuple[str, str]]:
        """It goes from one process to another, too."""
        return type(self), (self.package, self.extra)


def reason(exc: BaseException) -> str:
    """What another library's exception says, on one line; its name where it says nothing."""
    lines = str(exc).strip().splitlines()
    return lines[0] if lines else type(exc).__name__
