"""What every sandbox has from its first moment: imported, and read, once for all of them."""

from pipelines.dicom import convert  # noqa: F401
from pipelines.scans import vocabulary

vocabulary.default()
