"""Write the generated page on dialects: ``python -m tests.tools.dialects``."""

from pathlib import Path

from service.dialects import DIALECTS
from service.dialects.failure_table import document

PAGE = Path(__file__).parents[2] / "docs" / "dialects" / "reference.md"

if __name__ == "__main__":
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(document(DIALECTS), encoding="utf-8")
    print(f"wrote {PAGE.name}")
