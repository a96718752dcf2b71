"""Names of the files beside a saved model that show what it gets wrong; a prediction needs none of them."""

from typing import Final

PREDICTIONS_FILE: Final = "predictions.parquet"
ISSUES_FILE: Final = "label-issues.csv"
ERRORS_PAGE: Final = "errors.html"
LABEL_STUDIO_FILE: Final = "label-studio.json"
LABEL_STUDIO_CONFIG: Final = "label-studio.xml"
ERROR_FILES: Final = (PREDICTIONS_FILE, ISSUES_FILE, ERRORS_PAGE, LABEL_STUDIO_FILE, LABEL_STUDIO_CONFIG)
