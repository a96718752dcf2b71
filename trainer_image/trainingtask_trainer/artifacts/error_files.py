"""The files beside a saved model that show what it gets wrong."""

from collections.abc import Sequence
from pathlib import Path

from trainingtask_trainer.artifacts.error_file_names import ERRORS_PAGE, ISSUES_FILE, PREDICTIONS_FILE
from trainingtask_trainer.artifacts.errors_page import write_errors_page
from trainingtask_trainer.artifacts.label_issues import IssueReader, select_suspected, write_issues, write_label_studio
from trainingtask_trainer.artifacts.predictions import Metadata, write_predictions
from trainingtask_trainer.evaluation.label_errors import LabelErrorReport, PredictedRows


def write_error_files(
    folder: Path,
    name: str,
    metadata: Metadata,
    parts: Sequence[PredictedRows],
    report: LabelErrorReport,
    *,
    keep_texts: bool,
) -> None:
    """Write predictions, suspected labels and the page of mistakes into the folder of a model's files.

    Parameters
    ----------
    folder
        The folder.
    name
        Name of the task.
    metadata
        Names of the labels, and what identifies the test rows.
    parts
        The rows that the model was not trained on.
    report
        The mistakes in them.
    keep_texts
        Whether the files have the texts of the rows; without them Label Studio has nothing to show, and gets no files.
    """
    reader = IssueReader(metadata.labels, parts, keep_texts=keep_texts)
    suspected = select_suspected(report.mistakes)
    write_predictions(folder / PREDICTIONS_FILE, metadata, parts, keep_texts=keep_texts)
    write_issues(folder / ISSUES_FILE, reader.read(suspected), keep_texts=keep_texts)
    write_errors_page(folder / ERRORS_PAGE, name, report, reader)
    if keep_texts:
        write_label_studio(folder, name, suspected, reader)
