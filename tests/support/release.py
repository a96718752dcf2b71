"""Names of the Helm release under test, and of the ConfigMap with variables of its trainers."""

RELEASE = "trainingtask-operator"
SYSTEM = "trainingtask-system"
NAMESPACE = "trainingtask-test"
OPERATOR = f"deployment/{RELEASE}"
POSTGRES = f"statefulset/{RELEASE}-postgres"
STORE_SETTINGS = "store-settings"
