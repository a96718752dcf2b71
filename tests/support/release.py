"""Names of the Helm release under test."""

RELEASE = "trainingtask-operator"
SYSTEM = "trainingtask-system"
NAMESPACE = "trainingtask-test"
OPERATOR = f"deployment/{RELEASE}"
POSTGRES = f"statefulset/{RELEASE}-postgres"
