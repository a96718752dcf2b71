"""Names of the Helm release under test, its images, and the ConfigMap with variables of its trainers."""

import os

RELEASE = "trainingtask-operator"
SYSTEM = "trainingtask-system"
NAMESPACE = "trainingtask-test"
OPERATOR = f"deployment/{RELEASE}"
POSTGRES = f"statefulset/{RELEASE}-postgres"
STORE_SETTINGS = "store-settings"
IMAGES = {
    "TRAININGTASK_IMAGE_OPERATOR": "image",
    "TRAININGTASK_IMAGE_WEB": "web.image",
    "TRAININGTASK_IMAGE_TRAINER": "trainer.image",
    "TRAININGTASK_IMAGE_POSTGRES": "history.evaluation.image",
}


def get_image_options() -> list[str]:
    """Return helm's options that name the images of the environment; without those the chart's own are installed."""
    return [
        argument
        for variable, value in IMAGES.items()
        if variable in os.environ
        for repository, _, tag in [os.environ[variable].rpartition(":")]
        for argument in ("--set-string", f"{value}.repository={repository},{value}.tag={tag}")
    ]
